"""The agent's end of the CNI plugin's socket: one HTTP request per connection, with the pod's network namespace as a
descriptor.

A descriptor, rather than a path, because the runtime's paths mean nothing in the agent's mount namespace. Only root
can connect.
"""

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from tulle.cni import sockets
from tulle.cni.agent import Agent, CaptureError
from tulle.cni.netns import NamespaceError, PodNetns

MAX_REQUEST = 64 * 1024
READ_SECONDS = 5.0

log = structlog.get_logger("tulle.cni")


@dataclass(frozen=True)
class AddRequest:
    """What the plugin says of a new pod."""

    namespace: str
    name: str
    uid: str
    ips: tuple[str, ...]


class BadRequestError(Exception):
    """The request cannot be understood; the message says what was expected."""


def parse(data: bytes) -> AddRequest | None:
    """A complete request, or None when more bytes must come. Raises BadRequestError."""
    head, separator, body = data.partition(b"\r\n\r\n")
    if not separator:
        if len(data) >= MAX_REQUEST:
            raise BadRequestError("the request's header is too long")
        return None
    lines = head.decode("latin-1").split("\r\n")
    if not lines[0].startswith("POST /cmdadd HTTP/1."):
        raise BadRequestError(f"{lines[0][:80]!r}: only `POST /cmdadd` is served here")
    length = next((x.split(":", 1)[1].strip() for x in lines[1:] if x.lower().startswith("content-length:")), "")
    if not length.isdigit() or int(length) > MAX_REQUEST:
        raise BadRequestError(f"Content-Length {length!r}: a number up to {MAX_REQUEST} is expected")
    return _decode(body[: int(length)]) if len(body) >= int(length) else None


def _decode(body: bytes) -> AddRequest:
    try:
        fields: Any = json.loads(body)
        namespace, name, uid, ips = fields["namespace"], fields["name"], fields["uid"], fields["ips"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadRequestError(f"the body must be a JSON object with namespace, name, uid and ips: {error!r}") from error
    if not all(isinstance(value, str) for value in (namespace, name, uid, *ips)) or not namespace or not name:
        raise BadRequestError("namespace, name, uid and each of ips must be text; namespace and name must not be empty")
    return AddRequest(namespace, name, uid, tuple(ips))


class PluginServer:
    """Serves ``agent`` on a unix socket."""

    def __init__(self, path: Path, agent: Agent) -> None:
        self._path = path
        self._agent = agent
        self._tasks: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Listen inside the context. Raises OSError when the socket cannot be made."""
        listener = sockets.listen(self._path, socket.SOCK_STREAM, 64)
        accepting = asyncio.create_task(self._accept(listener))
        try:
            yield
        finally:
            for task in (accepting, *self._tasks):
                task.cancel()
            await asyncio.gather(accepting, *self._tasks, return_exceptions=True)
            listener.close()

    async def _accept(self, listener: socket.socket) -> None:
        async for link in sockets.accepted(listener):
            task = asyncio.create_task(self._one(link))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(sockets.closing(link))

    async def _one(self, link: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        descriptors: list[int] = []
        try:
            status, answer = await self._answer(link, descriptors)
            body = json.dumps(answer).encode()
            headers = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
            head = f"HTTP/1.1 {status}\r\n{headers}\r\n\r\n"
            await loop.sock_sendall(link, head.encode() + body)
        except OSError as error:
            log.info("the CNI plugin went away", error=str(error))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    async def _answer(self, link: socket.socket, descriptors: list[int]) -> tuple[str, dict[str, object]]:
        try:
            async with asyncio.timeout(READ_SECONDS):
                request = await _receive(link, descriptors)
            if not descriptors:
                raise BadRequestError("the pod's network namespace must come with the request, as a descriptor")
            netns = PodNetns.adopt(descriptors.pop(0))
        except TimeoutError:
            return "408 Request Timeout", {"error": f"no complete request within {READ_SECONDS:g} s"}
        except (BadRequestError, NamespaceError) as error:
            return "400 Bad Request", {"error": str(error)}
        key = (request.namespace, request.name)
        try:
            return "200 OK", {"captured": await self._agent.add(key, request.uid, netns, request.ips)}
        except CaptureError as error:
            log.warning("new pod refused for now", pod="/".join(key), error=str(error))
            return "503 Service Unavailable", {"error": str(error)}


async def _receive(link: socket.socket, descriptors: list[int]) -> AddRequest:
    """Read one request; descriptors that come with it are appended. Raises BadRequestError, OSError."""
    data = b""
    while True:
        await sockets.readable(link)
        chunk, received, _, _ = socket.recv_fds(link, MAX_REQUEST, 4)
        descriptors += received
        data += chunk
        request = parse(data)
        if request is not None:
            return request
        if not chunk:
            raise BadRequestError("the request ended early")
