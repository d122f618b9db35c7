"""Which certificate is worked on next, and when: a pure timetable.

Each identity has at most one entry. Of those that are due, one that somebody waits for goes before one that is only
fetched ahead; among equals the one that waited longest goes first.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

FIRST_PAUSE: Final = 0.2
LONGEST_PAUSE: Final = 150.0


def retry_pause(failures: int, jitter: Callable[[], float] = random.random) -> float:
    """Seconds until the next attempt after ``failures`` (at least 1) in a row: doubling, capped at 150 s (D9)."""
    return min(FIRST_PAUSE * 2.0 ** min(failures - 1, 20), LONGEST_PAUSE) * (0.75 + jitter() / 4)


def refresh_time(now: float, not_after: float, jitter: Callable[[], float] = random.random) -> float:
    """When to replace a certificate: at half of what is left of it (D9), up to a tenth earlier to spread the load."""
    return now + (not_after - now) / 2 * (1 - jitter() / 10)


@dataclass(slots=True)
class Timetable:
    """Identities and the times (seconds) at which they are due."""

    _due: dict[str, float] = field(default_factory=dict)
    _urgent: set[str] = field(default_factory=set)
    _heap: list[tuple[float, str]] = field(default_factory=list)
    _ready: list[tuple[bool, float, str]] = field(default_factory=list)

    def put(self, identity: str, due: float) -> None:
        """Set when an identity is due, in place of any other time."""
        self._due[identity] = due
        heapq.heappush(self._heap, (due, identity))

    def drop(self, identity: str) -> None:
        """Forget an identity."""
        self._due.pop(identity, None)
        self._urgent.discard(identity)

    def hurry(self, identity: str) -> None:
        """Somebody waits for this one. It goes first when it is due; it is not due any earlier."""
        if identity in self._due:
            self._urgent.add(identity)
            for place, (_, due, other) in enumerate(self._ready):
                if other == identity:
                    self._ready[place] = (False, due, identity)
            heapq.heapify(self._ready)

    def take(self, now: float) -> str | None:
        """The identity to work on now; it leaves the timetable."""
        while self._heap and self._heap[0][0] <= now:
            due, identity = heapq.heappop(self._heap)
            if self._due.get(identity) == due:
                heapq.heappush(self._ready, (identity not in self._urgent, due, identity))
        while self._ready:
            _, due, identity = heapq.heappop(self._ready)
            if self._due.get(identity) == due:
                self.drop(identity)
                return identity
        return None

    def next_due(self) -> float | None:
        """When ``take`` will next have something, as far as is known; ``None`` if nothing is planned."""
        times = list(self._live())
        return min(times) if times else None

    def _live(self) -> Iterator[float]:
        while self._heap and self._due.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        if self._heap:
            yield self._heap[0][0]
        for _, due, identity in self._ready:
            if self._due.get(identity) == due:
                yield due

    def __contains__(self, identity: object) -> bool:
        return identity in self._due
