"""The end of a watch from the server's side: what had happened by then is told first."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tulle.cluster.apiserver.rest.read import Filter
from tulle.cluster.apiserver.rest.watch import _Following
from tulle.cluster.apiserver.selectors import EVERYTHING
from tulle.cluster.store import Key

from .conftest import Api


class SlowClient:
    """Takes its time for the first line, as a client does whose window is full."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.busy, self.free = asyncio.Event(), asyncio.Event()

    async def write(self, data: bytes) -> None:
        self.written.append(data)
        self.busy.set()
        await self.free.wait()


class Plain:
    def line(self, change: str, value: bytes) -> bytes:
        return change.encode()

    def bookmark(self, *_: Any) -> bytes:
        return b"BOOKMARK"


async def test_a_watch_that_is_ended_tells_what_came_before(api: Api) -> None:
    store, client = api.server.store, SlowClient()
    watcher = store.watch("xs", "", store.revision)
    deadline = time.monotonic() + 60
    following = _Following(client, watcher, store, Filter(EVERYTHING, EVERYTHING), Plain(), deadline, True)  # type: ignore[arg-type]
    task = asyncio.create_task(following.run())
    record = await store.write(Key("xs", "", "a"), {"metadata": {"name": "a"}}, 0)
    await client.busy.wait()
    await store.delete(Key("xs", "", "a"), {"metadata": {"name": "a"}}, record.revision)
    store.interrupt("xs")  # its definition is gone
    client.free.set()
    async with asyncio.timeout(5):
        await task
    assert client.written == [b"ADDED", b"DELETED"]
