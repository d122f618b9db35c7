"""The mesh's root certificate in every namespace, as ConfigMap ``istio-ca-root-cert``.

Proxies mount it to know istiod; without it in its namespace a waypoint cannot start. Whoever deletes or edits one gets
it back.
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

NAME: Final = "istio-ca-root-cert"
KEY: Final = "root-cert.pem"
_FORBIDDEN_PAUSE: Final = 30.0
_LABELS: Final = {"istio.io/config": "true"}


class RootPublisher:
    """Keeps the ConfigMap of every namespace equal to ``root_pem``. Run the two informers beside ``run``."""

    def __init__(
        self,
        client: Client,
        namespaces: Informer[Namespace],
        root_pem: str,
        config_maps: Informer[ConfigMap] | None = None,
    ) -> None:
        self._client = client
        self._root_pem = root_pem
        self._namespaces = namespaces
        self.config_maps = config_maps or Informer(client, CONFIG_MAPS, field_selector=f"metadata.name={NAME}")
        self._queue: WorkQueue[str] = WorkQueue()
        namespaces.on_change(self._namespace_changed)
        self.config_maps.on_change(self._config_map_changed)

    def _namespace_changed(self, change: Change[Namespace]) -> None:
        if change.new is not None and change.old is None:
            self._queue.add(change.key[1])

    def _config_map_changed(self, change: Change[ConfigMap]) -> None:
        if change.key[1] == NAME:
            self._queue.add(change.key[0])

    def republish(self, root_pem: str) -> None:
        """There is another root: tell every namespace."""
        self._root_pem = root_pem
        for _, namespace in self._namespaces.store:
            self._queue.add(namespace)

    async def run(self) -> None:
        """Publish until cancelled."""
        await self._namespaces.synced()
        await self.config_maps.synced()
        await self._queue.work(self._reconcile, workers=4)

    async def _reconcile(self, namespace: str) -> float | None:
        known = self._namespaces.store.get(("", namespace))
        if known is None or known.metadata.deletion_timestamp:
            return None
        found = self.config_maps.store.get((namespace, NAME))
        if found is not None and found.data == {KEY: self._root_pem}:
            return None
        try:
            await self._write(namespace, exists=found is not None)
        except Forbidden as error:
            # A namespace that is just being deleted answers so too, so this is no reason to hurry.
            _log.warning("root_not_published", config_map=f"{namespace}/{NAME}", reason=str(error))
            return _FORBIDDEN_PAUSE
        return None

    async def _write(self, namespace: str, *, exists: bool) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": NAME, "namespace": namespace, "labels": _LABELS},
            "data": {KEY: self._root_pem},
        }
        if exists:
            await self._client.replace(CONFIG_MAPS, body)
            return
        try:
            await self._client.create(CONFIG_MAPS, body, namespace)
        except AlreadyExists:
            # The copy is behind; what is there is looked at when it catches up.
            return
