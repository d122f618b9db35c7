"""A plain HBONE peer on `h2` and `ssl`: HTTP/2 CONNECT over mutual TLS, as any mesh proxy speaks it.

Written from the public protocol and not from the product, so that a test can say what crosses the wire without trusting the code
under test.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions


def tls(cert: str, key: str, ca: str, *, server: bool) -> ssl.SSLContext:
    """Mutual TLS 1.3 with ALPN h2; names are not checked here, identities are the test's to look at."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(cert, key)
    context.load_verify_locations(ca)
    context.set_alpn_protocols(["h2"])
    return context


def spiffe_of(transport: asyncio.BaseTransport) -> str:
    """The URI SAN of the peer's certificate; empty when the peer was not asked for one, or has none."""
    peer = transport.get_extra_info("ssl_object").getpeercert()
    return next((value for kind, value in peer.get("subjectAltName", ()) if kind == "URI"), "")


@dataclass
class Tunnel:
    """One CONNECT stream seen as a byte stream."""

    status: int
    headers: dict[str, str]
    reader: asyncio.StreamReader
    write: Callable[[bytes], Awaitable[None]]
    close: Callable[[], Awaitable[None]]


class Client:
    """One HBONE connection from a client; open as many tunnels as the test needs."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.peer = spiffe_of(writer.transport)
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8"))
        self._h2.initiate_connection()
        self._streams: dict[int, tuple[asyncio.Future[tuple[int, dict[str, str]]], asyncio.StreamReader]] = {}
        self._ended = False
        self._task = asyncio.create_task(self._pump())

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(cls, host: str, port: int, context: ssl.SSLContext) -> AsyncIterator[Client]:
        async with cls.over(*await asyncio.open_connection(host, port, ssl=context)) as client:
            yield client

    @classmethod
    @contextlib.asynccontextmanager
    async def over(cls, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> AsyncIterator[Client]:
        """On a connection that is there, and that ends with it."""
        client = cls(reader, writer)
        await client._flush()
        try:
            yield client
        finally:
            client._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError, ssl.SSLError):
                await client._task
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async def _flush(self) -> None:
        self._writer.write(self._h2.data_to_send())
        await self._writer.drain()

    async def _pump(self) -> None:
        # A peer that refuses the client's certificate says so only now, by a TLS alert: that is an end like any other.
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := await self._reader.read(65536):
                for event in self._h2.receive_data(data):
                    self._on(event)
                await self._flush()
        self._ended = True
        for opened, reader in self._streams.values():
            reader.feed_eof()
            if not opened.done():
                opened.set_exception(ConnectionError("HBONE connection closed"))

    def _on(self, event: h2.events.Event) -> None:
        stream = self._streams.get(getattr(event, "stream_id", 0))
        if stream is None:
            return
        opened, reader = stream
        match event:
            case h2.events.ResponseReceived(headers=headers):
                fields = dict(headers)
                opened.set_result((int(fields[":status"]), fields))
            case h2.events.DataReceived(data=data, flow_controlled_length=length):
                reader.feed_data(data)
                self._h2.acknowledge_received_data(length, event.stream_id)
            case h2.events.StreamEnded() | h2.events.StreamReset():
                reader.feed_eof()
                if not opened.done():
                    opened.set_exception(ConnectionError("stream reset before an answer"))

    async def tunnel(
        self, authority: str, headers: tuple[tuple[str, str], ...] = (), method: str = "CONNECT"
    ) -> Tunnel:
        """Open a CONNECT stream and wait for its status. Raises ConnectionError when the connection ends instead."""
        if self._ended:
            raise ConnectionError("HBONE connection closed")
        stream_id = self._h2.get_next_available_stream_id()
        opened: asyncio.Future[tuple[int, dict[str, str]]] = asyncio.get_running_loop().create_future()
        reader = asyncio.StreamReader()
        self._streams[stream_id] = (opened, reader)
        pseudo = [(":method", method), (":authority", authority)]
        if method != "CONNECT":
            pseudo += [(":scheme", "https"), (":path", "/")]
        self._h2.send_headers(stream_id, [*pseudo, *headers])
        await self._flush()
        status, fields = await asyncio.wait_for(opened, 60)

        async def write(data: bytes) -> None:
            self._h2.send_data(stream_id, data)
            await self._flush()

        async def close() -> None:
            self._h2.end_stream(stream_id)
            await self._flush()

        return Tunnel(status, fields, reader, write, close)


@dataclass
class Accepted:
    """A CONNECT that a server saw."""

    authority: str
    peer: str
    headers: dict[str, str]


@dataclass
class Server:
    """An HBONE server: answers each CONNECT by `decide` (a status), and on 200 splices to the address `backend` names.

    `abrupt`: what the backend says is sent at its end and in one piece with the stream's end and reset, as a proxy does whose
    application answers and closes at once.
    """

    context: ssl.SSLContext
    backend: tuple[str, int]
    decide: Callable[[Accepted], int] = lambda _accepted: 200
    abrupt: bool = False
    seen: list[Accepted] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def serving(self, host: str, port: int) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._connection, host, port, ssl=self.context)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = spiffe_of(writer.transport)
        conn = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        conn.initiate_connection()
        writer.write(conn.data_to_send())
        backends: dict[int, asyncio.StreamWriter] = {}
        tasks: set[asyncio.Task[None]] = set()

        async def copy_back(stream: int, source: asyncio.StreamReader) -> None:
            while data := await source.read(16384):
                conn.send_data(stream, data)
                if not self.abrupt:
                    writer.write(conn.data_to_send())
            # The client may have ended the stream while the backend was still closing.
            with contextlib.suppress(h2.exceptions.StreamClosedError):
                conn.end_stream(stream)
                if self.abrupt:
                    conn.reset_stream(stream, h2.errors.ErrorCodes.NO_ERROR)
            writer.write(conn.data_to_send())

        try:
            while data := await reader.read(65536):
                for event in conn.receive_data(data):
                    match event:
                        case h2.events.RequestReceived(stream_id=stream, headers=headers):
                            fields = dict(headers)
                            accepted = Accepted(fields[":authority"], peer, fields)
                            self.seen.append(accepted)
                            status = self.decide(accepted)
                            conn.send_headers(stream, [(":status", str(status))], end_stream=status != 200)
                            if status == 200:
                                back_reader, backends[stream] = await asyncio.open_connection(*self.backend)
                                task = asyncio.create_task(copy_back(stream, back_reader))
                                tasks.add(task)
                                task.add_done_callback(tasks.discard)
                        case h2.events.DataReceived(stream_id=stream, data=body, flow_controlled_length=length):
                            conn.acknowledge_received_data(length, stream)
                            backends[stream].write(body)
                        case h2.events.StreamEnded(stream_id=stream) | h2.events.StreamReset(stream_id=stream):
                            if stream in backends:
                                backends.pop(stream).close()
                writer.write(conn.data_to_send())
                await writer.drain()
        except (ConnectionError, ssl.SSLError):
            return
        finally:
            for task in tasks:
                task.cancel()
            for backend in backends.values():
                backend.close()
            writer.close()
