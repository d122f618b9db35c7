"""What every proxy must have in its namespace, as a ConfigMap: the mesh's root certificate, and revocation lists.

Proxies mount them to know istiod, and whom not to believe; without the root in its namespace a waypoint cannot start.
Whoever deletes or edits one gets it back.
"""

from __future__ import annotations

from typing import Final

import structlog

from tulle.kube.client import Client
from tulle.kube.errors import AlreadyExists, Forbidden
from tulle.kube.informer import Change, Informer
from tulle.kube.objects import ConfigMap, Namespace
from tulle.kube.queue import WorkQueue
from tulle.kube.resources import CONFIG_MAPS

_log = structlog.get_logger(__name__)

ROOT: Final = ("istio-ca-root-cert", "root-cert.pem")
REVOCATIONS: Final = ("istio-ca-crl", "ca-crl.pem")
_FORBIDDEN_PAUSE: Final = 30.0
_LABELS: Final = {"istio.io/config": "true"}


class ConfigMapPublisher:
    """Keeps one ConfigMap of every namespace equal to ``text`` under one key; ``name`` is both their names.

    While there is no text, none is made, and what was made before is emptied. Run the two informers beside ``run``.
    """

    def __init__(
        self,
        client: Client,
        namespaces: Informer[Namespace],
        name: tuple[str, str],
        text: str | None = None,
        config_maps: Informer[ConfigMap] | None = None,
    ) -> None:
        self._client = client
        self._name, self._key = name
        self._text = text
        self._namespaces = namespaces
        self.config_maps = config_maps or Informer(client, CONFIG_MAPS, field_selector=f"metadata.name={self._name}")
        self._queue: WorkQueue[str] = WorkQueue()
        namespaces.on_change(self._namespace_changed)
        self.config_maps.on_change(self._config_map_changed)

    def republish(self, text: str | None) -> None:
        """There is another text: tell every namespace."""
        if text == self._text:
            return
        self._text = text
        for _, namespace in self._namespaces.store:
            self._queue.add(namespace)

    def _namespace_changed(self, change: Change[Namespace]) -> None:
        if change.new is not None and change.old is None:
            self._queue.add(change.key[1])

    def _config_map_changed(self, change: Change[ConfigMap]) -> None:
        if change.key[1] == self._name:
            self._queue.add(change.key[0])

    @property
    def _data(self) -> dict[str, str]:
        return {self._key: self._text or ""}

    async def run(self) -> None:
        """Publish until cancelled."""
        await self._namespaces.synced()
        await self.config_maps.synced()
        await self._queue.work(self._reconcile, workers=4)

    async def _reconcile(self, namespace: str) -> float | None:
        known = self._namespaces.store.get(("", namespace))
        if known is None or known.metadata.deletion_timestamp:
            return None
        found = self.config_maps.store.get((namespace, self._name))
        if (found is None and self._text is None) or (found is not None and found.data == self._data):
            return None
        try:
            await self._write(namespace, exists=found is not None)
        except Forbidden as error:
            # A namespace that is just being deleted answers so too, so this is no reason to hurry.
            _log.warning("not_published", config_map=f"{namespace}/{self._name}", reason=str(error))
            return _FORBIDDEN_PAUSE
        return None

    async def _write(self, namespace: str, *, exists: bool) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": self._name, "namespace": namespace, "labels": _LABELS},
            "data": self._data,
        }
        if exists:
            await self._client.replace(CONFIG_MAPS, body)
            return
        try:
            await self._client.create(CONFIG_MAPS, body, namespace)
        except AlreadyExists:
            # The copy is behind; what is there is looked at when it catches up.
            return
