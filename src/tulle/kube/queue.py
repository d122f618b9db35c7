"""The work queue of a reconciler: each key waits at most once, is worked on by one worker at a time, and fails
with back-off.

A key added while it is being worked on is worked on once more afterwards, so the last state is never missed. Whatever
goes wrong with one key stays with it: anybody may have written the object behind it, and the others still need care.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import structlog

from tulle.kube.errors import AlreadyExists, ApiError, Conflict, NotFound

K = TypeVar("K", bound=Hashable)

# What a decision on a cache that lags behind ends in: the next look decides better.
_STALE = (Conflict, AlreadyExists, NotFound)

# So many in a row are no lag: the cache has missed something, which should be heard of.
_NOT_STALE_ANY_MORE = 20

log = structlog.get_logger("tulle.kube.queue")


class WorkQueue(Generic[K]):
    """Delays are seconds; ``kind`` is what log lines call the objects. All methods belong to one event loop."""

    def __init__(self, kind: str = "", *, first_delay: float = 0.01, longest_delay: float = 30.0) -> None:
        self._kind = kind
        self._first_delay = first_delay
        self._longest_delay = longest_delay
        self._ready: deque[K] = deque()
        self._waiting: set[K] = set()
        self._active: set[K] = set()
        self._again: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ready)

    def add(self, key: K) -> None:
        """Queues ``key`` now; a no-op if it waits already."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer.cancel()
        if key in self._active:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting.add(key)
            self._ready.append(key)
            self._wake.set()

    def add_after(self, key: K, seconds: float) -> None:
        """Queues ``key`` in ``seconds``; of several delays the shortest holds."""
        loop = asyncio.get_running_loop()
        timer = self._timers.get(key)
        if timer is not None:
            if timer.when() <= loop.time() + seconds:
                return
            timer.cancel()
        self._timers[key] = loop.call_later(seconds, self.add, key)

    def retry(self, key: K) -> float:
        """Queues ``key`` after its own back-off, which doubles at each call until ``forget``; returns the delay."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay = min(self._first_delay * float(2 ** min(failures, 40)), self._longest_delay)
        self.add_after(key, delay)
        return delay

    def forget(self, key: K) -> None:
        """Resets the back-off of ``key``."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """The next key; every ``get`` needs its ``done``."""
        while not self._ready:
            self._wake.clear()
            await self._wake.wait()
        key = self._ready.popleft()
        self._waiting.discard(key)
        self._active.add(key)
        return key

    def done(self, key: K) -> None:
        """Ends the work on ``key``; queues it again if it was added meanwhile."""
        self._active.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def close(self) -> None:
        """Drops all delayed keys."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()

    async def work(self, reconcile: Callable[[K], Awaitable[float | None]], workers: int = 1) -> None:
        """Reconciles keys until cancelled. ``reconcile`` may return seconds after which to come again.

        Any exception means a retry of that key with back-off; one that is no ApiError is logged with its traceback.
        """
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(self._worker(reconcile))
        finally:
            self.close()

    async def _worker(self, reconcile: Callable[[K], Awaitable[float | None]]) -> None:
        while True:
            key = await self.get()
            try:
                again = await reconcile(key)
            except ApiError as error:
                delay = self.retry(key)
                if not isinstance(error, _STALE) or self._failures[key] == _NOT_STALE_ANY_MORE:
                    log.warning(
                        "reconcile failed, trying again", object=self._name(key), seconds=delay, error=str(error)
                    )
            except Exception:
                log.exception("reconcile failed, trying again", object=self._name(key), seconds=self.retry(key))
            else:
                self.forget(key)
                if again is not None:
                    self.add_after(key, again)
            finally:
                self.done(key)

    def _name(self, key: K) -> str:
        where = "/".join(part for part in key if part) if isinstance(key, tuple) else str(key)
        return f"{self._kind} {where}".strip()
