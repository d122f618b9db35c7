"""Pods that nobody will ever finish: on a node that no longer exists, or deleted before they got a node.

The kubelet removes a deleted pod when its processes are gone; without a kubelet it would stay for ever.
"""

import time
from collections.abc import Callable

from tulle.cluster.controllers.caches import Context, Subscriptions
from tulle.kube import Change, NotFound, WorkQueue
from tulle.kube.informer import Key
from tulle.kube.objects import Node, Pod
from tulle.kube.resources import NODES, PODS


class PodGarbageCollector:
    """Removes such pods. ``quarantine_seconds``: how long a node must be away."""

    name = "pod-garbage-collector"

    def __init__(
        self, context: Context, quarantine_seconds: float = 40.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = context.client
        self._caches = context.caches
        self._queue: WorkQueue[Key] = WorkQueue("Pod")
        self._quarantine = quarantine_seconds
        self._clock = clock
        self._missing_since: dict[str, float] = {}

    async def run(self) -> None:
        """Works until cancelled."""
        handlers = Subscriptions()
        try:
            await self._caches.synced(self._caches.nodes, self._caches.pods)
            handlers.on(self._caches.nodes, self._on_node)
            handlers.on(self._caches.pods, self._on_pod)
            await self._queue.work(self.reconcile)
        finally:
            handlers.close()

    def _on_node(self, change: Change[Node]) -> None:
        if change.new is not None:
            self._missing_since.pop(change.key[1], None)
            return
        for key, pod in self._caches.pods.store.items():
            if pod.spec.node_name == change.key[1]:
                self._queue.add(key)

    def _on_pod(self, change: Change[Pod]) -> None:
        pod = change.new
        if pod is not None and (self._is_stranded(pod) or self._is_orphaned(pod)):
            self._queue.add(change.key)

    def _is_orphaned(self, pod: Pod) -> bool:
        return bool(pod.spec.node_name) and ("", pod.spec.node_name) not in self._caches.nodes.store

    @staticmethod
    def _is_stranded(pod: Pod) -> bool:
        return bool(pod.metadata.deletion_timestamp) and not pod.spec.node_name

    async def reconcile(self, key: Key) -> float | None:
        """Removes one pod if it is due; returns when to look again."""
        pod = self._caches.pods.store.get(key)
        if pod is None:
            return None
        if self._is_orphaned(pod):
            since = self._missing_since.setdefault(pod.spec.node_name, self._clock())
            left = self._quarantine - (self._clock() - since)
            if left > 0:
                return left
            if await self._node_exists(pod.spec.node_name):
                return None
        elif not self._is_stranded(pod):
            return None
        await self._remove(pod)
        return None

    async def _node_exists(self, name: str) -> bool:
        """Asked live, because a cache may lag and the deletion is without mercy."""
        try:
            await self._client.get(NODES, name)
        except NotFound:
            return False
        return True

    async def _remove(self, pod: Pod) -> None:
        meta = pod.metadata
        try:
            if pod.status.phase not in ("Succeeded", "Failed"):
                body = {"metadata": {"uid": meta.uid}, "status": {"phase": "Failed"}}
                await self._client.patch(PODS, meta.name, body, meta.namespace, subresource="status")
            await self._client.delete(PODS, meta.name, meta.namespace, uid=meta.uid, grace_period=0)
        except NotFound:
            return
