"""ADS over gRPC: one shell for every client, whatever it is (node proxy, waypoint, local Envoy).

Each stream has its own state machine and its own writer, so a client that reads slowly delays nobody; and since a
type has at most one unacknowledged response, it cannot make this process hold an unbounded backlog either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import grpc
import structlog
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.json_format import MessageToDict

from tulle.xds.delta import Rejection, ServerStream
from tulle.xds.resources import ResourceMap
from tulle.xds.sotw import SotwStream
from tulle.xds.subscription import CONTROL_PLANE

_log = structlog.get_logger(__name__)

SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"

#: How long listeners and routes are held back for endpoints that a client has not acknowledged.
WARMING_SECONDS: Final = 2.0

#: Channel arguments of a server with long-lived streams: notices a dead peer within 40 s, tolerates clients' own pings,
#: and does not cap the size of a first response.
SERVER_OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),
    # Calls wait their turn: by default the library cancels a share of what comes beyond a thousand waiting ones at random, and
    # whoever is cancelled comes back, which is more work than serving it would have been.
    ("grpc.server.max_pending_requests", 20_000),
    ("grpc.server.max_pending_requests_hard_limit", 40_000),
    ("grpc.server_max_unrequested_time_in_server", 120),
)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end, as far as it was proved: ``identity`` is a SPIFFE URI.

    ``attributes`` are further proved facts (the pod and node named by a token), by name.
    """

    identity: str
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClientNode:
    """A client: what it says of itself (``id``, ``metadata``) and who it proved to be (``peer``)."""

    id: str
    metadata: Mapping[str, Any]
    peer: Peer | None = None


class AccessDenied(Exception):  # noqa: N818 (a verdict, not a fault)
    """Raised by a source: this client may not have this type. Its stream is ended; the reason goes to the log only."""


class ServedElsewhere(Exception):  # noqa: N818 (a verdict, not a fault)
    """Raised by a source: another replica serves this now. The stream is ended, so that the client looks for that one."""


Source: TypeAlias = Callable[[ClientNode, str], ResourceMap | None]
Stream: TypeAlias = ServerStream | SotwStream
MakeStream: TypeAlias = Callable[[Callable[[str], ResourceMap | None], Callable[[], None]], Stream]
Authenticate: TypeAlias = Callable[[grpc.aio.ServicerContext[Any, Any]], Awaitable[Peer]]


@dataclass(slots=True, eq=False)
class Connection:
    """One open stream, for status pages: the client, and the state of each type."""

    address: str
    make: MakeStream
    node: ClientNode | None = None
    stream: Stream | None = None
    end: Callable[[], object] = lambda: None
    """Ends the stream from this side; the client comes back, here or elsewhere."""

    @property
    def state(self) -> ServerStream | None:
        """The protocol's state, whichever form of it the client speaks; ``None`` before its first request."""
        return self.stream.inner if isinstance(self.stream, SotwStream) else self.stream


