"""DaemonSets: one pod of the present template on every node that may run it.

A pod is tied to its node by a node affinity on the node's name and placed by the scheduler, as in a real
cluster. Templates are kept as ControllerRevisions, which `kubectl rollout undo` reads.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from tulle.cluster.controllers import nodefit
from tulle.cluster.controllers.backoff import Backoff
from tulle.cluster.controllers.caches import Context, Subscriptions, controller_of
from tulle.cluster.controllers.daemonpods import (
    REVISION_HASH,
    TemplateHistory,
    daemon_pod,
    node_of,
    should_continue,
    should_run,
)
from tulle.cluster.controllers.patches import merge_diff
from tulle.cluster.controllers.podcontrol import PodControl
from tulle.cluster.controllers.pods import available_in, is_active, is_ready, owner_reference
from tulle.cluster.controllers.rollout import scaled
from tulle.kube import ApiError, Change, WorkQueue, reference
from tulle.kube.informer import Key
from tulle.kube.objects import DaemonSet, DaemonSetStatus, Node, Pod
from tulle.kube.resources import DAEMON_SETS
from tulle.kube.selectors import matches

_LONGEST_PAUSE = 900.0


@dataclass
class _Plan:
    """Pods to delete, nodes that need one, and in how many seconds there is more to do."""

    delete: list[Pod] = field(default_factory=list)
    create: list[str] = field(default_factory=list)
    later: list[float] = field(default_factory=list)


class DaemonSetController:
    """Reconciles every DaemonSet with the nodes. ``first_pause``: seconds before a second pod that failed on a node is replaced."""

    name = "daemonset-controller"

    def __init__(self, context: Context, first_pause: float = 1.0) -> None:
        self._client = context.client
        self._caches = context.caches
        self._events = context.recorder(self.name)
        self._queue: WorkQueue[Key] = WorkQueue("DaemonSet")
        self._pods = PodControl(context.client, self._events, self._caches)
        self._failures: Backoff[tuple[str, int, str]] = Backoff(first_pause, _LONGEST_PAUSE)
        self._history = TemplateHistory(context)

    async def run(self) -> None:
        """Works until cancelled."""
        handlers = Subscriptions()
        try:
            await self._caches.synced(
                self._caches.daemon_sets, self._caches.pods, self._caches.nodes, self._caches.revisions
            )
            handlers.on(self._caches.pods, self._pods.observe)
            handlers.on(self._caches.pods, self._on_pod)
            handlers.on(self._caches.nodes, self._on_node)
            handlers.on(self._caches.daemon_sets, lambda change: self._queue.add(change.key))
            await self._queue.work(self.reconcile, workers=2)
        finally:
            handlers.close()

    def _on_pod(self, change: Change[Pod]) -> None:
        for pod in (change.old, change.new):
            owner = controller_of(pod) if pod is not None else None
            if owner is not None and owner.kind == "DaemonSet":
                self._queue.add((change.key[0], owner.name))
        if change.new is not None and controller_of(change.new) is None and is_active(change.new):
            for key, ds in self._caches.daemon_sets.store.items():
                if key[0] == change.key[0] and matches(ds.spec.selector, change.new.metadata.labels):
                    self._queue.add(key)

    def _on_node(self, change: Change[Node]) -> None:
        old, new = change.old, change.new
        if old is None or new is None or _fitness(old) != _fitness(new):
            for key in self._caches.daemon_sets.store:
                self._queue.add(key)

    async def reconcile(self, key: Key) -> float | None:
        """Brings one DaemonSet closer to its specification; returns when to look again."""
        ds = self._caches.daemon_sets.store.get(key)
        if ds is None or ds.metadata.deletion_timestamp:
            return None
        if not self._pods.settled(key):
            return 1.0
        revision = await self._history.current(ds)
        by_node = _by_node(await self._pods.claimed(DAEMON_SETS, ds, ds.spec.selector))
        plan = self._plan(ds, revision, by_node)
        if not plan.delete and ds.spec.update_strategy.type == "RollingUpdate":
            plan.delete += self._outdated(ds, revision, by_node)
        failure = await self._carry_out(key, ds, revision, plan)
        plan.later += await self._write_status(ds, revision, by_node)
        if failure is not None:
            raise failure
        await self._history.forget_old(ds, revision)
        return min(plan.later, default=None)

    def _nodes(self) -> list[Node]:
        return sorted(self._caches.nodes.store.values(), key=lambda node: node.metadata.name)

    def _plan(self, ds: DaemonSet, revision: str, by_node: dict[str, list[Pod]]) -> _Plan:
        plan = _Plan()
        surge = self._surge(ds)
        for node in self._nodes():
            pods = [pod for pod in by_node.get(node.metadata.name, ()) if not pod.metadata.deletion_timestamp]
            finished = [pod for pod in pods if pod.status.phase in ("Succeeded", "Failed")]
            if finished and should_continue(ds, node) and self._must_wait(ds, node, plan):
                continue
            for pod in finished:
                self._tell_finished(ds, node, pod)
            plan.delete += finished
            live = sorted((pod for pod in pods if pod not in finished), key=_seniority)
            if not should_continue(ds, node):
                plan.delete += live
            elif not live and should_run(ds, node) and not self._is_leaving(by_node, node):
                plan.create.append(node.metadata.name)
            else:
                plan.delete += self._surplus(ds, revision, live, surge)
        plan.delete += [
            pod for name, pods in by_node.items() if name and ("", name) not in self._caches.nodes.store for pod in pods
        ]
        plan.delete = [pod for pod in plan.delete if not pod.metadata.deletion_timestamp]
        plan.create += self._surging(ds, revision, by_node, surge)
        return plan

    def _must_wait(self, ds: DaemonSet, node: Node, plan: _Plan) -> bool:
        """A pod that fails whenever it runs is replaced ever more seldom, until the set's next generation."""
        key = (ds.metadata.uid, ds.metadata.generation, node.metadata.name)
        left = self._failures.left(key)
        if left > 0:
            plan.later.append(left)
        else:
            self._failures.note(key)
        return left > 0

    def _tell_finished(self, ds: DaemonSet, node: Node, pod: Pod) -> None:
        self._events.event(
            reference(DAEMON_SETS, ds),
            "Warning",
            "FailedDaemonPod",
            f"Found failed daemon pod {pod.metadata.namespace}/{pod.metadata.name} on node "
            f"{node.metadata.name}, will try to kill it",
        )

    @staticmethod
    def _is_leaving(by_node: dict[str, list[Pod]], node: Node) -> bool:
        """A predecessor that still runs holds the node's ports and files: the next pod waits for it."""
        return any(pod.metadata.deletion_timestamp for pod in by_node.get(node.metadata.name, ()))

    def _surge(self, ds: DaemonSet) -> int:
        rolling = ds.spec.update_strategy.rolling_update
        if ds.spec.update_strategy.type != "RollingUpdate" or rolling is None or not rolling.max_surge:
            return 0
        return scaled(rolling.max_surge, self._desired(ds), up=True)

    def _desired(self, ds: DaemonSet) -> int:
        return sum(should_run(ds, node) for node in self._nodes())

    def _surplus(self, ds: DaemonSet, revision: str, live: list[Pod], surge: int) -> list[Pod]:
        """All but one; while surging, the old one stays until the new one is available."""
        if len(live) <= 1:
            return []
        new = [pod for pod in live if _revision(pod) == revision]
        old = [pod for pod in live if _revision(pod) != revision]
        if surge and new and old:
            done = any(available_in(pod, ds.spec.min_ready_seconds, datetime.now(UTC)) == 0 for pod in new)
            return [*new[1:], *(old if done else old[1:])]
        return live[1:]

    def _surging(self, ds: DaemonSet, revision: str, by_node: dict[str, list[Pod]], surge: int) -> list[str]:
        """Nodes that get the new pod beside the old one now."""
        if not surge:
            return []
        doubled, ready_for_it = 0, []
        for node in self._nodes():
            pods = [pod for pod in by_node.get(node.metadata.name, ()) if not pod.metadata.deletion_timestamp]
            old = [pod for pod in pods if _revision(pod) != revision]
            if old and len(old) < len(pods):
                doubled += 1
            elif old and should_run(ds, node):
                ready_for_it.append(node.metadata.name)
        return ready_for_it[: max(0, surge - doubled)]

    def _outdated(self, ds: DaemonSet, revision: str, by_node: dict[str, list[Pod]]) -> list[Pod]:
        """Old pods that the rolling update replaces now: those that do not work at once, others within the limit."""
        if self._surge(ds):
            return []
        rolling = ds.spec.update_strategy.rolling_update
        value = rolling.max_unavailable if rolling and rolling.max_unavailable is not None else 1
        most = max(1, scaled(value, self._desired(ds), up=True))
        down = 0
        broken: list[Pod] = []
        working: list[Pod] = []
        for node in self._nodes():
            if not should_run(ds, node):
                continue
            pods = by_node.get(node.metadata.name, [])
            live = [pod for pod in pods if not pod.metadata.deletion_timestamp]
            up = [p for p in live if available_in(p, ds.spec.min_ready_seconds, datetime.now(UTC)) == 0]
            down += not up
            for pod in live:
                if _revision(pod) != revision:
                    (working if pod in up else broken).append(pod)
        return [*broken, *working[: max(0, most - down)]]

    async def _carry_out(self, key: Key, ds: DaemonSet, revision: str, plan: _Plan) -> ApiError | None:
        owner, parent = reference(DAEMON_SETS, ds), owner_reference(DAEMON_SETS, ds)
        results = await asyncio.gather(
            *(self._pods.create(key, owner, daemon_pod(ds, node, revision, parent)) for node in plan.create),
            *(self._pods.delete(key, owner, pod) for pod in plan.delete),
        )
        return next((error for error in results if error is not None), None)

    async def _write_status(self, ds: DaemonSet, revision: str, by_node: dict[str, list[Pod]]) -> list[float]:
        """Seconds until further pods count as available."""
        counts = dict.fromkeys(("desired", "current", "misplaced", "ready", "available", "updated"), 0)
        later: list[float] = []
        for node in self._nodes():
            pods = [pod for pod in by_node.get(node.metadata.name, ()) if not pod.metadata.deletion_timestamp]
            if not should_run(ds, node):
                counts["misplaced"] += bool(pods)
                continue
            counts["desired"] += 1
            if not pods:
                continue
            pod = max(pods, key=lambda p: (_revision(p) == revision, is_ready(p)))
            wait = available_in(pod, ds.spec.min_ready_seconds, datetime.now(UTC))
            counts["current"] += 1
            counts["updated"] += _revision(pod) == revision
            counts["ready"] += is_ready(pod)
            counts["available"] += wait == 0
            later += [wait] if wait else []
        status = DaemonSetStatus(
            observed_generation=ds.metadata.generation,
            desired_number_scheduled=counts["desired"],
            current_number_scheduled=counts["current"],
            number_misscheduled=counts["misplaced"],
            number_ready=counts["ready"],
            updated_number_scheduled=counts["updated"],
            number_available=counts["available"],
            number_unavailable=counts["desired"] - counts["available"],
            collision_count=ds.status.collision_count,
            conditions=ds.status.conditions,
        )
        patch = merge_diff(ds.status, status)
        if patch or ds.status.observed_generation == 0:
            # These four are required by the schema even at zero, where structs leave them out.
            for name in ("currentNumberScheduled", "desiredNumberScheduled", "numberMisscheduled", "numberReady"):
                patch[name] = msgspec.to_builtins(status).get(name, 0)
            body: dict[str, Any] = {"status": patch}
            await self._client.patch(DAEMON_SETS, ds.metadata.name, body, ds.metadata.namespace, subresource="status")
        return later


def _by_node(pods: list[Pod]) -> dict[str, list[Pod]]:
    """Pods by the node that they are for; "" for those that name none."""
    found: dict[str, list[Pod]] = {}
    for pod in pods:
        found.setdefault(node_of(pod), []).append(pod)
    return found


def _revision(pod: Pod) -> str:
    return pod.metadata.labels.get(REVISION_HASH, "")


def _seniority(pod: Pod) -> tuple[bool, bool, str]:
    """Whom to keep of several: the placed, then the ready, then the oldest."""
    return not pod.spec.node_name, not is_ready(pod), pod.metadata.creation_timestamp


def _fitness(node: Node) -> object:
    return node.spec.taints, node.spec.unschedulable, node.metadata.labels, nodefit.is_ready(node)
