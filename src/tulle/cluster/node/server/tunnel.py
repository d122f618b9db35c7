"""`port-forward`: connections from kubectl's machine to ports of a pod, many in one websocket.

kubectl opens two SPDY streams for every connection, one for data and one on which an error would be told; the headers
say which port and which connection (`requestID`). The connection to the pod is made inside the pod's network
namespace, to its loopback address, as a runtime does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping

import structlog
from aiohttp import WSMsgType, web

from tulle.cluster.node import linux
from tulle.cluster.node.pods.manager import PodManager
from tulle.cluster.node.server import spdy
from tulle.cluster.node.server.upgrade import upgraded

PROTOCOL = "SPDY/3.1+portforward.k8s.io"
CHUNK = 32 * 1024
CONNECT_PATIENCE = 10.0

log = structlog.get_logger("tulle.node.portforward")


class ConnectError(Exception):
    """The pod does not accept a connection on the port."""


def connect_inside(netns: str, port: int) -> socket.socket:
    """A connection to the loopback address of a network namespace; blocks. Raises ConnectError.

    It is made by a thread of its own, because a thread can enter a namespace alone; the socket stays in it for life.
    """
    result: list[socket.socket | OSError] = []

    def work() -> None:
        try:
            linux.enter_network(netns)
            result.append(_connect_loopback(port))
        except OSError as error:
            result.append(error)

    thread = threading.Thread(target=work, name="port-forward")
    thread.start()
    thread.join()
    made = result[0]
    if isinstance(made, OSError):
        raise ConnectError(f"failed to connect to localhost:{port} inside the pod: {made.strerror or made}")
    return made


def _connect_loopback(port: int) -> socket.socket:
    last: OSError | None = None
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.settimeout(CONNECT_PATIENCE)
        try:
            connection.connect((address, port))
        except OSError as error:
            connection.close()
            last = last or error
        else:
            connection.setblocking(False)
            return connection
    assert last is not None
    raise last


class PortForwardHandler:
    """Serves `/portForward/{namespace}/{pod}`."""

    def __init__(self, manager: PodManager) -> None:
        self._manager = manager

    async def get(self, request: web.Request) -> web.StreamResponse:
        namespace, pod = request.match_info["namespace"], request.match_info["pod"]
        worker = self._manager.find(namespace, pod)
        if worker is None or worker.sandbox is None:
            raise web.HTTPNotFound(text=f'pod "{namespace}/{pod}" is not running on this node')
        response = await upgraded(request, (PROTOCOL,))
        if response.ws_protocol != PROTOCOL:
            await response.close(message=f"port-forward speaks {PROTOCOL} here".encode())
            return response
        netns = worker.sandbox.netns
        await Tunnel(response, lambda port: asyncio.to_thread(connect_inside, netns, port)).run()
        return response


class _Window:
    """How much may be sent on a stream; a zero window waits for the peer."""

    def __init__(self) -> None:
        self._left = spdy.INITIAL_WINDOW
        self._open = asyncio.Event()
        self._open.set()

    def grow(self, delta: int) -> None:
        self._left += delta
        if self._left > 0:
            self._open.set()

    async def take(self, count: int) -> None:
        self._left -= count
        if self._left <= 0:
            self._open.clear()
        await self._open.wait()


class _Connection:
    """One forwarded connection: its data stream, and the socket once it is there."""

    def __init__(self, stream: int, port: int) -> None:
        self.stream = stream
        self.port = port
        self.error_stream: int | None = None
        self.window = _Window()
        self.input: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.task: asyncio.Task[None] | None = None


async def both(*works: Awaitable[None]) -> None:
    """Wait for both directions; if one fails the other ends too, and the failure is raised as it was."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


