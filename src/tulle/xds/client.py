"""A delta ADS client over gRPC that is always connected, or about to be.

It keeps one stream, hands every response to the handler of its type, and answers with what the handler made of it.
When the stream breaks, or does not bring the first answers in reasonable time, it comes back after a jittered, growing
pause and resumes by versions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

import grpc
import structlog
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2

from tulle.xds.backoff import Backoff
from tulle.xds.delta_client import ClientState, Update
from tulle.xds.server import SERVICE

_log = structlog.get_logger(__name__)

METHOD: Final = f"/{SERVICE}/DeltaAggregatedResources"

Handler: TypeAlias = Callable[[Mapping[str, bytes], Sequence[str]], Awaitable[None] | None]
Metadata: TypeAlias = Sequence[tuple[str, str]]
#: What a broken stream looks like; everything else is a fault of this program.
_BROKEN: Final = (grpc.aio.AioRpcError, asyncio.InvalidStateError, OSError)
#: The words for an end whose reason did not arrive.
LOST: Final = "ended by the server while a request was on its way, so its reason was lost; the next attempt may tell"
_Stream: TypeAlias = "grpc.aio.StreamStreamCall[Any, Any]"


class Rejected(Exception):  # noqa: N818 (a verdict, not a fault)
    """Raised by a handler: ``reason`` goes to the server as NACK.

    ``names`` are the resources that were refused, the others being in use; without names nothing of the response is.
    """

    def __init__(self, reason: str, names: Iterable[str] | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.names = None if names is None else frozenset(names)


@dataclass(frozen=True, slots=True)
class Subscription:
    """How a type is asked for: its handler, and whether everything (``wildcard``), some names, or nothing yet."""

    handler: Handler
    wildcard: bool = True
    names: tuple[str, ...] = ()


class Termination(Enum):
    """How a stream ended: before the server said anything, by an error after that, or in order."""

    CONNECTION_ERROR = "ConnectionError"
    ERROR = "Error"
    COMPLETE = "Complete"


class AdsClient:
    """Keeps one delta ADS stream over channels made by ``channel_factory``.

    A handler is given ``(updated, removed)``: encoded resources by name, and names that are gone. It returns when they
    are in use or raises ``Rejected``; anything else it raises ends ``run``. Handlers are never called at the same time.
    ``metadata`` gives the stream's gRPC metadata (a token, say) at each attempt. ``patience`` is for how long, in
    seconds, a new stream may take until every type is answered once. ``on_begin`` is called when the server answers on a new
    stream, ``on_end`` is told how each stream ended.
    """

    def __init__(
        self,
        channel_factory: Callable[[], grpc.aio.Channel],
        node: base_pb2.Node,
        types: Mapping[str, Handler | Subscription],
        *,
        metadata: Callable[[], Metadata] = tuple,
        backoff: Backoff | None = None,
        patience: float = 30.0,
        on_begin: Callable[[], None] = lambda: None,
        on_end: Callable[[Termination], None] = lambda _: None,
    ) -> None:
        self._channel_factory = channel_factory
        self._on_begin = on_begin
        self._on_end = on_end
        self._patience = patience
        self._metadata = metadata
        self._backoff = backoff or Backoff()
        self._handlers: dict[str, Handler] = {}
        self._state = ClientState(node)
        self._outgoing: asyncio.Queue[discovery_pb2.DeltaDiscoveryRequest] = asyncio.Queue()
        self._synced = asyncio.Event()
        self._connected = False
        self._answered = False
        for type_url, how in types.items():
            subscription = how if isinstance(how, Subscription) else Subscription(how)
            self._handlers[type_url] = subscription.handler
            self._state.add_type(type_url, wildcard=subscription.wildcard, names=subscription.names)

    @property
    def connected(self) -> bool:
        """Whether the server has answered on the stream that is open now."""
        return self._connected

    def versions(self, type_url: str) -> Mapping[str, str]:
        """What was accepted of a type: name -> version."""
        return self._state.versions(type_url)

    async def synced(self) -> None:
        """Wait until every type's first answer was accepted, at least in part."""
        await self._synced.wait()

    def subscribe(self, type_url: str, names: Iterable[str]) -> None:
        """Add names (or aliases) to a type's subscription, now and on later streams."""
        self._send(self._state.subscribe(type_url, names))

    def ask_again(self, type_url: str, names: Iterable[str]) -> None:
        """Have resources of a type that is followed as a whole sent once more, say because what stood against them is over."""
        self._send(self._state.ask_again(type_url, names))

    def unsubscribe(self, type_url: str, names: Iterable[str]) -> None:
        """Leave names; the handler is not told of the resources that are thereby forgotten."""
        self._send(self._state.unsubscribe(type_url, names))

    def _send(self, requests: Iterable[discovery_pb2.DeltaDiscoveryRequest]) -> None:
        for request in requests:
            self._outgoing.put_nowait(request)

    async def run(self) -> None:
        """Stay connected until cancelled."""
        while True:
            ended = await self._attempt()
            if ended is not None and not isinstance(ended, _BROKEN):
                raise ended
            _log.info("xds_stream_ended", reason=words(ended))
            self._on_end(self._termination(ended))
            await asyncio.sleep(self._backoff.pause())

    def _termination(self, ended: BaseException | None) -> Termination:
        if ended is None:
            return Termination.COMPLETE
        return Termination.ERROR if self._answered else Termination.CONNECTION_ERROR

    async def _attempt(self) -> BaseException | None:
        try:
            channel = self._channel_factory()
        except OSError as error:  # the root certificate cannot be read (yet)
            return error.with_traceback(None)
        self._answered = False
        async with channel:
            return await self.stream(channel)

    async def stream(self, channel: grpc.aio.Channel) -> BaseException | None:
        """Speak on one stream until it ends; returns the reason (``None`` if the server ended it in order).

        The reason is returned rather than raised because a traceback through here would keep the stream's objects, and
        with them the connection, until the garbage collector comes by.
        """
        method = channel.stream_stream(
            METHOD,
            request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
        )
        try:
            call: _Stream = method(metadata=tuple(self._metadata()))  # type: ignore[call-arg]
        except OSError as error:  # the token cannot be read
            return error.with_traceback(None)
        self._outgoing = asyncio.Queue()
        self._send(self._state.connected())
        reader = asyncio.ensure_future(self._read(call))
        writer = asyncio.ensure_future(self._write(call))
        try:
            unanswered = await self._until_ended(reader, writer)
        finally:
            self._connected = False
            self._state.disconnected()
            reader.cancel()
            writer.cancel()
            call.cancel()
            await asyncio.wait((reader, writer))
        errors = (task.exception() for task in (reader, writer) if not task.cancelled())
        return unanswered or next((error for error in errors if error is not None), None)

    async def _until_ended(self, reader: asyncio.Future[None], writer: asyncio.Future[None]) -> Exception | None:
        tasks = (reader, writer)
        done, _ = await asyncio.wait(tasks, timeout=self._patience, return_when=asyncio.FIRST_COMPLETED)
        if done:
            return None
        if not self._state.answered():
            return TimeoutError(f"not every type was answered within {self._patience} s")
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return None

    async def _write(self, call: _Stream) -> None:
        while True:
            request = await self._outgoing.get()
            await call.write(request)

    async def _read(self, call: _Stream) -> None:
        while isinstance(response := await call.read(), discovery_pb2.DeltaDiscoveryResponse):
            if not self._connected:
                self._connected = self._answered = True
                self._backoff.reset()
                self._on_begin()
            self._send([await self._handle(self._state.receive(response))])
            if self._state.synced():
                self._synced.set()

    async def _handle(self, update: Update) -> discovery_pb2.DeltaDiscoveryRequest:
        try:
            result = self._handlers[update.type_url](update.updated, update.removed)
            if result is not None:
                await result
        except Rejected as refusal:
            _log.warning("xds_refused", type_url=update.type_url, reason=refusal.reason)
            return self._state.reject(update, refusal.reason, refusal.names)
        return self._state.accept(update)


def words(error: BaseException | None) -> str:
    """How a stream ended, for a log line.

    When the server ends a stream while a request is on its way, gRPC for Python may put its own failure to send in the
    place of the server's status, which is then not to be had.
    """
    if isinstance(error, grpc.aio.AioRpcError):
        if error.code() is grpc.StatusCode.INTERNAL and "SendMessageOperation" in (error.debug_error_string() or ""):
            return LOST
        return f"{error.code().name}: {error.details()}"
    return "ended by the server" if error is None else str(error) or type(error).__name__
