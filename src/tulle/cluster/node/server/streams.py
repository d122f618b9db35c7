"""`exec` and `attach`: a websocket on one side, a process or a running container on the other."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import WSMsgType, web

from tulle.cluster.node.pods.manager import PodManager
from tulle.cluster.node.pods.node import Node
from tulle.cluster.node.runtime.exec import ExecError, ExecRequest, ExecSession
from tulle.cluster.node.runtime.shim import protocol
from tulle.cluster.node.runtime.shim.client import Attachment, ShimError
from tulle.cluster.node.server import channels
from tulle.cluster.node.server.upgrade import upgraded

log = structlog.get_logger("tulle.node.streams")

Input = Callable[[int, bytes], Awaitable[None]]


def _flag(request: web.Request, *names: str) -> bool:
    return any(request.query.get(name, "").lower() in {"true", "1"} for name in names)


class StreamHandler:
    """Serves `/exec/...` and `/attach/...`."""

    def __init__(self, node: Node, manager: PodManager) -> None:
        self._node = node
        self._manager = manager

    def _cid(self, request: web.Request) -> str:
        namespace, pod, container = (request.match_info[name] for name in ("namespace", "pod", "container"))
        run = self._manager.running(namespace, pod, container)
        if run is None or not run.cid:
            raise web.HTTPNotFound(
                text=f'container "{container}" of pod "{namespace}/{pod}" is not running on this node'
            )
        if run.state != "running":
            raise web.HTTPBadRequest(
                text=f'container "{container}" of pod "{namespace}/{pod}" is not running: it has ended'
            )
        return run.cid

    async def exec(self, request: web.Request) -> web.StreamResponse:
        """Run `?command=...` and answer with its output and exit code."""
        cid = self._cid(request)
        command = request.query.getall("command", [])
        if not command:
            raise web.HTTPBadRequest(text="exec needs at least one `command` parameter")
        tty = _flag(request, "tty")
        wanted = ExecRequest(command, stdin=_flag(request, "stdin", "input"), tty=tty)
        socket = await upgraded(request, channels.PROTOCOLS)
        try:
            session = await ExecSession.start(self._node.runtime.directory(cid), self._node.paths.crun, cid, wanted)
        except (ExecError, OSError) as error:
            return await _refuse(socket, f"failed to exec in container: {error}")
        errors = not tty and _flag(request, "stderr", "error")
        await _Exec(socket, session, stderr=errors).run()
        return socket

    async def attach(self, request: web.Request) -> web.StreamResponse:
        """Join the streams of the container's own process."""
        cid = self._cid(request)
        record = self._node.runtime.statuses[cid].record
        socket = await upgraded(request, channels.PROTOCOLS)
        try:
            attachment = await self._node.runtime.attach(
                cid,
                stdin=_flag(request, "stdin", "input") and record.stdin,
                stdout=_flag(request, "stdout", "output"),
                stderr=_flag(request, "stderr", "error") and not record.tty,
            )
        except ShimError as error:
            return await _refuse(socket, f"failed to attach to container: {error}")
        await _Attach(socket, attachment).run()
        return socket


async def _refuse(socket: web.WebSocketResponse, message: str) -> web.StreamResponse:
    await socket.send_bytes(channels.failure(message))
    await socket.close()
    return socket


async def _receive(socket: web.WebSocketResponse, take: Input) -> None:
    """Give every message to `take` until the client is gone."""
    async for message in socket:
        if message.type is WSMsgType.BINARY and message.data:
            await take(message.data[0], message.data[1:])
        elif message.type is WSMsgType.TEXT and message.data:
            await take(ord(message.data[0]), message.data[1:].encode())


async def _first(*works: Awaitable[object]) -> set[int]:
    """Run all until one is done, then cancel the others; the indexes of those that were done. Their exceptions are
    raised.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
    return {index for index, task in enumerate(tasks) if task in done}


class _Exec:
    """One exec session."""

    def __init__(self, socket: web.WebSocketResponse, session: ExecSession, *, stderr: bool) -> None:
        self._socket = socket
        self._session = session
        self._stderr = stderr

    async def run(self) -> None:
        """Until the command ends or the client goes; then neither is left behind."""
        try:
            finished = await _first(self._output(), _receive(self._socket, self._input))
            if 0 in finished:
                await self._report()
        except ConnectionError:
            log.debug("exec client went away")
        finally:
            await self._session.hang_up()
            await self._socket.close()

    async def _output(self) -> None:
        await asyncio.gather(
            self._copy(self._session.read_stdout, channels.STDOUT),
            self._copy(self._session.read_stderr, channels.STDERR),
        )

    async def _copy(self, read: Callable[[], Awaitable[bytes]], channel: int) -> None:
        wanted = channel == channels.STDOUT or self._stderr
        while data := await read():
            if wanted:
                await self._socket.send_bytes(bytes([channel]) + data)

    async def _input(self, channel: int, data: bytes) -> None:
        if channel == channels.STDIN:
            await self._session.write(data)
        elif channel == channels.RESIZE:
            size = channels.size(data)
            if size is not None:
                self._session.resize(*size)
        elif channel == channels.CLOSE and data == bytes([channels.STDIN]):
            self._session.close_stdin()

    async def _report(self) -> None:
        try:
            message = channels.exit_code(await self._session.wait())
        except ExecError as error:
            message = channels.failure(f"failed to exec in container: {error}")
        await self._socket.send_bytes(message)


class _Attach:
    """One attach session; it ends with the container or with the client, whichever is first."""

    def __init__(self, socket: web.WebSocketResponse, attachment: Attachment) -> None:
        self._socket = socket
        self._attachment = attachment

    async def run(self) -> None:
        try:
            finished = await _first(self._output(), _receive(self._socket, self._input))
            if 0 in finished:
                await self._socket.send_bytes(channels.success())
        except ConnectionError:
            log.debug("attach client went away")
        finally:
            self._attachment.close()
            with contextlib.suppress(ConnectionError):
                await self._socket.close()

    async def _output(self) -> None:
        while frames := await self._attachment.read():
            for channel, data in frames:
                await self._socket.send_bytes(bytes([channel]) + data)

    async def _input(self, channel: int, data: bytes) -> None:
        if channel == channels.STDIN:
            await self._attachment.write(protocol.STDIN, data)
        elif channel == channels.RESIZE:
            size = channels.size(data)
            if size is not None:
                await self._attachment.write(protocol.RESIZE, struct.pack(">HH", *size))
        elif channel == channels.CLOSE and data == bytes([channels.STDIN]):
            await self._attachment.write(protocol.CLOSE_STDIN)
