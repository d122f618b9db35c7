"""Who owns whom, over all kinds: the garbage collector's picture of the cluster, free of I/O.

Fed with every change of every kind; answers which objects depend on one, and whether an owner is known to be
there. Objects are known by uid alone, since a name may be taken again by another object.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tulle.kube import Resource
from tulle.kube.client import Propagation
from tulle.kube.objects import ObjectMeta, OwnerReference, PartialObject

FOREGROUND = "foregroundDeletion"
ORPHAN = "orphan"


@dataclass(frozen=True)
class Item:
    """One object: where it is served, and its metadata."""

    resource: Resource[PartialObject]
    meta: ObjectMeta

    @property
    def deleting(self) -> bool:
        """Whether deletion was asked for."""
        return bool(self.meta.deletion_timestamp)

    @property
    def waits_for_dependents(self) -> bool:
        """Foreground deletion: stays until what depends on it is gone."""
        return self.deleting and FOREGROUND in self.meta.finalizers

    @property
    def orphans_dependents(self) -> bool:
        """Orphaning deletion: stays until what depends on it has let go."""
        return self.deleting and ORPHAN in self.meta.finalizers


@dataclass
class Graph:
    """``items`` by uid; ``dependents``: uids by the uid of an owner that they name."""

    items: dict[str, Item] = field(default_factory=dict)
    _dependents: dict[str, set[str]] = field(default_factory=dict)

    def put(self, item: Item) -> None:
        """An object appeared or changed."""
        uid = item.meta.uid
        before = self.items.get(uid)
        self.items[uid] = item
        old = _owner_uids(before.meta.owner_references) if before else set()
        new = _owner_uids(item.meta.owner_references)
        for owner in old - new:
            self._unlink(owner, uid)
        for owner in new - old:
            self._dependents.setdefault(owner, set()).add(uid)

    def remove(self, uid: str) -> list[Item]:
        """An object went; the objects that name it as owner."""
        item = self.items.pop(uid, None)
        if item is not None:
            for owner in _owner_uids(item.meta.owner_references):
                self._unlink(owner, uid)
        return self.dependents(uid)

    def dependents(self, uid: str) -> list[Item]:
        """The objects that name ``uid`` as owner."""
        return [self.items[one] for one in self._dependents.get(uid, ()) if one in self.items]

    def blocking(self, uid: str) -> list[Item]:
        """Those dependents without whose end a foreground deletion of ``uid`` does not go on."""
        return [
            item
            for item in self.dependents(uid)
            if any(ref.uid == uid and ref.block_owner_deletion for ref in item.meta.owner_references)
        ]

    def _unlink(self, owner: str, uid: str) -> None:
        linked = self._dependents.get(owner)
        if linked is not None:
            linked.discard(uid)
            if not linked:
                del self._dependents[owner]


def _owner_uids(references: Iterable[OwnerReference]) -> set[str]:
    return {ref.uid for ref in references}


@dataclass(frozen=True)
class Owners:
    """The owners of one object: still there, gone, and there but waiting for their dependents to go."""

    solid: tuple[OwnerReference, ...]
    dangling: tuple[OwnerReference, ...]
    waiting: tuple[OwnerReference, ...]


@dataclass(frozen=True)
class Verdict:
    """What to do with an object: ``keep`` the references left (a change if some are dropped), or delete it."""

    delete: bool
    propagation: Propagation = "Background"
    keep: tuple[OwnerReference, ...] = ()


def judge(item: Item, owners: Owners, has_dependents: bool) -> Verdict:
    """The garbage collection rule.

    One solid owner keeps an object; references to others that are gone or waiting are dropped. With no solid owner it is
    deleted: in the foreground if an owner waits and the object has dependents of its own, else as its finalizers say.
    """
    if owners.solid:
        return Verdict(delete=False, keep=owners.solid)
    if owners.waiting and has_dependents:
        return Verdict(delete=True, propagation="Foreground")
    if ORPHAN in item.meta.finalizers:
        return Verdict(delete=True, propagation="Orphan")
    if FOREGROUND in item.meta.finalizers:
        return Verdict(delete=True, propagation="Foreground")
    return Verdict(delete=True)
