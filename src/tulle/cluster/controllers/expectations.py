"""What a controller did and has not seen yet.

A cache lags behind one's own writes: a ReplicaSet that looks again before its new pods arrived would make them
twice. Created objects are known by uid at once, so the wait is exact; a time limit covers an object that came
and went within a gap.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tulle.kube import Change
from tulle.kube.informer import Key
from tulle.kube.objects import KubeObject

_LIMIT_SECONDS = 30.0


@dataclass
class _Pending:
    created: dict[str, float] = field(default_factory=dict)
    deleted: dict[str, float] = field(default_factory=dict)


class Expectations:
    """Pending creations and deletions by owner key. Feed ``observe`` with every change of the dependents' informer."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._pending: dict[Key, _Pending] = {}
        self._owners: dict[str, Key] = {}

    def created(self, owner: Key, obj: KubeObject, store: Mapping[Key, KubeObject]) -> None:
        """``owner`` made ``obj``; nothing to wait for if the cache was quicker."""
        known = store.get((obj.metadata.namespace, obj.metadata.name))
        if known is None or known.metadata.uid != obj.metadata.uid:
            self._pending.setdefault(owner, _Pending()).created[obj.metadata.uid] = self._clock()
            self._owners[obj.metadata.uid] = owner

    def deleted(self, owner: Key, obj: KubeObject) -> None:
        """``owner`` is about to delete ``obj``, which the cache has as not being deleted."""
        self._pending.setdefault(owner, _Pending()).deleted[obj.metadata.uid] = self._clock()
        self._owners[obj.metadata.uid] = owner

    def withdraw(self, obj: KubeObject) -> None:
        """The deletion of ``obj`` did not happen."""
        self._settle(obj.metadata.uid)

    def observe(self, change: Change[KubeObject]) -> None:
        """A change of a dependent."""
        if change.new is None:
            if change.old is not None:
                self._settle(change.old.metadata.uid)
            return
        uid = change.new.metadata.uid
        owner = self._owners.get(uid)
        if owner is None:
            return
        if change.new.metadata.deletion_timestamp or uid in self._pending[owner].created:
            self._settle(uid)

    def satisfied(self, owner: Key) -> bool:
        """Whether the cache shows everything that ``owner`` did (or 30 s passed)."""
        pending = self._pending.get(owner)
        if pending is None:
            return True
        oldest = self._clock() - _LIMIT_SECONDS
        for uid in [uid for table in (pending.created, pending.deleted) for uid, at in table.items() if at < oldest]:
            self._settle(uid)
        return owner not in self._pending

    def _settle(self, uid: str) -> None:
        owner = self._owners.pop(uid, None)
        if owner is None:
            return
        pending = self._pending[owner]
        pending.created.pop(uid, None)
        pending.deleted.pop(uid, None)
        if not pending.created and not pending.deleted:
            del self._pending[owner]
