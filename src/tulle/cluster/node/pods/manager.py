"""All pods of the node: a worker for each pod that the API server assigned here, and an end for each that it does not
know any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any

import structlog

from tulle.cluster.node.pods import ending, spec
from tulle.cluster.node.pods.node import Node
from tulle.cluster.node.pods.publisher import PODS
from tulle.cluster.node.pods.runs import Run
from tulle.cluster.node.pods.worker import PodWorker
from tulle.cluster.node.runtime.records import Status
from tulle.cluster.node.seams import PodRef
from tulle.kube.informer import Change, Informer
from tulle.kube.objects.meta import ObjectReference

AGAIN = 5.0
"""Seconds until what failed for one pod is tried again."""

log = structlog.get_logger("tulle.node.pods")


class PodManager:
    """Follows the node's pods. `attach` it to a node before `run`."""

    def __init__(self) -> None:
        self.workers: dict[str, PodWorker] = {}
        self._node: Node | None = None
        self._informer: Informer[dict[str, Any]] | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._untaken: dict[str, dict[str, Any]] = {}

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
            informer.on_change(self.changed)
            self._end_orphans()
            await following
        finally:
            following.cancel()
            await self.close()

    async def close(self) -> None:
        """The node process ends: leave the pods as they are."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for worker in self.workers.values():
            await worker.close()

    async def recover(self) -> None:
        """The shim died and a new one has taken over: its containers are reported as ended."""
        assert self._node is not None
        for status in list(self._node.runtime.statuses.values()):
            if status.exit is not None:
                self.container_ended(status)

    def changed(self, change: Change[dict[str, Any]]) -> None:
        """A pod of this node came, changed or went. One that cannot be taken on costs no other pod anything."""
        uid = (change.new or change.old or {})["metadata"]["uid"]
        if change.new is None:
            self._untaken.pop(uid, None)
            worker = self.workers.get(uid)
            if worker is not None:
                worker.removed()
        else:
            self._untaken[uid] = change.new
            self._take(uid, change.new)

    def _take(self, uid: str, document: dict[str, Any]) -> None:
        if self._untaken.get(uid) is not document:
            return  # there is newer news
        try:
            self._follow(uid, spec.parse(document))
        except Exception as error:
            meta = document["metadata"]
            name, namespace = meta.get("name", ""), meta.get("namespace", "")
            log.exception("pod not taken on, trying again", pod=f"{namespace}/{name}", seconds=AGAIN)
            reference = ObjectReference(api_version="v1", kind="Pod", namespace=namespace, name=name, uid=uid)
            assert self._node is not None
            self._node.recorder.event(reference, "Warning", "FailedSync", f"Error syncing pod, skipping: {error}")
            asyncio.get_running_loop().call_later(AGAIN, self._take, uid, document)
        else:
            del self._untaken[uid]

    def _follow(self, uid: str, pod: spec.Pod) -> None:
        worker = self.workers.get(uid)
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
        self._spawn(uid, worker.run(), f"pod {pod.ref}")

    def _spawn(self, uid: str, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks[uid] = task
        task.add_done_callback(lambda _: self._done(uid))

    def _done(self, uid: str) -> None:
        self._tasks.pop(uid, None)
        self.workers.pop(uid, None)

    def _end_orphans(self) -> None:
        """Containers of pods that were deleted while this process was not there."""
        assert self._node is not None
        assert self._informer is not None
        known = {document["metadata"]["uid"] for document in self._informer.store.values()}
        left: dict[str, PodRef] = {}
        for status in self._node.runtime.statuses.values():
            record = status.record
            if record.pod_uid not in known:
                left[record.pod_uid] = PodRef(record.pod_namespace, record.pod_name, record.pod_uid)
        for uid, ref in left.items():
            self._spawn(uid, self._clean(ref), f"end of pod {ref}")

    async def _clean(self, ref: PodRef) -> None:
        """Nobody else ends it: this goes on until it is done."""
        assert self._node is not None
        log.info("ending a pod that the API server does not know", pod=str(ref))
        while True:
            try:
                return await ending.clean(self._node, ref)
            except Exception as error:
                log.warning("pod not cleaned up, trying again", pod=str(ref), seconds=AGAIN, error=str(error))
            await asyncio.sleep(AGAIN)

    def running(self, namespace: str, name: str, container: str) -> Run | None:
        """The current run of a container, if there is one."""
        worker = self.find(namespace, name)
        known = worker.runs.get(container) if worker is not None else None
        return known.current if known is not None else None
