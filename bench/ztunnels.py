"""Many node proxies as istiod sees them: connections of their own, each following the whole mesh."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
from envoy.service.discovery.v3 import discovery_pb2

from tulle.xds import types
from tulle.xds.client import METHOD

_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.ssl_target_name_override", "istiod.istio-system.svc"),
)


_FIRST_PAUSE, _LAST_PAUSE = 0.5, 15.0


class Ztunnel:
    """One simulated ztunnel. `heard` is when it was told of the watched workload."""

    def __init__(self) -> None:
        self.resources = 0
        self.attempts = 1
        self.synced = asyncio.Event()
        self.heard: asyncio.Future[float] | None = None
        self._first = {types.ADDRESS, types.AUTHORIZATION}

    async def run(self, address: str, root: bytes, token: str) -> None:
        """Follow until cancelled; what breaks is tried again after a growing, random pause, as any proxy does."""
        pause = _FIRST_PAUSE
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self._stream(address, root, token)
            self.attempts += 1
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
            pause = min(2 * pause, _LAST_PAUSE)

    async def _stream(self, address: str, root: bytes, token: str) -> None:
        self._first = {types.ADDRESS, types.AUTHORIZATION}
        credentials = grpc.ssl_channel_credentials(root)
        async with grpc.aio.secure_channel(address, credentials, options=_OPTIONS) as channel:
            stream = channel.stream_stream(
                METHOD,
                request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
                response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
            )(metadata=(("authorization", f"Bearer {token}"),))  # type: ignore[call-arg]
            for type_url in sorted(self._first):
                request = discovery_pb2.DeltaDiscoveryRequest(type_url=type_url)
                request.node.id = "bench"
                await stream.write(request)
            async for response in stream:
                self._received(response)
                acknowledged = discovery_pb2.DeltaDiscoveryRequest(
                    type_url=response.type_url, response_nonce=response.nonce
                )
                await stream.write(acknowledged)

    def _received(self, response: discovery_pb2.DeltaDiscoveryResponse) -> None:
        self.resources += len(response.resources)
        self._first.discard(response.type_url)
        if not self._first:
            self.synced.set()
            if self.heard is not None and not self.heard.done() and response.type_url == types.ADDRESS:
                self.heard.set_result(time.monotonic())


@asynccontextmanager
async def following(number: int, address: str, root: bytes, token: str) -> AsyncIterator[Sequence[Ztunnel]]:
    """So many at once; they may not be synced yet."""
    made = [Ztunnel() for _ in range(number)]
    tasks = [asyncio.create_task(one.run(address, root, token)) for one in made]
    try:
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
