"""Ending a container with grace: its preStop hook, its stop signal, time to finish, and SIGKILL if that was not enough."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time

from tulle.cluster.node.pods import actions
from tulle.cluster.node.pods.node import Node
from tulle.cluster.node.pods.runs import Run
from tulle.cluster.node.pods.spec import Container, Pod
from tulle.cluster.node.runtime.shim.client import ShimError

MIN_GRACE = 2.0
"""Seconds that a container has after a long preStop hook, as in Kubernetes."""


class Deadline:
    """The moment of the SIGKILL. It can be moved forward while somebody waits for it (`kubectl delete --grace-period=1`)."""

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
            _, pending = await asyncio.wait(waits, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            for wait in pending:
                wait.cancel()
        return True


def signal_number(name: str) -> int:
    """`SIGTERM`, `TERM` or `15`; SIGTERM if it is none of these."""
    if name.isdigit():
        return int(name)
    full = name if name.startswith("SIG") else f"SIG{name}"
    return int(getattr(signal, full, signal.SIGTERM))


async def stop(node: Node, pod: Pod, container: Container, run: Run, ended: asyncio.Event, deadline: Deadline, ip: str) -> None:
    """Returns when the container has ended. A shim that is gone took its containers with it, so that is an end too."""
    hook = container.lifecycle.pre_stop
    at_least = 0.0
    if hook is not None and deadline.left > 0 and not ended.is_set():
        text = await _hook(node, pod, container, run, ended, deadline, ip)
        if text:
            node.event(pod, "Warning", "FailedPreStopHook", f"PreStopHook failed: {text}", container.name)
        at_least = MIN_GRACE if deadline.left < MIN_GRACE else 0.0
    status = node.runtime.statuses.get(run.cid)
    number = signal_number(container.lifecycle.stop_signal or (status.record.stop_signal if status else "SIGTERM"))
    with contextlib.suppress(ShimError):
        if deadline.left > 0 or at_least:
            await node.runtime.signal(run.cid, number)
            if await deadline.wait_for(ended, at_least):
                return
        await node.runtime.kill(run.cid)
        await ended.wait()


async def _hook(
    node: Node, pod: Pod, container: Container, run: Run, ended: asyncio.Event, deadline: Deadline, ip: str
) -> str:
    hook = container.lifecycle.pre_stop
    assert hook is not None
    work = asyncio.create_task(actions.perform(node, container, run.cid, hook, ip, deadline.left))
    over = asyncio.create_task(deadline.wait_for(ended))
    await asyncio.wait({work, over}, return_when=asyncio.FIRST_COMPLETED)
    over.cancel()
    if work.done():
        return work.result()
    work.cancel()
    return "" if ended.is_set() else "it did not end within the grace period"
