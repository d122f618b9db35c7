"""The local copies that the controllers share, so that ten controllers cost one watch per kind.

``OwnerIndex`` answers "which objects does this one control" without a walk over all of them.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from tulle.kube import Change, Client, EventRecorder, Informer
from tulle.kube import objects as o
from tulle.kube import resources as r
from tulle.kube.informer import Key

T = TypeVar("T", bound=o.KubeObject)

ROOT_CA_NAME = "kube-root-ca.crt"
LEASE_NAMESPACE = "kube-node-lease"


def controller_of(obj: o.KubeObject) -> o.OwnerReference | None:
    """The owner that manages ``obj``, if any."""
    return next((ref for ref in obj.metadata.owner_references if ref.controller), None)


class OwnerIndex(Generic[T]):
    """Objects of one informer by the uid of their controller; "" holds those without one, by namespace as well."""

    def __init__(self, informer: Informer[T]) -> None:
        self._store = informer.store
        self._owned: dict[tuple[str, str], set[Key]] = {}
        informer.on_change(self._follow)

    def owned(self, namespace: str, uid: str) -> list[T]:
        """The objects of ``namespace`` whose controller has this uid ("": no controller)."""
        keys = self._owned.get((namespace, uid), ())
        return [self._store[key] for key in keys]

    def _follow(self, change: Change[T]) -> None:
        before, after = self._slot(change.old), self._slot(change.new)
        if before != after and before is not None:
            keys = self._owned[before]
            keys.discard(change.key)
            if not keys:
                del self._owned[before]
        if after is not None:
            self._owned.setdefault(after, set()).add(change.key)

    @staticmethod
    def _slot(obj: T | None) -> tuple[str, str] | None:
        if obj is None:
            return None
        owner = controller_of(obj)
        return obj.metadata.namespace, owner.uid if owner else ""


class Caches:
    """Every shared informer and index. ``run`` follows them all."""

    def __init__(self, client: Client) -> None:
        self.namespaces = Informer(client, r.NAMESPACES)
        self.pods = Informer(client, r.PODS)
        self.nodes = Informer(client, r.NODES)
        self.services = Informer(client, r.SERVICES)
        self.slices = Informer(client, r.ENDPOINT_SLICES)
        self.deployments = Informer(client, r.DEPLOYMENTS)
        self.replica_sets = Informer(client, r.REPLICA_SETS)
        self.daemon_sets = Informer(client, r.DAEMON_SETS)
        self.revisions = Informer(client, r.CONTROLLER_REVISIONS)
        self.service_accounts = Informer(client, r.SERVICE_ACCOUNTS)
        self.root_ca = Informer(client, r.CONFIG_MAPS, field_selector=f"metadata.name={ROOT_CA_NAME}")
        self.leases = Informer(client, r.LEASES, LEASE_NAMESPACE)
        self.pods_by_owner = OwnerIndex(self.pods)
        self.replica_sets_by_owner = OwnerIndex(self.replica_sets)
        self.revisions_by_owner = OwnerIndex(self.revisions)

    @property
    def informers(self) -> list[Informer[Any]]:
        """All of them."""
        return [value for value in vars(self).values() if isinstance(value, Informer)]

    def whole(self, group: str, plural: str) -> Informer[Any] | None:
        """The informer that holds every object of a resource, if there is one: one watch less for the asker."""
        for informer in self.informers:
            if (informer.resource.group, informer.resource.plural) == (group, plural) and informer.is_whole:
                return informer
        return None

    async def run(self) -> None:
        """Follows every resource until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in self.informers:
                group.create_task(informer.run(), name=f"informer {informer.resource.plural}")

    async def synced(self, *informers: Informer[Any]) -> None:
        """Returns once each of ``informers`` has its first list: what a controller reads, before its first decision."""
        for informer in informers:
            await informer.synced()


@dataclass(frozen=True)
class Context:
    """What a controller is given. ``recorder(component)`` is the event recorder of that component."""

    client: Client
    caches: Caches
    recorder: Callable[[str], EventRecorder]


class Subscriptions:
    """The handlers of one controller run, taken off again when it ends."""

    def __init__(self) -> None:
        self._ends: list[Callable[[], None]] = []

    def on(self, informer: Informer[T], fn: Callable[[Change[T]], None]) -> None:
        """Calls ``fn`` at each change of ``informer`` until ``close``."""
        self._ends.append(informer.on_change(fn))

    def close(self) -> None:
        """Takes every handler off."""
        while self._ends:
            self._ends.pop()()
