"""Deletion of a namespace: everything in it first, then the namespace itself.

The namespace goes only after every resource was listed empty; whatever still holds an object (a grace period, a
finalizer) is said in the namespace's conditions.
"""

from tulle.cluster.controllers import conditions
from tulle.cluster.controllers.caches import Context, Subscriptions
from tulle.cluster.controllers.discovery import Served, served
from tulle.kube import Change, Conflict, NotFound, WorkQueue
from tulle.kube.objects import Condition, Namespace, PartialObject
from tulle.kube.resources import NAMESPACES

_FINALIZER = "kubernetes"
_FIRST_DELAY = 0.2
_LONGEST_DELAY = 5.0


class NamespaceController:
    """Empties and removes namespaces that are being deleted."""

    name = "namespace-controller"

    def __init__(self, context: Context) -> None:
        self._client = context.client
        self._caches = context.caches
        self._queue: WorkQueue[str] = WorkQueue("Namespace")
        self._delays: dict[str, float] = {}

    async def run(self) -> None:
        """Works until cancelled."""
        handlers = Subscriptions()
        try:
            await self._caches.synced(self._caches.namespaces)
            handlers.on(self._caches.namespaces, self._on_namespace)
            await self._queue.work(self.reconcile, workers=4)
        finally:
            handlers.close()

    def _on_namespace(self, change: Change[Namespace]) -> None:
        if change.new is not None and change.new.metadata.deletion_timestamp:
            self._queue.add(change.key[1])

    async def reconcile(self, name: str) -> float | None:
        """Empties one namespace a bit further; returns when to look again."""
        namespace = self._caches.namespaces.store.get(("", name))
        if namespace is None or not namespace.metadata.deletion_timestamp:
            self._delays.pop(name, None)
            return None
        if _FINALIZER not in namespace.spec.finalizers:
            return None
        left: dict[str, list[PartialObject]] = {}
        for one in await served(self._client):
            if one.resource.namespaced and {"list", "delete"} <= one.verbs:
                remaining = await self._empty(one, name)
                if remaining:
                    left[_label(one)] = remaining
        if left:
            await self._report(namespace, left)
            delay = self._delays.get(name, _FIRST_DELAY)
            self._delays[name] = min(delay * 1.5, _LONGEST_DELAY)
            return delay
        await self._finalize(namespace)
        return None

    async def _empty(self, one: Served, namespace: str) -> list[PartialObject]:
        """Deletes what is there; the objects that are still there afterwards."""
        try:
            listed = await self._client.list(one.resource, namespace)
        except NotFound:
            return []
        if not listed.items:
            return []
        for item in listed.items:
            if not item.metadata.deletion_timestamp:
                try:
                    await self._client.delete(one.resource, item.metadata.name, namespace, uid=item.metadata.uid)
                except (NotFound, Conflict):
                    continue
        return list((await self._client.list(one.resource, namespace)).items)

    async def _report(self, namespace: Namespace, left: dict[str, list[PartialObject]]) -> None:
        counts = ", ".join(f"{label} has {len(items)} resource instances" for label, items in sorted(left.items()))
        found: tuple[Condition, ...] = conditions.put(
            namespace.status.conditions,
            "NamespaceContentRemaining",
            "True",
            "SomeResourcesRemain",
            f"Some resources are remaining: {counts}",
        )
        finalizers: dict[str, int] = {}
        for items in left.values():
            for item in items:
                for finalizer in item.metadata.finalizers:
                    finalizers[finalizer] = finalizers.get(finalizer, 0) + 1
        if finalizers:
            text = ", ".join(f"{name} in {count} resource instances" for name, count in sorted(finalizers.items()))
            message = f"Some content in the namespace has finalizers remaining: {text}"
            found = conditions.put(found, "NamespaceFinalizersRemaining", "True", "SomeFinalizersRemain", message)
        if found != namespace.status.conditions:
            body = {"status": {"conditions": found}}
            try:
                await self._client.patch(NAMESPACES, namespace.metadata.name, body, subresource="status")
            except NotFound:
                return

    async def _finalize(self, namespace: Namespace) -> None:
        try:
            fresh = await self._client.get(NAMESPACES, namespace.metadata.name)
        except NotFound:
            return
        if fresh.metadata.uid != namespace.metadata.uid:
            return
        meta = {
            "name": fresh.metadata.name,
            "uid": fresh.metadata.uid,
            "resourceVersion": fresh.metadata.resource_version,
        }
        rest = [name for name in fresh.spec.finalizers if name != _FINALIZER]
        try:
            await self._client.replace(
                NAMESPACES, {"metadata": meta, "spec": {"finalizers": rest}}, subresource="finalize"
            )
        except NotFound:
            return


def _label(one: Served) -> str:
    group = one.resource.group
    return f"{one.resource.plural}.{group}" if group else f"{one.resource.plural}."
