"""Ending a container with grace: its preStop hook, its stop signal, time to finish, and SIGKILL if that was not
enough.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from dataclasses import dataclass

from tulle.cluster.node.pods import actions
from tulle.cluster.node.pods.node import Node
from tulle.cluster.node.pods.runs import Run
from tulle.cluster.node.pods.spec import Container, Handler, Pod
from tulle.cluster.node.runtime.shim.client import ShimError

MIN_GRACE = 2.0
"""Seconds that a container has after a long preStop hook, as in Kubernetes."""


class Deadline:
    """The moment of the SIGKILL. It can be moved forward while somebody waits for it (`kubectl delete
    --grace-period=1`).
    """

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds
        self._moved = asyncio.Event()

    def shorten(self, seconds: float) -> None:
        wanted = time.monotonic() + seconds
        if wanted < self._at:
            self._at = wanted
            self._moved.set()

    @property
    def left(self) -> float:
        return max(0.0, self._at - time.monotonic())

    async def wait_for(self, event: asyncio.Event, at_least: float = 0.0) -> bool:
        """Wait for the event until the deadline, but `at_least` seconds; whether it came."""
        floor = time.monotonic() + at_least
        while not event.is_set():
            left = max(self.left, floor - time.monotonic())
            if left <= 0:
                return False
            self._moved.clear()
            waits = {asyncio.ensure_future(event.wait()), asyncio.ensure_future(self._moved.wait())}
            try:
                await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        return True


def signal_number(name: str) -> int:
    """`SIGTERM`, `TERM` or `15`; SIGTERM if it is none of these."""
    if name.isdigit():
        return int(name)
    full = name if name.startswith("SIG") else f"SIG{name}"
    return int(getattr(signal, full, signal.SIGTERM))


@dataclass(frozen=True)
class Ending:
    """One container that is to end; `ended` is set when it has."""

    node: Node
    pod: Pod
    container: Container
    run: Run
    ended: asyncio.Event
    deadline: Deadline
    pod_ip: str

    async def stop(self) -> None:
        """Returns when the container has ended. A shim that is gone took its containers with it: that is an end too."""
        at_least = 0.0
        if self.container.lifecycle.pre_stop is not None and self.deadline.left > 0 and not self.ended.is_set():
            text = await self._hook(self.container.lifecycle.pre_stop)
            if text:
                message = f"PreStopHook failed: {text}"
                self.node.event(self.pod, "Warning", "FailedPreStopHook", message, self.container.name)
            at_least = MIN_GRACE if self.deadline.left < MIN_GRACE else 0.0
        with contextlib.suppress(ShimError):
            if self.deadline.left > 0 or at_least:
                await self.node.runtime.signal(self.run.cid, self._signal())
                if await self.deadline.wait_for(self.ended, at_least):
                    return
            await self.node.runtime.kill(self.run.cid)
            await self.ended.wait()

    def _signal(self) -> int:
        status = self.node.runtime.statuses.get(self.run.cid)
        image = status.record.stop_signal if status is not None else "SIGTERM"
        return signal_number(self.container.lifecycle.stop_signal or image)

    async def _hook(self, hook: Handler) -> str:
        """Run the hook until it is done or the grace period is over; what went wrong."""
        perform = actions.perform(
            self.node, self.container, self.run.cid, hook, pod_ip=self.pod_ip, timeout=self.deadline.left
        )
        work = asyncio.create_task(perform)
        over = asyncio.create_task(self.deadline.wait_for(self.ended))
        try:
            await asyncio.wait({work, over}, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            return "" if self.ended.is_set() else "it did not end within the grace period"
        finally:
            work.cancel()
            over.cancel()
