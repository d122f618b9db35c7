"""How long a proxy runs: until it is told to stop, or until something that should run for ever does not."""

from __future__ import annotations

import asyncio
from collections.abc import Collection


async def until(
    stop: asyncio.Event, tasks: Collection[asyncio.Task[None]], may_end: Collection[asyncio.Task[None]] = ()
) -> None:
    """Wait for `stop`.  A task that fails ends the waiting with its error, and so does one of `tasks` that just ends.

    `may_end`: tasks that are done at some time, and are awaited only for their errors.  Raises RuntimeError for a task
    that ended, and whatever a task raised.
    """
    stopping = asyncio.create_task(_set(stop), name="stop")
    waiting = {stopping, *tasks, *may_end}
    try:
        while not stopping.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done - {stopping}:
                task.result()
                if task not in may_end:
                    raise RuntimeError(f"{task.get_name()} ended unexpectedly")
    finally:
        stopping.cancel()


async def _set(event: asyncio.Event) -> None:
    await event.wait()
