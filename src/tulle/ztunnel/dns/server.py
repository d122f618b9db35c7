"""One small server per captured pod, on the pod's loopback, where its questions are redirected to.

What the mesh knows is answered at once.  The rest costs a task each until the resolver has answered, and a pod may have
so many of them and no more: beyond that the client's own retry is the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from tulle.ztunnel.config.local_pod import LocalPod
from tulle.ztunnel.dns import lookup, message, origin, relay
from tulle.ztunnel.dns.counters import DnsCounters
from tulle.ztunnel.dns.origin import HostPort, UnknownOriginError
from tulle.ztunnel.netns import made_inside
from tulle.ztunnel.state.mesh import Mesh

_log = structlog.get_logger("tulle.ztunnel")

DNS_PORT: Final = 15053
#: Questions of one pod that may be on their way at the same time, and connections that it may have open.
MAX_ON_THEIR_WAY: Final = 256
MAX_CONNECTIONS: Final = 64
_IDLE_SECONDS: Final = 10.0
_LARGEST: Final = 65535
_LOOPBACK: Final = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
_RESOLV_CONF: Final = Path("/etc/resolv.conf")


class DnsProxy:
    """The servers of all pods.  `place` says how names are read."""

    def __init__(self, mesh: Mesh, place: lookup.Place, counters: DnsCounters) -> None:
        self._mesh = mesh
        self._place = place
        self._counters = counters
        self._servers: dict[str, _PodServer] = {}

    async def open(self, pod: LocalPod, netns: int) -> None:
        """Serve a pod, unless it is served already, in place of what served the same uid in another namespace.

        Raises OSError if the port cannot be had."""
        before = self._servers.get(pod.uid)
        if before is not None and before.pod == pod:
            return
        server = _PodServer(pod, netns, self._mesh, self._place, self._counters)
        await server.open()
        self.close(pod.uid)
        self._servers[pod.uid] = server

    def close(self, uid: str) -> None:
        """Stop serving a pod; one that is not served is no error."""
        server = self._servers.pop(uid, None)
        if server is not None:
            server.close()

    def close_all(self) -> None:
        """Leave the questions to the proxy that takes over."""
        for uid in tuple(self._servers):
            self.close(uid)


class _PodServer:
    def __init__(self, pod: LocalPod, netns: int, mesh: Mesh, place: lookup.Place, counters: DnsCounters) -> None:
        self.pod = pod
        self._netns = netns
        self._mesh = mesh
        self._place = place
        self._counters = counters
        self._ways_in: list[asyncio.DatagramTransport | asyncio.Server] = []
        self._tracking: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections = 0

    async def open(self) -> None:
        """Raises OSError."""
        loop = asyncio.get_running_loop()
        links: list[socket.socket] = []
        try:
            for family in _LOOPBACK:
                links += self._links(family)
            self._tracking = made_inside(self._netns, origin.open_tracking)
            while links:
                link = links.pop()
                if link.type == socket.SOCK_STREAM:
                    self._ways_in.append(await asyncio.start_server(self._connection, sock=link))
                else:
                    made, _ = await loop.create_datagram_endpoint(partial(_Datagrams, self), sock=link)
                    self._ways_in.append(made)
        except OSError:
            for link in links:
                link.close()
            self.close()
            raise

    def _links(self, family: socket.AddressFamily) -> list[socket.socket]:
        """Listening sockets on the pod's loopback; none for IPv6 where the pod has none."""
        found: list[socket.socket] = []
        try:
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                found.append(made_inside(self._netns, partial(_listening, family, kind)))
        except OSError:
            for link in found:
                link.close()
            if family == socket.AF_INET6:
                return []
            raise
        return found

    def close(self) -> None:
        self._netns = -1  # the descriptor's number may soon be another pod's
        for way_in in self._ways_in:
            way_in.close()
        for task in self._tasks:
            task.cancel()
        if self._tracking is not None:
            self._tracking.close()

    # -- questions ----------------------------------------------------------------------------------------------------

    def datagram(self, query: bytes, peer: HostPort, transport: asyncio.DatagramTransport) -> None:
        """Answer a datagram, now or when the resolver has."""
        if not message.is_query(query):
            return
        known = self._known(query, stream=False)
        if known is not None:
            transport.sendto(known, peer)
        elif len(self._tasks) < MAX_ON_THEIR_WAY:
            task = asyncio.create_task(self._forward_datagram(query, peer, transport))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _forward_datagram(self, query: bytes, peer: HostPort, transport: asyncio.DatagramTransport) -> None:
        own: HostPort = transport.get_extra_info("sockname")[:2]
        answer = await self._forward(query, partial(self._origin_of_datagram, own, peer), stream=False)
        if not transport.is_closing():
            transport.sendto(answer, peer)

    def _origin_of_datagram(self, own: HostPort, peer: HostPort) -> HostPort:
        if self._tracking is None:
            raise UnknownOriginError("connection tracking is closed")
        return origin.of_datagram(self._tracking, own, peer)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        try:
            with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError, OSError):
                while self._connections <= MAX_CONNECTIONS and not await self._answered_all(reader, writer):
                    pass
        finally:
            self._connections -= 1
            writer.close()

    async def _answered_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer the next question of a connection; True when there is nothing to wait for any more."""
        async with asyncio.timeout(_IDLE_SECONDS):
            query = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
        if not message.is_query(query):
            return True
        answer = self._known(query, stream=True)
        if answer is None:
            descriptor: int = writer.get_extra_info("socket").fileno()
            answer = await self._forward(query, partial(origin.of_stream, descriptor), stream=True)
        writer.write(len(answer).to_bytes(2, "big") + answer)
        await writer.drain()
        return False

    def _known(self, query: bytes, *, stream: bool) -> bytes | None:
        """The answer of the mesh, None for what the mesh does not know."""
        question = message.read(query)
        version = message.ADDRESS_TYPES.get(question.kind) if question is not None else None
        if question is None or version is None:
            return None
        found = lookup.find(self._mesh, self._place, question.name, self.pod.namespace)
        if found is None:
            return None
        self._counters.asked(self._labels(question.kind, stream=stream))
        addresses = lookup.addresses(self._mesh, self._place, found.service, version)
        random.shuffle(addresses)
        return message.answer(question, addresses, found.alias, stream=stream)

    async def _forward(self, query: bytes, whom: Callable[[], HostPort], *, stream: bool) -> bytes:
        question = message.read(query)
        labels = self._labels(question.kind if question is not None else 0, stream=stream)
        self._counters.asked(labels)
        began = time.monotonic()
        try:
            answer = await relay.ask(self._netns, query, self._resolver(whom), stream=stream)
        except OSError as error:
            _log.debug("resolver did not answer", pod=self.pod.name, namespace=self.pod.namespace, reason=str(error))
            answer = message.failure(query)
            self._counters.failed(labels)
        self._counters.forwarded(labels, time.monotonic() - began)
        return answer

    def _resolver(self, whom: Callable[[], HostPort]) -> HostPort:
        """Whom the pod asked, or this proxy's own resolver where the kernel cannot tell.  Raises OSError for neither."""
        try:
            return whom()
        except UnknownOriginError as error:
            _log.warning("asking the node proxy's own resolver", pod=self.pod.name, reason=str(error))
        for line in _RESOLV_CONF.read_text().splitlines():
            words = line.split()
            if words[:1] == ["nameserver"] and len(words) > 1:
                return words[1], 53
        raise OSError(f"{_RESOLV_CONF} names no resolver")

    def _labels(self, kind: int, *, stream: bool) -> tuple[str, str, str, str]:
        pod = self.pod
        workload = self._mesh.pod(pod.namespace, pod.name, pod.service_account)
        return DnsCounters.labels(kind, stream=stream, client=workload)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: _PodServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self._transport is not None:
            self._server.datagram(data, addr, self._transport)


def _listening(family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
    """Shared with the proxy that takes over, or that this one takes over from."""
    link = socket.socket(family, kind)
    try:
        link.setblocking(False)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if kind == socket.SOCK_STREAM:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        link.bind((_LOOPBACK[family], DNS_PORT))
        if kind == socket.SOCK_STREAM:
            link.listen()
    except OSError:
        link.close()
        raise
    return link
