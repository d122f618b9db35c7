"""Growing, jittered pauses between attempts, so that a thousand clients of a restarted server do not return at once."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class Backoff:
    """Pauses in seconds: ``first``, growing by ``factor`` to ``cap``, each scaled by a random number in [0.5, 1)."""

    first: float = 0.2
    cap: float = 10.0
    factor: float = 1.6
    random: Callable[[], float] = random.random
    _next: float = 0.0

    def pause(self) -> float:
        """The next pause."""
        base = min(self._next or self.first, self.cap)
        self._next = min(base * self.factor, self.cap)
        return base * (0.5 + self.random() / 2)

    def reset(self) -> None:
        """An attempt succeeded."""
        self._next = 0.0
