"""The DNS server's sockets: UDP and TCP on one address, each question answered on its own so that a slow resolver
delays nobody else.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import structlog
from dnslib import QTYPE, RCODE, RR

from tulle.cluster.node.network.dns import message
from tulle.cluster.node.network.dns.message import Question
from tulle.cluster.node.network.dns.upstream import Upstream
from tulle.cluster.node.network.dns.zone import Record, Zone

MAX_IN_FLIGHT = 1000
TCP_IDLE_SECONDS = 10.0
MAX_ALIASES = 8

log = structlog.get_logger("tulle.node.dns")


@dataclass
class DnsServer:
    """Answers for ``zone``, asks ``upstream`` for the rest. ``serve()`` is a context: bound inside, closed outside."""

    zone: Zone
    upstream: Upstream
    address: str
    port: int = 53
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Bind UDP and TCP. Raises OSError when the address is taken."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self), local_addr=(self.address, self.port)
        )
        try:
            server = await asyncio.start_server(self._connection, self.address, self.port)
            async with server:
                yield
        finally:
            transport.close()
            for task in tuple(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def answer(self, packet: bytes, *, udp: bool) -> bytes | None:
        """The packet to send back, or None for what must not be answered."""
        question = message.read(packet)
        if not isinstance(question, Question):
            return question
        try:
            return await self._answer(question, udp=udp)
        except Exception:
            # A record that cannot be written (a hostname too long to be a label): silence would be taken for a lost packet.
            log.exception("question not answered", name=question.name, type=question.kind)
            return message.failure(question)

    async def _answer(self, question: Question, *, udp: bool) -> bytes:
        limit = question.limit if udp else message.MAX_TCP
        found = self.zone.lookup(question.name, question.kind)
        if not found.ours:
            return await self._outside(question, limit)
        alias = found.records[0] if found.records and found.records[0].type == "CNAME" else None
        if alias is not None and question.kind != "CNAME":
            return await self._follow(question, alias, limit)
        return message.write(question, found, self.zone.domain, limit=limit)

    async def _outside(self, question: Question, limit: int) -> bytes:
        answer = await self.upstream.ask(question.name or ".", question.record.q.qtype)
        if answer is None:
            return message.failure(question)
        answer.header.id, answer.header.rd = question.record.header.id, question.record.header.rd
        answer.header.aa, answer.header.ra = 0, 1
        answer.questions = [question.record.q]
        if not any(rr.rtype == QTYPE.OPT for rr in question.record.ar):
            answer.ar = [rr for rr in answer.ar if rr.rtype != QTYPE.OPT]
        packed = bytes(answer.pack())
        if len(packed) > limit:
            answer.rr, answer.auth, answer.ar, answer.header.tc = [], [], [], 1
            packed = bytes(answer.pack())
        return packed

    async def _follow(self, question: Question, alias: Record, limit: int) -> bytes:
        """An ExternalName: its target may be another Service (even another ExternalName) or a name of the outside."""
        answers: list[RR] = []
        target = str(alias.data)
        for _ in range(MAX_ALIASES):
            found = self.zone.lookup(target, question.kind)
            if not found.ours:
                outside = await self.upstream.ask(target, question.record.q.qtype)
                if outside is None:
                    return message.failure(question)
                return message.extend(question, alias, [*answers, *outside.rr], outside.header.rcode, limit=limit)
            answers += message.resources(found.records, question)
            if not (found.records and found.records[0].type == "CNAME"):
                rcode = RCODE.NOERROR if found.exists else RCODE.NXDOMAIN
                return message.extend(question, alias, answers, rcode, limit=limit)
            target = str(found.records[0].data)
        return message.failure(question)

    def datagram(self, packet: bytes, peer: tuple[str, int], transport: asyncio.DatagramTransport) -> None:
        """Answer one datagram in a task of its own; beyond the limit the client's retry is the queue."""
        if len(self._tasks) < MAX_IN_FLIGHT:
            task = asyncio.create_task(self._reply(packet, peer, transport))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _reply(self, packet: bytes, peer: tuple[str, int], transport: asyncio.DatagramTransport) -> None:
        answer = await self.answer(packet, udp=True)
        if answer is not None and not transport.is_closing():
            transport.sendto(answer, peer)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                async with asyncio.timeout(TCP_IDLE_SECONDS):
                    size = int.from_bytes(await reader.readexactly(2), "big")
                    packet = await reader.readexactly(size)
                answer = await self.answer(packet, udp=False)
                if answer is None:
                    return
                writer.write(len(answer).to_bytes(2, "big") + answer)
                await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            return  # the client is done, or gone
        finally:
            writer.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if self._transport is not None:
            self._server.datagram(data, addr, self._transport)

    def error_received(self, exc: Exception) -> None:
        log.debug("a client is unreachable", error=str(exc))
