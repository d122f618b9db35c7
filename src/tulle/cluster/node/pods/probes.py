"""Probes of one running container: when to ask, and what the answers mean.

`Verdict` is the pure part: a run of equal answers, counted against the thresholds. The prober asks on time and tells
the worker when a verdict changes: readiness in both directions, liveness and startup when they have failed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from tulle.cluster.node.pods.spec import Container, Probe

_EARLY = (0.1,) * 30
"""Seconds between the looks at a program that has just started and is not ready yet."""

Kind = Literal["Startup", "Liveness", "Readiness"]

Ask = Callable[[Kind, Probe], Awaitable[str]]
"""Asks once: an empty text is a good answer, any other says what was wrong."""


@dataclass
class Verdict:
    """Counts answers. `value` changes when `success_threshold` good or `failure_threshold` bad answers came in a row."""

    success_threshold: int
    failure_threshold: int
    value: bool | None = None
    _last: bool | None = None
    _count: int = 0

    def note(self, good: bool) -> bool:
        """Count one answer; whether `value` changed."""
        self._count = self._count + 1 if good == self._last else 1
        self._last = good
        needed = self.success_threshold if good else self.failure_threshold
        if self._count < needed or self.value == good:
            return False
        self.value = good
        return True


@dataclass(frozen=True)
class Callbacks:
    """Where the prober reports: `started`, `ready(now)`, `failed(kind, probe, text)` and every single bad answer to
    `unhealthy`.
    """

    ask: Ask
    started: Callable[[], None]
    ready: Callable[[bool], None]
    failed: Callable[[Kind, Probe, str], None]
    unhealthy: Callable[[Kind, str], None]


class Prober:
    """The probes of one run of a container; `start` after it runs, `stop` when it ends.

    `started`: it has passed its startup probe already, as an earlier process of the node saw. It is not asked again: a program
    may stop to answer that once it works.
    """

    def __init__(self, container: Container, callbacks: Callbacks, *, started: bool = False) -> None:
        self._container = container
        self._started = started
        self._callbacks = callbacks
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin with the startup probe if there is one; the others wait for it."""
        self._tasks.append(asyncio.create_task(self._run(), name=f"probes of {self._container.name}"))

    def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()

    async def _run(self) -> None:
        container, tell = self._container, self._callbacks
        probe = None if self._started else container.startup_probe
        if probe is not None and not await self._startup(probe):
            return
        tell.started()
        if container.readiness_probe is None:
            tell.ready(True)
        loops = []
        if container.readiness_probe is not None:
            loops.append(self._loop("Readiness", container.readiness_probe))
        if container.liveness_probe is not None:
            loops.append(self._loop("Liveness", container.liveness_probe))
        if loops:
            async with asyncio.TaskGroup() as group:
                for loop in loops:
                    group.create_task(loop)

    async def _startup(self, probe: Probe) -> bool:
        verdict = Verdict(1, probe.failure_threshold)
        await asyncio.sleep(probe.initial_delay_seconds)
        while True:
            text = await self._ask("Startup", probe)
            if verdict.note(not text):
                if text:
                    self._callbacks.failed("Startup", probe, text)
                return not text
            await asyncio.sleep(probe.period_seconds)

    async def _loop(self, kind: Kind, probe: Probe) -> None:
        verdict = Verdict(probe.success_threshold, probe.failure_threshold)
        await asyncio.sleep(probe.initial_delay_seconds)
        if kind == "Readiness":
            await self._first_good(probe)
        while True:
            text = await self._ask(kind, probe)
            if verdict.note(not text):
                if kind == "Readiness":
                    self._callbacks.ready(not text)
                elif text:
                    self._callbacks.failed(kind, probe, text)
                    return
            await asyncio.sleep(probe.period_seconds)

    async def _first_good(self, probe: Probe) -> None:
        """While the program starts, look more often than the period says; what is not good yet is no complaint."""
        for pause in _EARLY:
            if pause >= probe.period_seconds or not await self._answer("Readiness", probe):
                return
            await asyncio.sleep(pause)

    async def _ask(self, kind: Kind, probe: Probe) -> str:
        text = await self._answer(kind, probe)
        if text:
            self._callbacks.unhealthy(kind, text)
        return text

    async def _answer(self, kind: Kind, probe: Probe) -> str:
        with contextlib.suppress(TimeoutError):
            # the request has its own time-out, with better words; this one is for what ignores it
            async with asyncio.timeout(probe.timeout_seconds + 5):
                return await self._callbacks.ask(kind, probe)
        return "probe timed out"
