"""A controller that crashes is started again; one that is cancelled leaves nothing behind."""

import asyncio

import pytest

from tulle.cluster.controllers import manager


class Fragile:
    """Crashes at its first two starts."""

    name = "fragile"

    def __init__(self, starts: list[int], steady: asyncio.Event) -> None:
        self._starts = starts
        self._steady = steady

    async def run(self) -> None:
        self._starts.append(len(self._starts))
        if len(self._starts) < 3:
            raise KeyError("a bug")
        self._steady.set()
        await asyncio.Event().wait()


async def test_a_crash_is_followed_by_a_new_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "_FIRST_PAUSE", 0.001)
    starts: list[int] = []
    steady = asyncio.Event()
    task = asyncio.create_task(manager.supervise(lambda: Fragile(starts, steady)))
    async with asyncio.timeout(60):
        await steady.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert starts == [0, 1, 2]
    assert not [t for t in asyncio.all_tasks() if t.get_name() == "fragile"]
