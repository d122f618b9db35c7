"""The ConfigMaps, Secrets and tokens that pods refer to: fetched when a pod starts, followed while it runs.

Each object is watched by its name, and only while a pod of this node uses it, as a node may see no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tulle.cluster.node.pods.spec import Pod
from tulle.kube.client import Client
from tulle.kube.errors import NotFound
from tulle.kube.informer import Informer
from tulle.kube.resources import Resource, untyped

CONFIG_MAPS = untyped("", "v1", "configmaps", "ConfigMap", True)
SECRETS = untyped("", "v1", "secrets", "Secret", True)
SERVICE_ACCOUNTS = untyped("", "v1", "serviceaccounts", "ServiceAccount", True)

_RESOURCES: Mapping[str, Resource[dict[str, Any]]] = {"ConfigMap": CONFIG_MAPS, "Secret": SECRETS}

Key = tuple[str, str, str]
"""kind, namespace, name"""

ROTATE_AT = 0.8
"""The part of a token's life after which it is replaced."""


@dataclass
class _Followed:
    informer: Informer[dict[str, Any]]
    task: asyncio.Task[None]
    users: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Token:
    value: str
    rotate_at: float


class ObjectCache:
    """Objects by kind, namespace and name. `on_change` gets the uid of every pod that uses an object that changed."""

    def __init__(self, client: Client, on_change: Callable[[str], None]) -> None:
        self._client = client
        self._on_change = on_change
        self._followed: dict[Key, _Followed] = {}
        self._tokens: dict[tuple[str, str, int], Token] = {}

    async def get(self, uid: str, kind: str, namespace: str, name: str) -> Mapping[str, Any] | None:
        """The object, or None if it does not exist. The pod `uid` is told of its changes from now on. Raises
        ApiError.
        """
        followed = self._follow(uid, (kind, namespace, name))
        if followed.informer.has_synced:
            return followed.informer.store.get((namespace, name))
        with contextlib.suppress(NotFound):
            return await self._client.get(_RESOURCES[kind], name, namespace)
        return None

    def _follow(self, uid: str, key: Key) -> _Followed:
        followed = self._followed.get(key)
        if followed is None:
            kind, namespace, name = key
            informer = Informer(self._client, _RESOURCES[kind], namespace, field_selector=f"metadata.name={name}")
            informer.on_change(lambda _change: self._changed(key))
            followed = _Followed(
                informer, asyncio.create_task(informer.run(), name=f"follow {kind} {namespace}/{name}")
            )
            self._followed[key] = followed
        followed.users.add(uid)
        return followed

    def _changed(self, key: Key) -> None:
        followed = self._followed.get(key)
        if followed is not None and followed.informer.has_synced:
            for uid in followed.users:
                self._on_change(uid)

    def release(self, uid: str) -> None:
        """The pod is gone: stop following what nobody else uses, forget its tokens."""
        for key, followed in list(self._followed.items()):
            followed.users.discard(uid)
            if not followed.users:
                followed.task.cancel()
                del self._followed[key]
        for token in [t for t in self._tokens if t[0] == uid]:
            del self._tokens[token]

    async def token(self, pod: Pod, audience: str, seconds: int) -> Token:
        """A service-account token bound to the pod; a new one once ROTATE_AT of its life is over. Raises ApiError."""
        key = (pod.metadata.uid, audience, seconds)
        known = self._tokens.get(key)
        now = time.time()
        if known is not None and now < known.rotate_at:
            return known
        bound = {"kind": "Pod", "apiVersion": "v1", "name": pod.metadata.name, "uid": pod.metadata.uid}
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {
                "audiences": [audience] if audience else [],
                "expirationSeconds": seconds,
                "boundObjectRef": bound,
            },
        }
        path = SERVICE_ACCOUNTS.path(pod.metadata.namespace, pod.spec.service_account_name, "token")
        answer = msgspec.json.decode(await self._client.raw("POST", path, msgspec.json.encode(body)))
        token = Token(answer["status"]["token"], now + seconds * ROTATE_AT)
        self._tokens[key] = token
        return token

    async def close(self) -> None:
        for followed in self._followed.values():
            followed.task.cancel()
        self._followed.clear()
