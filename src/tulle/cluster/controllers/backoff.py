"""Pauses that grow while something goes on failing, for what is not the failure of a request: a pod that fails whenever it runs."""

import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class _Pause:
    seconds: float
    since: float


class Backoff(Generic[K]):
    """The pause of a key doubles with each ``note`` from ``first`` to ``longest`` seconds, and is forgotten when the key has been
    left alone for twice the longest.
    """

    def __init__(self, first: float, longest: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._first = first
        self._longest = longest
        self._clock = clock
        self._pauses: dict[K, _Pause] = {}

    def left(self, key: K) -> float:
        """Seconds until the pause that the last ``note`` began is over; 0 if there is none."""
        pause = self._pauses.get(key)
        return max(0.0, pause.since + pause.seconds - self._clock()) if pause is not None else 0.0

    def note(self, key: K) -> None:
        """It failed again: the next pause begins."""
        now = self._clock()
        self._pauses = {k: pause for k, pause in self._pauses.items() if now - pause.since < 2 * self._longest}
        before = self._pauses.get(key)
        seconds = min(before.seconds * 2, self._longest) if before is not None else self._first
        self._pauses[key] = _Pause(seconds, now)
