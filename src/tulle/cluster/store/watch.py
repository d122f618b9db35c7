"""The window of recent events, and the watchers that follow it.

A watch that starts at revision R must see every change after R exactly once and in order, or be told that R is no longer
known (CompactedError) so that it lists again. The window is bounded in events and in bytes, not in time; a watcher that does not
drain its queue is ended rather than allowed to hold the history in memory.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from tulle.cluster.store.records import Event

WINDOW = 10_000
WINDOW_BYTES = 8 << 20
OVERHEAD = 1 << 10
"""What an event takes beside the bytes of its object, about: its records with their keys, labels and fields."""
_WATCHER_LIMIT = 10_000


class CompactedError(Exception):
    """The revision asked for is older than the history kept."""

    def __init__(self, requested: int, compacted: int) -> None:
        super().__init__(f"too old resource version: {requested} ({compacted})")
        self.requested = requested
        self.compacted = compacted


class FutureRevisionError(Exception):
    """The revision asked for has not happened yet."""

    def __init__(self, requested: int, current: int) -> None:
        super().__init__(f"Too large resource version: {requested}, current: {current}")
        self.requested = requested
        self.current = current


class Watcher:
    """One follower of one resource. `drain` gives what has happened since; `overflowed` ends it."""

    def __init__(self, resource: str, namespace: str, backlog: Sequence[Event], revision: int) -> None:
        self.resource = resource
        self.namespace = namespace
        self.revision = revision
        self.overflowed = False
        self._pending: deque[Event] = deque(backlog)
        self._wake = asyncio.Event()
        if backlog:
            self._wake.set()

    def offer(self, event: Event) -> None:
        """Called by the store for each committed event of the resource."""
        self.revision = event.revision
        if self.namespace and event.key.namespace != self.namespace:
            return
        if len(self._pending) >= _WATCHER_LIMIT:
            self.overflowed = True
        else:
            self._pending.append(event)
        self._wake.set()

    async def drain(self, timeout: float) -> list[Event]:
        """The next events, in order; empty when `timeout` seconds passed without one."""
        if not self._pending and not self.overflowed:
            # An event may come in the very moment in which the time is up: what is there is given, whatever ended the wait.
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._wake.wait()
        events = list(self._pending)
        self._pending.clear()
        self._wake.clear()
        return events

    def interrupt(self) -> None:
        """Wake the follower without an event (the server is shutting down, or the resource is gone)."""
        self.overflowed = True
        self._wake.set()


class Window:
    """The last events, `limit` at most and not much more memory than `most_bytes`, findable per resource."""

    def __init__(self, compacted: int, limit: int = WINDOW, most_bytes: int = WINDOW_BYTES) -> None:
        self.compacted = compacted
        self._limit = limit
        self._most_bytes = most_bytes
        self._bytes = 0
        self._order: deque[Event] = deque()
        self._by_resource: dict[str, deque[Event]] = {}

    def append(self, event: Event) -> int:
        """Add an event; returns the revision compacted away by it, or 0."""
        self._order.append(event)
        self._by_resource.setdefault(event.key.resource, deque()).append(event)
        self._bytes += _size(event)
        floor = 0
        while len(self._order) > self._limit or (self._bytes > self._most_bytes and len(self._order) > 1):
            oldest = self._order.popleft()
            self._by_resource[oldest.key.resource].popleft()
            self._bytes -= _size(oldest)
            floor = self.compacted = oldest.revision
        return floor

    def replace(self, resource: str, change: Callable[[Event], Event]) -> None:
        """Put `change(event)`, of the same size, in the place of each event of `resource`."""
        if resource in self._by_resource:
            self._order = deque(change(event) if event.key.resource == resource else event for event in self._order)
            self._by_resource[resource] = deque(event for event in self._order if event.key.resource == resource)

    def since(self, resource: str, revision: int, current: int, wanted: Callable[[Event], bool]) -> list[Event]:
        """Events of `resource` after `revision`. Raises CompactedError or FutureRevisionError."""
        if revision < self.compacted:
            raise CompactedError(revision, self.compacted)
        if revision > current:
            raise FutureRevisionError(revision, current)
        events = list(self._by_resource.get(resource, ()))
        start = bisect_right(events, revision, key=lambda event: event.revision)
        return [event for event in events[start:] if wanted(event)]


def _size(event: Event) -> int:
    """What the event adds: the state before it is that of the event before."""
    return OVERHEAD + len(event.deleted if event.new is None else event.new.value)
