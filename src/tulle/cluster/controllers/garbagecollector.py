"""The garbage collector: objects go with their owners.

It follows every kind that the API serves, custom ones too, and acts on ``ownergraph``'s answers. An owner that
the graph lacks is asked for at the API before its dependents are touched: a watch may lag, and a wrong deletion
cannot be taken back.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import structlog

from tulle.cluster.controllers.caches import Context
from tulle.cluster.controllers.discovery import Served, served
from tulle.cluster.controllers.ownergraph import FOREGROUND, ORPHAN, Graph, Item, Owners, judge
from tulle.kube import ApiError, Change, Client, Conflict, Informer, NotFound, Resource, WorkQueue
from tulle.kube.client import Propagation
from tulle.kube.objects import KubeObject, OwnerReference, PartialObject
from tulle.kube.resources import CUSTOM_RESOURCE_DEFINITIONS

_REDISCOVER_SECONDS = 5.0
_INCOMPLETE_SECONDS = 0.1
_NOT_FOLLOWED = frozenset({("", "events"), ("events.k8s.io", "events")})

log = structlog.get_logger("tulle.cluster.controllers")


@dataclass(frozen=True)
class _Monitor:
    """How one kind is followed: by an informer of the shared caches, or by one of our own with its task."""

    resource: Resource[PartialObject]
    informer: Informer[Any]
    end: Callable[[], None]
    task: asyncio.Task[None] | None


class GarbageCollector:
    """Deletes what lost its owners, and carries out foreground and orphaning deletions."""

    name = "garbage-collector-controller"

    def __init__(self, context: Context) -> None:
        self._client: Client = context.client
        self._queue: WorkQueue[str] = WorkQueue("object with uid")
        self._graph = Graph()
        self._caches = context.caches
        self._monitors: dict[tuple[str, str], _Monitor] = {}
        self._by_kind: dict[tuple[str, str], Resource[PartialObject]] = {}

    async def run(self) -> None:
        """Works until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._discover(group))
                group.create_task(self._queue.work(self.reconcile, workers=8))
        finally:
            for monitor in self._monitors.values():
                monitor.end()
            self._queue.close()

    @property
    def _complete(self) -> bool:
        """Whether the graph has every object of every kind: what it lacks else may be a dependent, or an owner."""
        return bool(self._monitors) and all(monitor.informer.has_synced for monitor in self._monitors.values())

    async def _discover(self, group: asyncio.TaskGroup) -> None:
        while True:
            try:
                await self._follow_served(group)
            except ApiError as error:
                log.warning("resources cannot be discovered, trying again", error=str(error))
            await asyncio.sleep(_REDISCOVER_SECONDS)

    async def _follow_served(self, group: asyncio.TaskGroup) -> None:
        present = {(s.resource.group, s.resource.plural): s for s in await served(self._client)}
        for key, monitor in list(self._monitors.items()):
            if key in present:
                stale = monitor.resource != present[key].resource
            else:
                # One that is not served for now, while its definition is there, still has its objects.
                stale = not monitor.informer.has_synced or not await self._defined(monitor.resource)
            if stale:
                self._unfollow(key)
        for key, one in present.items():
            self._by_kind[one.resource.group, one.resource.kind] = one.resource
            if key not in self._monitors and key not in _NOT_FOLLOWED and {"list", "watch", "delete"} <= one.verbs:
                self._follow(group, key, one)

    async def _defined(self, resource: Resource[PartialObject]) -> bool:
        try:
            await self._client.get(CUSTOM_RESOURCE_DEFINITIONS, f"{resource.plural}.{resource.group}")
        except NotFound:
            return False
        return True

    def _follow(self, group: asyncio.TaskGroup, key: tuple[str, str], one: Served) -> None:
        shared = self._caches.whole(one.resource.group, one.resource.plural)
        informer: Informer[Any] = shared or Informer(self._client, one.resource)

        def on_change(change: Change[KubeObject]) -> None:
            self._on_change(one.resource, change)

        end = informer.on_change(on_change)
        task = None if shared else group.create_task(informer.run(), name=f"gc {one.resource.plural}")
        self._monitors[key] = _Monitor(one.resource, informer, end, task)

    def _unfollow(self, key: tuple[str, str]) -> None:
        """The kind is gone, with its objects, or is served in another version; the API is asked which before anything is deleted."""
        monitor = self._monitors.pop(key)
        monitor.end()
        if monitor.task is not None:
            monitor.task.cancel()
        for obj in list(monitor.informer.store.values()):
            self._gone(obj.metadata.uid)

    def _on_change(self, resource: Resource[PartialObject], change: Change[KubeObject]) -> None:
        if change.new is None:
            if change.old is not None:
                self._gone(change.old.metadata.uid)
            return
        meta = change.new.metadata
        item = Item(resource, meta)
        self._graph.put(item)
        if meta.owner_references or item.waits_for_dependents or item.orphans_dependents:
            self._queue.add(meta.uid)
        if item.waits_for_dependents and not (change.old and Item(resource, change.old.metadata).waits_for_dependents):
            for dependent in self._graph.dependents(meta.uid):
                self._queue.add(dependent.meta.uid)
        if change.old is not None and change.old.metadata.owner_references != meta.owner_references:
            # One that lets go of its owner unblocks it as one that goes does.
            self._wake_waiting(change.old.metadata.owner_references)

    def _gone(self, uid: str) -> None:
        item = self._graph.items.get(uid)
        for dependent in self._graph.remove(uid):
            self._queue.add(dependent.meta.uid)
        self._wake_waiting(item.meta.owner_references if item else ())

    def _wake_waiting(self, owners: Iterable[OwnerReference]) -> None:
        for ref in owners:
            owner = self._graph.items.get(ref.uid)
            if owner is not None and owner.waits_for_dependents:
                self._queue.add(ref.uid)

    async def reconcile(self, uid: str) -> float | None:
        """Carries one object's deletion or survival further."""
        if not self._complete:
            return _INCOMPLETE_SECONDS
        item = self._graph.items.get(uid)
        if item is None:
            return None
        if item.orphans_dependents:
            return await self._orphan(item)
        if item.waits_for_dependents:
            return await self._foreground(item)
        if item.deleting or not item.meta.owner_references:
            return None
        owners = await self._owners(item)
        if not owners.dangling and not owners.waiting:
            return None
        verdict = judge(item, owners, bool(self._graph.dependents(uid)))
        try:
            if verdict.delete:
                await self._delete(item, verdict.propagation)
            else:
                await self._set_owners(item, verdict.keep)
        except NotFound:
            return None
        return None

    async def _owners(self, item: Item) -> Owners:
        solid, dangling, waiting = [], [], []
        for ref in item.meta.owner_references:
            owner = self._graph.items.get(ref.uid)
            if owner is None and not await self._exists(item, ref):
                dangling.append(ref)
            elif owner is not None and owner.waits_for_dependents and ref.block_owner_deletion:
                waiting.append(ref)
            else:
                solid.append(ref)
        return Owners(tuple(solid), tuple(dangling), tuple(waiting))

    async def _exists(self, item: Item, ref: OwnerReference) -> bool:
        """Asks the API. A kind that is not served right now counts as there: its definition may come back."""
        group, _, _ = ref.api_version.rpartition("/")
        resource = self._by_kind.get((group, ref.kind))
        if resource is None:
            return True
        namespace = item.meta.namespace if resource.namespaced else None
        if resource.namespaced and not namespace:
            return True
        try:
            found = await self._client.get(resource, ref.name, namespace)
        except NotFound:
            return False
        return found.metadata.uid == ref.uid

    async def _foreground(self, item: Item) -> float | None:
        blocking = self._graph.blocking(item.meta.uid)
        for dependent in blocking:
            if not dependent.deleting:
                self._queue.add(dependent.meta.uid)
        if not blocking:
            await self._drop_finalizer(item, FOREGROUND)
        return None

    async def _orphan(self, item: Item) -> float | None:
        for dependent in self._graph.dependents(item.meta.uid):
            rest = tuple(ref for ref in dependent.meta.owner_references if ref.uid != item.meta.uid)
            try:
                await self._set_owners(dependent, rest)
            except NotFound:
                continue
        await self._drop_finalizer(item, ORPHAN)
        return None

    async def _delete(self, item: Item, propagation: Propagation) -> None:
        meta = item.meta
        try:
            await self._client.delete(
                item.resource,
                meta.name,
                meta.namespace or None,
                uid=meta.uid,
                propagation=propagation,
            )
        except Conflict:
            # Another object has the name now: this one is gone already.
            return

    async def _set_owners(self, item: Item, keep: tuple[OwnerReference, ...]) -> None:
        await self._patch(item, {"ownerReferences": list(keep) or None})

    async def _drop_finalizer(self, item: Item, name: str) -> None:
        rest = [finalizer for finalizer in item.meta.finalizers if finalizer != name]
        try:
            await self._patch(item, {"finalizers": rest or None})
        except NotFound:
            return

    async def _patch(self, item: Item, change: dict[str, Any]) -> None:
        meta = item.meta
        body = {"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version, **change}}
        await self._client.patch(item.resource, meta.name, body, meta.namespace or None)
