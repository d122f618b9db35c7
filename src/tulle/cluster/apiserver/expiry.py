"""Events are kept for an hour after their last change, as any API server keeps them: nobody deletes them, and they are many.

More than `MOST` are not kept, since they stay in memory: where pods come and go all the time the hour may be shorter.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

from tulle.cluster.store import Event, Key, RevisionConflictError, Store, StoreFailedError

EVENTS: Final = "events"
KEPT_SECONDS: Final = 3600.0
MOST: Final = 2_000
_PAUSE: Final = 30.0


class EventExpiry:
    """`run` deletes what is due. Those that were there before this process count as changed when it started."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic, most: int = MOST) -> None:
        self._store = store
        self._clock = clock
        self._most = most
        #: When each was last changed, the oldest first.
        self._changed: dict[Key, float] = {record.key: clock() for record in store.list(EVENTS)}
        store.listen(EVENTS, self._heard)

    def _heard(self, event: Event) -> None:
        self._changed.pop(event.key, None)
        if event.new is not None:
            self._changed[event.key] = self._clock()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.expire()
            await asyncio.sleep(_PAUSE)

    async def expire(self) -> None:
        """Delete every event whose last change is too long ago, and the oldest of too many."""
        for key, changed in self._due():
            record = self._store.get(key)
            if record is None or self._changed.get(key) != changed:
                continue
            # Changed meanwhile, or refused by the disk: it stays, which is no more than one event too many.
            with contextlib.suppress(RevisionConflictError, StoreFailedError):
                await self._store.delete(key, record.decode(), record.revision)

    def _due(self) -> list[tuple[Key, float]]:
        too_old, too_many = self._clock() - KEPT_SECONDS, len(self._changed) - self._most
        by_age = enumerate(self._changed.items())
        return [(key, changed) for number, (key, changed) in by_age if changed <= too_old or number < too_many]
