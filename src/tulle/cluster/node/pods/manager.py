"""All pods of the node: a worker for each pod that the API server assigned here, and an end for each that it does not
know any more.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog

from tulle.cluster.node.pods import ending, spec
from tulle.cluster.node.pods.node import Node
from tulle.cluster.node.pods.publisher import PODS
from tulle.cluster.node.pods.runs import Run
from tulle.cluster.node.pods.worker import PodWorker
from tulle.cluster.node.runtime.records import Status
from tulle.cluster.node.runtime.shim.client import ShimError
from tulle.cluster.node.seams import NetworkError, PodRef
from tulle.kube.informer import Change, Informer

log = structlog.get_logger("tulle.node.pods")


class PodManager:
    """Follows the node's pods. `attach` it to a node before `run`."""

    def __init__(self) -> None:
        self.workers: dict[str, PodWorker] = {}
        self._node: Node | None = None
        self._informer: Informer[dict[str, Any]] | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def attach(self, node: Node) -> None:
        self._node = node
        self._informer = Informer(node.client, PODS, field_selector=f"spec.nodeName={node.name}")

    # News

    def container_ended(self, status: Status) -> None:
        """Hand the runtime's news to the pod's worker."""
        worker = self.workers.get(status.record.pod_uid)
        if worker is not None:
            worker.container_ended(status)

    def sources_changed(self, uid: str) -> None:
        worker = self.workers.get(uid)
        if worker is not None:
            worker.sources_changed()

    # Looking up, for the kubelet's server

    def find(self, namespace: str, name: str) -> PodWorker | None:
        """The worker of a pod by name: the one that is there now, not one that is going away under the same name."""
        found = [
            w for w in self.workers.values() if (w.pod.metadata.namespace, w.pod.metadata.name) == (namespace, name)
        ]
        return min(found, key=lambda w: w.gone, default=None)

    def documents(self) -> list[Mapping[str, Any]]:
        """The pods as the API server sent them."""
        return list(self._informer.store.values()) if self._informer is not None else []

    # Running

    async def run(self) -> None:
        """Follow the pods until cancelled; the containers stay when this ends."""
        assert self._node is not None
        assert self._informer is not None
        informer = self._informer
        following = asyncio.create_task(informer.run(), name="pods of this node")
        try:
            await informer.synced()
            informer.on_change(self._changed)
            await self._end_orphans()
            await following
        finally:
            following.cancel()
            for worker in self.workers.values():
                await worker.close()
            for task in self._tasks.values():
                task.cancel()

    async def recover(self) -> None:
        """The shim died and a new one has taken over: its containers are reported as ended."""
        assert self._node is not None
        for status in list(self._node.runtime.statuses.values()):
            if status.exit is not None:
                self.container_ended(status)

    def _changed(self, change: Change[dict[str, Any]]) -> None:
        if change.new is None:
            assert change.old is not None
            worker = self.workers.get(change.old["metadata"]["uid"])
            if worker is not None:
                worker.removed()
            return
        try:
            pod = spec.parse(change.new)
        except msgspec.ValidationError as error:
            log.error("pod cannot be read", pod="/".join(change.key), error=str(error))
            return
        worker = self.workers.get(pod.metadata.uid)
        if worker is not None:
            worker.update(pod)
        else:
            self._add(pod)

    def _add(self, pod: spec.Pod) -> None:
        assert self._node is not None
        uid = pod.metadata.uid
        over = pod.status.get("phase") in {"Succeeded", "Failed"}
        mine = [s for s in self._node.runtime.statuses.values() if s.record.pod_uid == uid]
        if over and not mine and pod.metadata.deletion_timestamp is None:
            return  # it ended here before, and nothing is left of it but its status
        worker = PodWorker(self._node, pod, mine)
        self.workers[uid] = worker
        task = asyncio.create_task(worker.run(), name=f"pod {pod.ref}")
        self._tasks[uid] = task
        task.add_done_callback(lambda done: self._worker_done(uid, done))

    def _worker_done(self, uid: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(uid, None)
        worker = self.workers.pop(uid, None)
        if task.cancelled() or worker is None:
            return
        if task.exception() is not None:
            # a fault here must not cost the pod: its worker starts anew from what is known, a little later
            log.error("pod worker failed", pod=str(worker.pod.ref), exc_info=task.exception())
            asyncio.get_running_loop().call_later(5.0, self._revive, worker)

    def _revive(self, worker: PodWorker) -> None:
        document = (
            self._informer.store.get((worker.pod.metadata.namespace, worker.pod.metadata.name))
            if self._informer
            else None
        )
        if document is not None and document["metadata"]["uid"] == worker.pod.metadata.uid:
            self._add(spec.parse(document))
        else:  # it was deleted meanwhile, and nobody else ends what is left of it
            uid = worker.pod.metadata.uid
            task = asyncio.create_task(self._clean(worker.pod.ref), name=f"end of pod {worker.pod.ref}")
            self._tasks[uid] = task
            task.add_done_callback(lambda _: self._tasks.pop(uid, None))

    async def _end_orphans(self) -> None:
        """Containers of pods that were deleted while this process was not there."""
        assert self._node is not None
        assert self._informer is not None
        known = {document["metadata"]["uid"] for document in self._informer.store.values()}
        left: dict[str, PodRef] = {}
        for status in self._node.runtime.statuses.values():
            record = status.record
            if record.pod_uid not in known:
                left[record.pod_uid] = PodRef(record.pod_namespace, record.pod_name, record.pod_uid)
        for ref in left.values():
            await self._clean(ref)

    async def _clean(self, ref: PodRef) -> None:
        assert self._node is not None
        log.info("ending a pod that the API server does not know", pod=str(ref))
        with contextlib.suppress(ShimError, OSError, NetworkError):
            await ending.clean(self._node, ref)

    def running(self, namespace: str, name: str, container: str) -> Run | None:
        """The current run of a container, if there is one."""
        worker = self.find(namespace, name)
        known = worker.runs.get(container) if worker is not None else None
        return known.current if known is not None else None
