"""Events are kept for an hour after their last change, as any API server keeps them: nobody deletes them, and they are many."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from tulle.cluster.store import Event, Key, RevisionConflictError, Store, StoreFailedError

EVENTS: Final = "events"
KEPT_SECONDS: Final = 3600.0
_PAUSE: Final = 30.0


class EventExpiry:
    """`run` deletes what is due. Those that were there before this process count as changed when it started."""

    def __init__(self, store: Store, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._changed: deque[tuple[float, Key, int]] = deque(
            (clock(), record.key, record.revision) for record in store.list(EVENTS)
        )
        store.listen(EVENTS, self._heard)

    def _heard(self, event: Event) -> None:
        if event.new is not None:
            self._changed.append((self._clock(), event.key, event.revision))

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.expire()
            await asyncio.sleep(_PAUSE)

    async def expire(self) -> None:
        """Delete every event whose last change is too long ago."""
        while self._changed and self._changed[0][0] <= self._clock() - KEPT_SECONDS:
            _, key, revision = self._changed.popleft()
            record = self._store.get(key)
            if record is None or record.revision != revision:
                continue
            # A refusal of the disk leaves the event there: it is no more than one event too many.
            with contextlib.suppress(RevisionConflictError, StoreFailedError):
                await self._store.delete(key, record.decode(), revision)
