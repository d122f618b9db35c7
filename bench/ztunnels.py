"""Many node proxies as istiod sees them, in a process of their own: `python -m bench.ztunnels ADDRESS COUNT NICENESS`.

Each has a connection of its own and follows the whole mesh. The root and a token come as JSON on the standard input. The first line out
is JSON, when every one has everything; after that a line is the CLOCK_MONOTONIC time, in seconds, at which the first client was told of
a change. `NICENESS` keeps a crowd from taking the cores from istiod, and a single client that measures from waiting for the crowd.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

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
_PATIENCE = 300.0


class Ztunnel:
    """One simulated ztunnel; `tells` says that it prints when it is told of a change."""

    def __init__(self, *, tells: bool) -> None:
        self.resources = 0
        self.attempts = 0
        self.synced = asyncio.Event()
        self._tells = tells
        self._first: set[str] = set()

    async def run(self, address: str, credentials: grpc.ChannelCredentials, token: str) -> None:
        """Follow until cancelled; what breaks is tried again after a growing, random pause, as any proxy does."""
        pause = _FIRST_PAUSE
        while True:
            self.attempts += 1
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await self._stream(address, credentials, token)
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311
            pause = min(2 * pause, _LAST_PAUSE)

    async def _stream(self, address: str, credentials: grpc.ChannelCredentials, token: str) -> None:
        self._first = {types.ADDRESS, types.AUTHORIZATION}
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
        if self.synced.is_set():
            if self._tells and response.type_url == types.ADDRESS:
                print(f"{time.monotonic():.6f}", flush=True)
            return
        self._first.discard(response.type_url)
        if not self._first:
            self.synced.set()


@dataclass
class Crowd:
    """So many clients in a process of their own."""

    process: asyncio.subprocess.Process

    async def synced(self) -> Mapping[str, Any]:
        """What the clients say once all have everything: when, resources, attempts and their own CPU time in seconds."""
        return dict(json.loads(await self._line()))

    async def told(self) -> float:
        """When the first client was told of the next change."""
        return float(await self._line())

    async def _line(self) -> bytes:
        assert self.process.stdout is not None
        line = await asyncio.wait_for(self.process.stdout.readline(), _PATIENCE)
        if not line:
            raise RuntimeError("the simulated ztunnels ended")
        return line


@asynccontextmanager
async def following(number: int, address: str, root: bytes, token: str, niceness: int) -> AsyncIterator[Crowd]:
    """So many clients that begin to connect, all at once."""
    command = (sys.executable, "-m", "bench.ztunnels", address, str(number), str(niceness))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    process.stdin.write(json.dumps({"root": root.decode(), "token": token}).encode())
    process.stdin.write_eof()
    try:
        yield Crowd(process)
    finally:
        process.kill()
        await process.wait()


async def _run(address: str, number: int, root: bytes, token: str) -> None:
    made = [Ztunnel(tells=index == 0) for index in range(number)]
    credentials = grpc.ssl_channel_credentials(root)
    async with asyncio.TaskGroup() as group:
        for one in made:
            group.create_task(one.run(address, credentials, token))
        await asyncio.gather(*(one.synced.wait() for one in made))
        said = {
            "when": time.monotonic(),
            "resources": sum(one.resources for one in made),
            "attempts": sum(one.attempts for one in made),
            "cpu": time.process_time(),
        }
        print(json.dumps(said), flush=True)


def main() -> None:
    """Follow until killed."""
    address, number, niceness = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    # Without the right to a higher priority it measures with the one that it has.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, niceness)
    given = json.load(sys.stdin)
    asyncio.run(_run(address, number, given["root"].encode(), given["token"]))


if __name__ == "__main__":
    main()