class Tunnel:
    """All connections of one `kubectl port-forward`."""

    def __init__(self, socket_: web.WebSocketResponse, connect: Callable[[int], Awaitable[socket.socket]]) -> None:
        self._socket = socket_
        self._connect = connect
        self._framer = spdy.Framer()
        self._error_streams: dict[str, int] = {}
        self._by_stream: dict[int, _Connection] = {}
        self._last = 0

    async def run(self) -> None:
        """Until kubectl goes; then every connection ends."""
        try:
            async for message in self._socket:
                if message.type is WSMsgType.BINARY:
                    for frame in self._framer.receive(message.data):
                        await self._frame(frame)
        except spdy.SpdyError as error:
            log.warning("port-forward client broke the protocol", error=str(error))
        except ConnectionError:
            log.debug("port-forward client went away")
        finally:
            tasks = [c.task for c in self._by_stream.values() if c.task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with contextlib.suppress(ConnectionError):
                await self._socket.close()

    async def _frame(self, frame: spdy.Frame) -> None:
        if isinstance(frame, spdy.Data):
            await self._data(frame)
        elif frame.kind == "SYN_STREAM":
            await self._open(frame.stream, frame.headers or {})
        elif frame.kind == "PING":
            await self._socket.send_bytes(spdy.ping(frame.value))
        elif frame.kind == "WINDOW_UPDATE" and frame.stream in self._by_stream:
            self._by_stream[frame.stream].window.grow(frame.value)
        elif frame.kind == "RST_STREAM" and frame.stream in self._by_stream:
            self._end(self._by_stream[frame.stream])
        elif frame.kind == "GOAWAY":
            await self._socket.close()

    async def _data(self, frame: spdy.Data) -> None:
        connection = self._by_stream.get(frame.stream)
        if connection is None:
            return  # an error stream's half-close, or a connection that has ended
        if frame.payload:
            connection.input.put_nowait(frame.payload)
        if frame.fin:
            connection.input.put_nowait(None)

    async def _open(self, stream: int, headers: Mapping[str, str]) -> None:
        self._last = max(self._last, stream)
        await self._socket.send_bytes(self._framer.syn_reply(stream))
        kind, request = headers.get("streamtype", ""), headers.get("requestid", "")
        port = headers.get("port", "")
        if kind == "error":
            self._error_streams[request] = stream
        elif kind == "data" and port.isdigit():
            connection = _Connection(stream, int(port))
            connection.error_stream = self._error_streams.pop(request, None)
            self._by_stream[stream] = connection
            connection.task = asyncio.create_task(self._forward(connection), name=f"forward port {port}")
        else:
            await self._socket.send_bytes(spdy.rst_stream(stream, spdy.REFUSED_STREAM))

    def _end(self, connection: _Connection) -> None:
        self._by_stream.pop(connection.stream, None)
        if connection.task is not None:
            connection.task.cancel()

    async def _forward(self, connection: _Connection) -> None:
        try:
            made = await self._connect(connection.port)
            reader, writer = await asyncio.open_connection(sock=made)
            try:
                await both(self._to_pod(connection, writer), self._from_pod(connection, reader))
            finally:
                writer.close()
        except ConnectError as error:
            await self._tell(connection, f"error forwarding port {connection.port} to pod: {error}")
        except OSError:
            log.debug("forwarded connection ended", port=connection.port)
            with contextlib.suppress(ConnectionError):
                # The client is told too: kubectl keeps its side open until the stream ends.
                await self._socket.send_bytes(spdy.rst_stream(connection.stream, spdy.CANCEL))
        finally:
            await self._finish(connection)

    async def _to_pod(self, connection: _Connection, writer: asyncio.StreamWriter) -> None:
        while (data := await connection.input.get()) is not None:
            writer.write(data)
            await writer.drain()
            await self._socket.send_bytes(spdy.window_update(connection.stream, len(data)))
        writer.write_eof()

    async def _from_pod(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK):
            await connection.window.take(len(data))
            await self._socket.send_bytes(spdy.data_frame(connection.stream, data))
        await self._socket.send_bytes(spdy.data_frame(connection.stream, b"", fin=True))

    async def _tell(self, connection: _Connection, text: str) -> None:
        if connection.error_stream is not None:
            await self._socket.send_bytes(spdy.data_frame(connection.error_stream, text.encode()))
        await self._socket.send_bytes(spdy.data_frame(connection.stream, b"", fin=True))

    async def _finish(self, connection: _Connection) -> None:
        self._by_stream.pop(connection.stream, None)
        if connection.error_stream is not None:
            with contextlib.suppress(ConnectionError):
                await self._socket.send_bytes(spdy.data_frame(connection.error_stream, b"", fin=True))
