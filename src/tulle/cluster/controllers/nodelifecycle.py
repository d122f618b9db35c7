"""Nodes that stop reporting: marked, tainted, and their pods moved on after the time that each tolerates.

A node is alive while its Lease is renewed. The time of the last renewal is measured here, on this process's own
clock from the moment the change was seen, so that neither a wrong clock on a node nor a suspended machine makes
a node look dead.
"""

import time
from collections.abc import Callable
from typing import Any

from tulle.cluster.controllers import nodefit
from tulle.cluster.controllers.caches import Context, Subscriptions
from tulle.cluster.controllers.pods import condition_status
from tulle.kube import Change, NotFound, WorkQueue, reference
from tulle.kube.objects import Condition, Lease, Node, Pod, Taint, now
from tulle.kube.resources import NODES, PODS

_WRONG = "Kubelet stopped posting node status."
_NEVER = "Kubelet never posted node status."
# What admission adds to a pod that says nothing of these two taints; a server without it means the same.
_DEFAULT_TOLERATION = 300
_CONDITIONS = ("Ready", "MemoryPressure", "DiskPressure", "PIDPressure")


class NodeLifecycleController:
    """Watches over nodes. ``grace_seconds``: how long a Lease may stay as it is."""

    name = "node-controller"

    def __init__(
        self, context: Context, grace_seconds: float = 40.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = context.client
        self._caches = context.caches
        self._events = context.recorder(self.name)
        self._queue: WorkQueue[str] = WorkQueue("Node")
        self._grace = grace_seconds
        self._clock = clock
        self._renewed: dict[str, tuple[str, float]] = {}
        self._tainted_at: dict[tuple[str, str], float] = {}

    async def run(self) -> None:
        """Works until cancelled."""
        handlers = Subscriptions()
        try:
            await self._caches.synced(self._caches.nodes, self._caches.leases, self._caches.pods)
            handlers.on(self._caches.leases, self._on_lease)
            handlers.on(self._caches.nodes, lambda change: self._queue.add(change.key[1]))
            handlers.on(self._caches.pods, self._on_pod)
            await self._queue.work(self.reconcile, workers=2)
        finally:
            handlers.close()

    def _on_lease(self, change: Change[Lease]) -> None:
        name = change.key[1]
        if change.new is not None:
            self._beat(name, change.new.spec.renew_time)
            node = self._caches.nodes.store.get(("", name))
            # A beat is news only for a node that was taken for lost; the timer of a healthy one is set already.
            if node is None or not nodefit.is_ready(node):
                self._queue.add(name)

    def _on_pod(self, change: Change[Pod]) -> None:
        pod = change.new
        if pod is not None and pod.spec.node_name and (change.old is None or not change.old.spec.node_name):
            node = self._caches.nodes.store.get(("", pod.spec.node_name))
            if node is not None and any(taint.effect == "NoExecute" for taint in node.spec.taints):
                self._queue.add(pod.spec.node_name)

    def _beat(self, name: str, renew_time: str) -> float:
        """Seconds on our clock since the renewal time last changed."""
        known = self._renewed.get(name)
        if known is None or known[0] != renew_time:
            self._renewed[name] = known = (renew_time, self._clock())
        return self._clock() - known[1]

    async def reconcile(self, name: str) -> float | None:
        """Brings conditions, taints and pods of one node to what its Lease says; returns when to look again."""
        node = self._caches.nodes.store.get(("", name))
        if node is None:
            self._renewed.pop(name, None)
            self._forget_taints(name, set())
            return None
        lease = self._caches.leases.store.get(("kube-node-lease", name))
        age = self._beat(name, lease.spec.renew_time if lease is not None else "")
        silent = age >= self._grace
        if silent:
            node = await self._mark_unknown(node)
            # At each look: a request may have failed at the last one, and a pod's own report may have come late.
            await self._unready_pods(node)
        node = await self._taint(node)
        evict = await self._evict(node)
        waits = [wait for wait in (None if silent else self._grace - age, evict) if wait is not None]
        return max(0.05, min(waits)) if waits else None

    async def _mark_unknown(self, node: Node) -> Node:
        before = {c.type: c for c in node.status.conditions}
        if all(type_ in before and before[type_].status == "Unknown" for type_ in _CONDITIONS):
            return node
        moment = now()
        entries = []
        for type_ in _CONDITIONS:
            known = before.get(type_)
            reason, message = ("NodeStatusUnknown", _WRONG) if known else ("NodeStatusNeverUpdated", _NEVER)
            entries.append(
                {"type": type_, "status": "Unknown", "reason": reason, "message": message, "lastTransitionTime": moment}
            )
        was_ready = nodefit.is_ready(node)
        node = await self._client.patch(
            NODES,
            node.metadata.name,
            {"metadata": {"uid": node.metadata.uid}, "status": {"conditions": entries}},
            kind="strategic",
            subresource="status",
        )
        if was_ready:
            message = f"Node {node.metadata.name} status is now: NodeNotReady"
            self._events.event(reference(NODES, node), "Normal", "NodeNotReady", message)
        return node

    async def _unready_pods(self, node: Node) -> None:
        """Services must stop sending to pods that nobody can vouch for."""
        for pod in self._pods(node):
            if condition_status(pod, "Ready") == "True":
                entry = {"type": "Ready", "status": "False", "lastTransitionTime": now()}
                body = {"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [entry]}}
                await self._on_live_pod(pod, body)
                message = "Node is not ready"
                self._events.event(reference(PODS, pod), "Warning", "NodeNotReady", message)

    async def _on_live_pod(self, pod: Pod, body: dict[str, Any]) -> None:
        meta = pod.metadata
        try:
            await self._client.patch(PODS, meta.name, body, meta.namespace, kind="strategic", subresource="status")
        except NotFound:
            return

    async def _taint(self, node: Node) -> Node:
        """Taints follow the Ready condition: False is not-ready, Unknown is unreachable."""
        wanted = _wanted_taints(node)
        kept = [taint for taint in node.spec.taints if taint.key not in (nodefit.NOT_READY, nodefit.UNREACHABLE)]
        present = {(t.key, t.effect): t for t in node.spec.taints}
        target = kept + [present.get((t.key, t.effect), t) for t in wanted]
        if node.spec.unschedulable and nodefit.UNSCHEDULABLE not in {taint.key for taint in target}:
            target.append(Taint(key=nodefit.UNSCHEDULABLE, effect="NoSchedule", time_added=now()))
        if not node.spec.unschedulable:
            target = [taint for taint in target if taint.key != nodefit.UNSCHEDULABLE]
        if tuple(target) == node.spec.taints:
            return node
        meta = {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version}
        body = {"metadata": meta, "spec": {"taints": target or None}}
        return await self._client.patch(NODES, node.metadata.name, body)

    def _pods(self, node: Node) -> list[Pod]:
        return [pod for pod in self._caches.pods.store.values() if pod.spec.node_name == node.metadata.name]

    async def _evict(self, node: Node) -> float | None:
        """Deletes the pods that do not tolerate a NoExecute taint (any longer); seconds until the next is due."""
        taints = [taint for taint in node.spec.taints if taint.effect == "NoExecute"]
        self._forget_taints(node.metadata.name, {taint.key for taint in taints})
        next_due: float | None = None
        for pod in self._pods(node):
            if pod.metadata.deletion_timestamp or "kubernetes.io/config.mirror" in pod.metadata.annotations:
                continue
            left = self._time_left(node, pod, taints)
            if left is None:
                continue
            if left > 0:
                next_due = left if next_due is None else min(next_due, left)
                continue
            message = f"Marking for deletion Pod {pod.metadata.namespace}/{pod.metadata.name}"
            self._events.event(reference(PODS, pod), "Normal", "TaintManagerEviction", message)
            try:
                await self._client.delete(PODS, pod.metadata.name, pod.metadata.namespace, uid=pod.metadata.uid)
            except NotFound:
                continue
        return next_due

    def _forget_taints(self, name: str, present: set[str]) -> None:
        """A taint that went and comes back counts from its return."""
        for key in [key for key in self._tainted_at if key[0] == name and key[1] not in present]:
            del self._tainted_at[key]

    def _time_left(self, node: Node, pod: Pod, taints: list[Taint]) -> float | None:
        """Seconds that the pod may stay; None: for ever."""
        shortest: float | None = None
        for taint in taints:
            since = self._tainted_at.setdefault((node.metadata.name, taint.key), self._clock())
            allowed = [t for t in pod.spec.tolerations if nodefit.tolerates(t, taint)]
            if not allowed and taint.key not in (nodefit.NOT_READY, nodefit.UNREACHABLE):
                return 0.0
            limits = (
                [float(_DEFAULT_TOLERATION)]
                if not allowed
                else [t.toleration_seconds for t in allowed if t.toleration_seconds is not None]
            )
            if limits:
                left = min(limits) - (self._clock() - since)
                shortest = left if shortest is None else min(shortest, left)
        return shortest


def _wanted_taints(node: Node) -> list[Taint]:
    ready: Condition | None = next((c for c in node.status.conditions if c.type == "Ready"), None)
    if ready is not None and ready.status == "True":
        return []
    key = nodefit.NOT_READY if ready is None or ready.status == "False" else nodefit.UNREACHABLE
    moment = now()
    return [Taint(key=key, effect=effect, time_added=moment) for effect in ("NoSchedule", "NoExecute")]
