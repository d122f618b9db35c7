"""The kubelet's side of the shim's socket: requests with answers, events, and attach streams."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from tulle.cluster.node.runtime.records import Status
from tulle.cluster.node.runtime.shim import protocol
from tulle.cluster.node.runtime.shim.protocol import Answer, Event, Operation, Request

_LINE_LIMIT = 64 << 20

log = structlog.get_logger("tulle.node.shim")


class ShimError(Exception):
    """The shim refused, or is not there."""


async def open_socket(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a unix socket, however long its path is. Raises ShimError."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{directory}/{path.name}")
    except OSError as error:
        sock.close()
        raise ShimError(f"the container shim does not answer on {path}: {error.strerror}") from error
    finally:
        os.close(directory)
    return await asyncio.open_unix_connection(sock=sock, limit=_LINE_LIMIT)


class ShimClient:
    """One control connection. `on_event` is told of every container that ended; `on_lost` if the shim died."""

    def __init__(self, path: Path, on_event: Callable[[Status], None], on_lost: Callable[[], None]) -> None:
        self._path = path
        self._on_event = on_event
        self._on_lost = on_lost
        self._next = 0
        self._pending: dict[int, asyncio.Future[Answer]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def connect(self) -> Sequence[Status]:
        """Connect and subscribe; the containers that the shim keeps. Raises ShimError."""
        reader, self._writer = await open_socket(self._path)
        self._reading = asyncio.create_task(self._read(reader), name="shim events")
        return await self.call("watch")

    async def call(self, op: Operation, cid: str = "", signal: int = 0) -> Sequence[Status]:
        """One request. Raises ShimError with the shim's (often crun's) own words."""
        if self._writer is None:
            raise ShimError("not connected to the container shim")
        self._next += 1
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._pending[self._next] = answer
        self._writer.write(protocol.request_line(Request(id=self._next, op=op, cid=cid, signal=signal)))
        result = await answer
        if result.error:
            raise ShimError(result.error)
        return result.statuses

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
        if self._writer is not None:
            self._writer.close()

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            # A shim that dies with requests unread resets the connection, and writing to a dead one breaks it.
            with contextlib.suppress(ConnectionError):
                while line := await reader.readline():
                    self._take(protocol.parse_message(line))
        except Exception:
            log.exception("the container shim cannot be understood")
        self._fail_pending()
        self._on_lost()

    def _take(self, message: Answer | Event) -> None:
        if isinstance(message, Event):
            try:
                self._on_event(message.status)
            except Exception:
                log.exception("news of a container not taken in", cid=message.status.record.cid)
            return
        waiting = self._pending.pop(message.id, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    def _fail_pending(self) -> None:
        for waiting in self._pending.values():
            if not waiting.done():
                waiting.set_exception(ShimError("the container shim ended"))
        self._pending.clear()
        if self._writer is not None:
            self._writer.close()
        self._writer = None


class Attachment:
    """A stream to and from a running container."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()

    @classmethod
    async def open(cls, path: Path, cid: str, *, stdin: bool, stdout: bool, stderr: bool) -> Attachment:
        """Raises ShimError if the container is not there."""
        reader, writer = await open_socket(path)
        writer.write(
            protocol.request_line(Request(id=1, op="attach", cid=cid, stdin=stdin, stdout=stdout, stderr=stderr))
        )
        line = await reader.readline()
        if not line:
            raise ShimError("the container shim ended")
        answer = protocol.parse_message(line)
        assert isinstance(answer, Answer)
        if answer.error:
            writer.close()
            raise ShimError(answer.error)
        return cls(reader, writer)

    async def read(self) -> list[tuple[int, bytes]]:
        """The next frames (channel, bytes); an empty list when the container ended."""
        while True:
            frames = protocol.parse_frames(self._buffer)
            if frames:
                return frames
            data = await self._reader.read(64 * 1024)
            if not data:
                return []
            self._buffer += data

    async def write(self, channel: int, data: bytes = b"") -> None:
        self._writer.write(protocol.frame(channel, data))
        await self._writer.drain()

    def close(self) -> None:
        self._writer.close()
