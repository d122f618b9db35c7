"""A connection to a port of a pod, through the API server, as `kubectl port-forward` makes it.

Admin pages of proxies listen on the pod's loopback address only, so that nobody but who may port-forward can read them. The API server
offers a websocket in which SPDY frames travel (`SPDY/3.1+portforward.k8s.io`); here one such websocket carries one HTTP request.
"""

from __future__ import annotations

import http.client
import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from tulle.cli.console import CommandError
from tulle.cli.podsocket import PodAction, connected
from tulle.cluster.node.server import spdy
from tulle.kube.client import Client

PROTOCOL = "SPDY/3.1+portforward.k8s.io"
_ERROR_STREAM, _DATA_STREAM = 1, 3
"""Streams opened by a client have odd numbers; the one for errors comes first."""


class PortForwardError(CommandError):
    """The pod's port cannot be reached; the message names pod, port and reason."""


@dataclass(frozen=True)
class PodPort:
    """A port on the loopback address of a pod."""

    namespace: str
    pod: str
    port: int

    def __str__(self) -> str:
        return f"port {self.port} of pod {self.namespace}/{self.pod}"


async def http_request(client: Client, target: PodPort, path: str, method: str = "GET") -> bytes:
    """One HTTP request to a pod's port; the body of a 2xx answer. Raises PortForwardError, PodSocketError."""
    request = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    answer = http.client.HTTPResponse(_Received(await exchange(client, target, request.encode())))  # type: ignore[arg-type]
    try:
        answer.begin()
        body = answer.read()
    except http.client.HTTPException as error:
        raise PortForwardError(f"{target} does not speak HTTP: {error!r}") from error
    if not 200 <= answer.status < 300:
        text = body.decode(errors="replace").strip()
        raise PortForwardError(f"{method} {path} at {target}: status {answer.status} {answer.reason}: {text}")
    return body


class _Received:
    """What was received, in the form in which the standard library reads a response."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)


async def exchange(client: Client, target: PodPort, sent: bytes) -> bytes:
    """Send bytes to a pod's port, and everything that comes back until the pod closes. Raises PortForwardError, PodSocketError."""
    async with connected(client, PodAction(target.namespace, target.pod, "portforward"), (PROTOCOL,)) as socket:
        return await _Exchange(socket, target).run(sent)


class _Exchange:
    """One connection inside the websocket."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, target: PodPort) -> None:
        self._socket = socket
        self._target = target
        self._framer = spdy.Framer()
        self._deflate = zlib.compressobj(zdict=spdy.DICTIONARY)
        self._received = bytearray()
        self._error = bytearray()

    async def run(self, sent: bytes) -> bytes:
        headers = {"port": str(self._target.port), "requestid": "0"}
        await self._socket.send_bytes(self._open(_ERROR_STREAM, {**headers, "streamtype": "error"}))
        await self._socket.send_bytes(spdy.data_frame(_ERROR_STREAM, b"", fin=True))
        await self._socket.send_bytes(self._open(_DATA_STREAM, {**headers, "streamtype": "data"}))
        await self._socket.send_bytes(spdy.data_frame(_DATA_STREAM, sent))
        ended: set[int] = set()
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.BINARY:
                continue
            for frame in self._framer.receive(message.data):
                ended |= await self._frame(frame)
            if _DATA_STREAM in ended and (self._received or _ERROR_STREAM in ended):
                break
        if self._error:
            text = self._error.decode(errors="replace").strip()
            raise PortForwardError(f"{self._target} cannot be reached: {text}")
        return bytes(self._received)

    def _open(self, stream: int, headers: Mapping[str, str]) -> bytes:
        """A SYN_STREAM frame (SPDY 3.1, 2.6.1)."""
        text = struct.pack(">I", len(headers))
        for name, value in headers.items():
            text += b"".join(struct.pack(">I", len(part)) + part.encode() for part in (name, value))
        block = self._deflate.compress(text) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        payload = struct.pack(">IIH", stream, 0, 0) + block
        return struct.pack(">HHI", 0x8000 | spdy.VERSION, 1, len(payload)) + payload

    async def _frame(self, frame: spdy.Frame) -> set[int]:
        """Take one frame; returns the streams that end with it."""
        if isinstance(frame, spdy.Data):
            (self._error if frame.stream == _ERROR_STREAM else self._received).extend(frame.payload)
            if frame.payload and not frame.fin:
                await self._socket.send_bytes(spdy.window_update(frame.stream, len(frame.payload)))
            return {frame.stream} if frame.fin else set()
        if frame.kind == "PING":
            await self._socket.send_bytes(spdy.ping(frame.value))
        return {frame.stream} if frame.fin or frame.kind == "RST_STREAM" else set()
