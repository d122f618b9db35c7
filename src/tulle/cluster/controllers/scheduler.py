"""The scheduler: gives each waiting pod a node that may run it, the one where its like are fewest.

Decisions that the cache does not show yet are remembered, so that pods made at once do not all land on one
node. Pods that fit nowhere are tried again when a node or a pod changes.
"""

from collections import Counter

from tulle.cluster.controllers import nodefit
from tulle.cluster.controllers.affinity import affinity_refusal
from tulle.cluster.controllers.caches import Context, Subscriptions, controller_of
from tulle.cluster.controllers.pods import condition_status
from tulle.kube import AlreadyExists, Change, Conflict, NotFound, WorkQueue, reference
from tulle.kube.informer import Key
from tulle.kube.objects import Node, Pod, now
from tulle.kube.resources import PODS

NAME = "default-scheduler"


class Scheduler:
    """Binds pods to nodes."""

    name = NAME

    def __init__(self, context: Context) -> None:
        self._client = context.client
        self._caches = context.caches
        self._events = context.recorder(self.name)
        self._queue: WorkQueue[Key] = WorkQueue("Pod")
        self._assumed: dict[str, str] = {}
        self._by_node: dict[str, set[Key]] = {}
        self._waiting: set[Key] = set()

    async def run(self) -> None:
        """Works until cancelled. One worker: decisions are made one after the other, each knowing those before."""
        handlers = Subscriptions()
        try:
            await self._caches.synced(self._caches.namespaces, self._caches.nodes, self._caches.pods)
            handlers.on(self._caches.pods, self._on_pod)
            handlers.on(self._caches.nodes, self._on_node)
            await self._queue.work(self.reconcile)
        finally:
            handlers.close()

    def _on_pod(self, change: Change[Pod]) -> None:
        key, old, new = change.key, change.old, change.new
        if old is not None and old.spec.node_name and (new is None or new.spec.node_name != old.spec.node_name):
            self._by_node.get(old.spec.node_name, set()).discard(key)
        if new is not None and new.spec.node_name:
            self._by_node.setdefault(new.spec.node_name, set()).add(key)
            self._assumed.pop(new.metadata.uid, None)
        if new is not None and _is_ours(new):
            self._queue.add(key)
        else:
            self._waiting.discard(key)
        freed = old is not None and old.spec.node_name and (new is None or _is_finished(new))
        if freed:
            self._wake()
        elif new is not None and new.spec.node_name and (old is None or _drawing(old) != _drawing(new)):
            self._wake_attracted()

    def _on_node(self, change: Change[Node]) -> None:
        old, new = change.old, change.new
        if new is not None and (old is None or _fitness(old) != _fitness(new)):
            self._wake()

    def _wake(self) -> None:
        for key in self._waiting:
            self._queue.add(key)

    def _wake_attracted(self) -> None:
        """A pod that came to a node, or has other labels there, may be the one that others must be near to or far from."""
        for key in self._waiting:
            pod = self._caches.pods.store.get(key)
            if pod is not None and pod.spec.affinity is not None:
                self._queue.add(key)

    async def reconcile(self, key: Key) -> None:
        """Binds one pod, or says why no node fits."""
        pod = self._caches.pods.store.get(key)
        if pod is None or not _is_ours(pod) or pod.metadata.uid in self._assumed:
            return
        nodes = list(self._caches.nodes.store.values())
        placed = [(other, node) for node in nodes for other in self._on(node)]
        namespaces = {key[1]: ns.metadata.labels for key, ns in self._caches.namespaces.store.items()}
        reasons: Counter[str] = Counter()
        fitting = []
        for node in nodes:
            refused = nodefit.refusals(pod, node, self._on(node)) or affinity_refusal(pod, node, placed, namespaces)
            reasons.update(refused)
            if not refused:
                fitting.append(node)
        if not fitting:
            self._waiting.add(key)
            await self._unschedulable(pod, len(nodes), reasons)
            return
        await self._bind(pod, min(fitting, key=lambda node: self._rank(pod, node)))
        self._waiting.discard(key)

    def _on(self, node: Node) -> list[Pod]:
        """The pods of a node that still take room, assumed ones included."""
        name = node.metadata.name
        store = self._caches.pods.store
        found = [store[key] for key in self._by_node.get(name, ()) if key in store]
        if self._assumed:
            found += [p for p in store.values() if not p.spec.node_name and self._assumed.get(p.metadata.uid) == name]
        return [pod for pod in found if not _is_finished(pod)]

    def _rank(self, pod: Pod, node: Node) -> tuple[int, int, int, str]:
        owner = controller_of(pod)
        others = self._on(node)
        like = sum(
            owner is not None and (controller_of(other) or owner).uid == owner.uid and controller_of(other) is not None
            for other in others
        )
        return -nodefit.preference(pod, node), like, len(others), node.metadata.name

    async def _bind(self, pod: Pod, node: Node) -> None:
        meta, name = pod.metadata, node.metadata.name
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": meta.name, "namespace": meta.namespace, "uid": meta.uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": name},
        }
        self._assumed[meta.uid] = name
        bound = False
        try:
            await self._client.post(PODS, meta.name, "binding", body, meta.namespace)
            bound = True
        except (NotFound, Conflict, AlreadyExists):
            # It is gone, or somebody else placed it: the cache will tell.
            return
        finally:
            if not bound:
                self._assumed.pop(meta.uid, None)
        message = f"Successfully assigned {meta.namespace}/{meta.name} to {name}"
        self._events.event(reference(PODS, pod), "Normal", "Scheduled", message)

    async def _unschedulable(self, pod: Pod, nodes: int, reasons: Counter[str]) -> None:
        message = "no nodes available to schedule pods"
        if nodes:
            parts = sorted(f"{count} {reason}" for reason, count in reasons.items())
            message = f"0/{nodes} nodes are available: {', '.join(parts)}."
        condition = next((c for c in pod.status.conditions if c.type == "PodScheduled"), None)
        if condition is not None and condition.message == message:
            return
        self._events.event(reference(PODS, pod), "Warning", "FailedScheduling", message)
        kept = condition is not None and condition_status(pod, "PodScheduled") == "False"
        moment = condition.last_transition_time if kept and condition is not None else now()
        entry = {
            "type": "PodScheduled",
            "status": "False",
            "reason": "Unschedulable",
            "message": message,
            "lastTransitionTime": moment,
        }
        try:
            await self._client.patch(
                PODS,
                pod.metadata.name,
                {"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [entry]}},
                pod.metadata.namespace,
                kind="strategic",
                subresource="status",
            )
        except NotFound:
            return


def _is_ours(pod: Pod) -> bool:
    spec = pod.spec
    return (
        not spec.node_name
        and not pod.metadata.deletion_timestamp
        and not spec.scheduling_gates
        and spec.scheduler_name in ("", NAME)
        and not _is_finished(pod)
    )


def _drawing(pod: Pod) -> object:
    return pod.spec.node_name, pod.metadata.labels


def _is_finished(pod: Pod) -> bool:
    return pod.status.phase in ("Succeeded", "Failed")


def _fitness(node: Node) -> object:
    """All of a node that decides whether a pod fits: its heartbeats are not among it."""
    return (
        nodefit.is_ready(node),
        node.spec.taints,
        node.spec.unschedulable,
        node.metadata.labels,
        node.status.allocatable,
    )
