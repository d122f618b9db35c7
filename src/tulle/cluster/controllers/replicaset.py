"""ReplicaSets: as many active pods of one template as asked for.

Writes are guarded twice: by ``PodControl`` against a lagging cache, and by uid against an object that was
replaced meanwhile.
"""

import asyncio
import re
from datetime import UTC, datetime
from typing import Any

from tulle.cluster.controllers import conditions
from tulle.cluster.controllers.caches import Context, Subscriptions, controller_of
from tulle.cluster.controllers.patches import merge_diff
from tulle.cluster.controllers.podcontrol import PodControl
from tulle.cluster.controllers.pods import (
    available_in,
    from_template,
    is_active,
    is_ready,
    owner_reference,
    ready_since,
    template_labels,
)
from tulle.kube import ApiError, Change, WorkQueue, reference
from tulle.kube.informer import Key
from tulle.kube.objects import Pod, ReplicaSet, ReplicaSetStatus, parse_time
from tulle.kube.resources import REPLICA_SETS
from tulle.kube.selectors import matches, matches_labels

_BURST = 500
_PHASE_RANK = {"Pending": 0, "": 0, "Unknown": 1, "Running": 2}
_DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
_COST = re.compile(r"-?[0-9]{1,10}")


class ReplicaSetController:
    """Reconciles every ReplicaSet with its pods."""

    name = "replicaset-controller"

    def __init__(self, context: Context) -> None:
        self._client = context.client
        self._caches = context.caches
        self._queue: WorkQueue[Key] = WorkQueue("ReplicaSet")
        self._pods = PodControl(context.client, context.recorder(self.name), self._caches)

    async def run(self) -> None:
        """Works until cancelled."""
        handlers = Subscriptions()
        try:
            await self._caches.synced(self._caches.replica_sets, self._caches.pods)
            handlers.on(self._caches.pods, self._pods.observe)
            handlers.on(self._caches.pods, self._on_pod)
            handlers.on(self._caches.replica_sets, lambda change: self._queue.add(change.key))
            await self._queue.work(self.reconcile, workers=4)
        finally:
            handlers.close()

    def _on_pod(self, change: Change[Pod]) -> None:
        for pod in (change.old, change.new):
            owner = controller_of(pod) if pod is not None else None
            if owner is not None and owner.kind == "ReplicaSet":
                self._queue.add((change.key[0], owner.name))
        if change.new is not None and controller_of(change.new) is None and is_active(change.new):
            self._wake_candidates(change.new)

    def _wake_candidates(self, pod: Pod) -> None:
        """An orphan may belong to any set of its namespace that selects it."""
        for key, rs in self._caches.replica_sets.store.items():
            if key[0] == pod.metadata.namespace and matches(rs.spec.selector, pod.metadata.labels):
                self._queue.add(key)

    async def reconcile(self, key: Key) -> float | None:
        """Brings one ReplicaSet closer to its specification; returns when to look again."""
        rs = self._caches.replica_sets.store.get(key)
        if rs is None or not self._pods.settled(key):
            return None if rs is None else 1.0
        pods = await self._pods.claimed(REPLICA_SETS, rs, rs.spec.selector)
        failure: ApiError | None = None
        if not rs.metadata.deletion_timestamp:
            failure = await self._scale(key, rs, [pod for pod in pods if is_active(pod)])
        again = await self._write_status(rs, [p for p in self._owned(rs) if is_active(p)], failure)
        if failure is not None:
            raise failure
        return again

    def _owned(self, rs: ReplicaSet) -> list[Pod]:
        return self._caches.pods_by_owner.owned(rs.metadata.namespace, rs.metadata.uid)

    async def _scale(self, key: Key, rs: ReplicaSet, active: list[Pod]) -> ApiError | None:
        wanted = 1 if rs.spec.replicas is None else rs.spec.replicas
        missing = wanted - len(active)
        if missing > 0:
            return await self._create(key, rs, min(missing, _BURST))
        if missing < 0:
            victims = sorted(active, key=lambda pod: removal_rank(pod, active))[: min(-missing, _BURST)]
            return await self._delete(key, rs, victims)
        return None

    async def _create(self, key: Key, rs: ReplicaSet, count: int) -> ApiError | None:
        """In batches of 1, 2, 4 ...: a template that the API refuses costs one request, not hundreds."""
        owner = reference(REPLICA_SETS, rs)
        body = from_template(
            rs.spec.template, f"{rs.metadata.name}-", rs.metadata.namespace, owner_reference(REPLICA_SETS, rs)
        )
        batch = 1
        while count > 0:
            batch = min(batch, count)
            results = await asyncio.gather(*(self._pods.create(key, owner, body) for _ in range(batch)))
            failed = next((error for error in results if error is not None), None)
            if failed is not None:
                return failed
            count -= batch
            batch *= 2
        return None

    async def _delete(self, key: Key, rs: ReplicaSet, victims: list[Pod]) -> ApiError | None:
        owner = reference(REPLICA_SETS, rs)
        results = await asyncio.gather(*(self._pods.delete(key, owner, pod) for pod in victims))
        return next((error for error in results if error is not None), None)

    async def _write_status(self, rs: ReplicaSet, active: list[Pod], failure: ApiError | None) -> float | None:
        waits = [available_in(pod, rs.spec.min_ready_seconds, datetime.now(UTC)) for pod in active]
        wanted_labels = template_labels(rs.spec.template)
        found = rs.status.conditions
        if failure is None:
            found = conditions.drop(found, "ReplicaFailure")
        elif conditions.find(found, "ReplicaFailure") is None:
            # Only the first failure: each names another pod, and every change of the status ends the back-off.
            found = conditions.put(found, "ReplicaFailure", "True", "FailedCreate", failure.message)
        status = ReplicaSetStatus(
            observed_generation=rs.metadata.generation,
            replicas=len(active),
            fully_labeled_replicas=sum(matches_labels(wanted_labels, pod.metadata.labels) for pod in active),
            ready_replicas=sum(map(is_ready, active)),
            available_replicas=sum(wait == 0 for wait in waits),
            conditions=found,
            terminating_replicas=rs.status.terminating_replicas,
        )
        patch = merge_diff(rs.status, status)
        # `replicas` is required by the schema even at zero, where structs leave it out.
        if patch or rs.status.observed_generation == 0:
            patch = {**patch, "replicas": status.replicas}
            await self._client.patch(
                REPLICA_SETS, rs.metadata.name, {"status": patch}, rs.metadata.namespace, subresource="status"
            )
        later = [wait for wait in waits if wait]
        return min(later) if later else None


def removal_rank(pod: Pod, siblings: list[Pod]) -> tuple[Any, ...]:
    """Sorts the pods to remove first to the front, by the order of the real controller.

    Unscheduled, then pending, then not ready, then cheaper by annotation, then crowded on a node, then ready for a
    shorter time, then restarted more often, then younger.
    """
    cost = pod.metadata.annotations.get(_DELETION_COST, "0")
    crowd = sum(other.spec.node_name == pod.spec.node_name and is_active(other) for other in siblings)
    since = ready_since(pod)
    restarts = max((status.restart_count for status in pod.status.container_statuses), default=0)
    created = parse_time(pod.metadata.creation_timestamp).timestamp() if pod.metadata.creation_timestamp else 0.0
    return (
        bool(pod.spec.node_name),
        _PHASE_RANK.get(pod.status.phase, 0),
        is_ready(pod),
        int(cost) if _COST.fullmatch(cost) else 0,
        -crowd,
        -(since.timestamp() if since else 0.0),
        -restarts,
        -created,
    )
