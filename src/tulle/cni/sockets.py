"""The agent's unix sockets: how they are opened so that only root can connect, and how one waits on them for what asyncio has no call for,
messages that carry descriptors.
"""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import structlog

#: Seconds until it is tried again when a connection could not be accepted.
AGAIN_SECONDS = 0.5
_FLAGS = socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK

log = structlog.get_logger("tulle.cni")


def listen(path: Path, kind: int, backlog: int) -> socket.socket:
    """A listener of this kind (`socket.SOCK_STREAM` …); a socket file left by an earlier process is replaced. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, kind | _FLAGS)
    previous = os.umask(0o177)
    try:
        listener.bind(str(path))
    finally:
        os.umask(previous)
    listener.listen(backlog)
    return listener


async def accepted(listener: socket.socket) -> AsyncIterator[socket.socket]:
    """Each new connection, forever. One that cannot be accepted now (no file descriptor is left, say) waits, and is not the last."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            link, _ = await loop.sock_accept(listener)
        except OSError as error:
            log.warning("connections wait to be accepted", socket=listener.getsockname(), error=str(error))
            await asyncio.sleep(AGAIN_SECONDS)
            continue
        link.setblocking(False)
        yield link


def closing(link: socket.socket) -> Callable[[asyncio.Task[Any]], None]:
    """For the end of the task that serves ``link``, which comes even if the task is cancelled before it begins."""
    return lambda _: link.close()


async def readable(link: socket.socket) -> None:
    """Wait until something can be read."""
    loop = asyncio.get_running_loop()
    await _called(lambda ready: loop.add_reader(link, ready), lambda: loop.remove_reader(link))


async def writable(link: socket.socket) -> None:
    """Wait until something can be written."""
    loop = asyncio.get_running_loop()
    await _called(lambda ready: loop.add_writer(link, ready), lambda: loop.remove_writer(link))


async def _called(watch: Callable[[Callable[[], None]], None], forget: Callable[[], object]) -> None:
    ready = asyncio.Event()
    watch(ready.set)
    try:
        await ready.wait()
    finally:
        forget()