class AdsServer:
    """Serves ``DeltaAggregatedResources``, and the older ``StreamAggregatedResources``, on any number of grpc.aio servers.

    ``source(node, type_url)`` gives a client's collection, ``None`` for a type that is not served, or raises
    ``AccessDenied`` or ``ServedElsewhere``. It is asked once per stream and type. ``authenticate`` proves who the client is before anything
    is read from it (it raises by ``context.abort``); ``on_rejection`` hears of every NACK, and ``on_answer`` is called after
    every request and after a stream's end: whenever what clients have acknowledged may have become something else.
    ``control_plane`` is what the server calls itself in every answer, and ``on_push`` hears of each answer's type.
    """

    def __init__(
        self,
        source: Source,
        authenticate: Authenticate | None = None,
        on_rejection: Callable[[ClientNode, Rejection], None] | None = None,
        on_answer: Callable[[], None] | None = None,
        control_plane: str = CONTROL_PLANE,
        *,
        on_push: Callable[[str], None] | None = None,
    ) -> None:
        self._source = source
        self._control_plane = control_plane
        self._on_push = on_push
        self._authenticate = authenticate
        self._on_rejection = on_rejection
        self._on_answer = on_answer
        self._connections: set[Connection] = set()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the service's method on a server."""
        server.add_generic_rpc_handlers((self.handler(),))

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """The service as a handler, for ``add_generic_rpc_handlers``."""
        methods = {
            "DeltaAggregatedResources": grpc.stream_stream_rpc_method_handler(
                self._delta, request_deserializer=discovery_pb2.DeltaDiscoveryRequest.FromString
            ),
            "StreamAggregatedResources": grpc.stream_stream_rpc_method_handler(
                self._sotw, request_deserializer=discovery_pb2.DiscoveryRequest.FromString
            ),
        }
        return grpc.method_handlers_generic_handler(SERVICE, methods)

    @property
    def connections(self) -> Iterable[Connection]:
        """The streams that are open now."""
        return tuple(self._connections)

    async def _delta(self, _: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await self._serve(context, ServerStream)

    async def _sotw(self, _: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        await self._serve(context, SotwStream.make)

    async def _serve(self, context: grpc.aio.ServicerContext[Any, Any], make: MakeStream) -> None:
        peer = None if self._authenticate is None else await self._authenticate(context)
        connection = Connection(context.peer(), make)
        self._connections.add(connection)
        work = asyncio.Event()
        reader = asyncio.ensure_future(self._read(connection, peer, context, work))
        writer = asyncio.ensure_future(_write(connection, context, work, self._control_plane, self._on_push))
        connection.end = reader.cancel
        try:
            await asyncio.wait((reader, writer), return_when=asyncio.FIRST_COMPLETED)
        finally:
            # This may be cancelled once more at any await, so the books are closed before the first one.
            reader.cancel()
            writer.cancel()
            self._connections.discard(connection)
            if connection.stream is not None:
                connection.stream.close()
            self._answered()
            await asyncio.wait((reader, writer))
        await _end(connection, context, reader, writer)

    async def _read(
        self,
        connection: Connection,
        peer: Peer | None,
        context: grpc.aio.ServicerContext[Any, Any],
        work: asyncio.Event,
    ) -> None:
        while (request := await context.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
            node, stream = self._greet(connection, peer, request, work)
            rejection = stream.receive(request)
            if rejection is not None:
                self._note(node, rejection)
            if stream.has_work:
                work.set()
            self._answered()

    def _answered(self) -> None:
        if self._on_answer is not None:
            self._on_answer()

    def _greet(
        self,
        connection: Connection,
        peer: Peer | None,
        request: Any,
        work: asyncio.Event,
    ) -> tuple[ClientNode, Stream]:
        if connection.node is not None and connection.stream is not None:
            return connection.node, connection.stream
        node = ClientNode(request.node.id, MessageToDict(request.node.metadata), peer)
        connection.node = node
        connection.stream = connection.make(lambda type_url: self._source(node, type_url), work.set)
        return node, connection.stream

    def _note(self, node: ClientNode, rejection: Rejection) -> None:
        _log.warning(
            "xds_rejected",
            node=node.id,
            type_url=rejection.type_url,
            resources=list(rejection.names[:10]),
            reason=rejection.message,
        )
        if self._on_rejection is not None:
            self._on_rejection(node, rejection)


async def _write(
    connection: Connection,
    context: grpc.aio.ServicerContext[Any, Any],
    work: asyncio.Event,
    control_plane: str,
    on_push: Callable[[str], None] | None,
) -> None:
    loop = asyncio.get_running_loop()
    deadline: float | None = None
    while True:
        try:
            await _wait(work, deadline)
        except TimeoutError:
            _stop_waiting(connection)
        work.clear()
        stream = connection.stream
        if stream is None:
            continue
        for push in stream.pushes():
            await context.write(push.encode(control_plane))
            if on_push is not None:
                on_push(push.type_url)
        deadline = (deadline or loop.time() + WARMING_SECONDS) if stream.waiting else None


async def _wait(work: asyncio.Event, deadline: float | None) -> None:
    if deadline is None:
        await work.wait()
        return
    async with asyncio.timeout_at(deadline):
        await work.wait()


def _stop_waiting(connection: Connection) -> None:
    if connection.stream is not None and connection.node is not None and connection.stream.waiting:
        _log.warning("xds_endpoints_not_asked_for", node=connection.node.id, waited_seconds=WARMING_SECONDS)
        connection.stream.stop_waiting()


async def _end(
    connection: Connection,
    context: grpc.aio.ServicerContext[Any, Any],
    reader: asyncio.Future[None],
    writer: asyncio.Future[None],
) -> None:
    """Say why a stream ended: a denial to the client, a fault of ours to the caller, a client's leaving to nobody."""
    for task in (reader, writer):
        error = None if task.cancelled() else task.exception()
        if isinstance(error, AccessDenied):
            node = connection.node.id if connection.node is not None else ""
            _log.warning("xds_denied", node=node, address=connection.address, reason=str(error))
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "permission denied")
        if isinstance(error, ServedElsewhere):
            await context.abort(grpc.StatusCode.UNAVAILABLE, str(error))
        if error is not None and not context.done():
            raise error
