"""Two istiods, each a process: lifting hands policies over by what waypoints and node proxies acknowledge, whichever replica they find
first.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import grpc
from envoy.config.core.v3 import base_pb2

from tulle.istiod.waypoint_source import TYPES
from tulle.kube.client import Client
from tulle.kube.errors import NotFound
from tulle.kube.resources import AUTHORIZATION_POLICIES, CONFIG_MAPS, GATEWAYS, LEASES, NAMESPACES
from tulle.xds import channels, types
from tulle.xds.client import AdsClient

from .conftest import eventually
from .test_gateway_controller import gateway, make_ready
from .test_istiod import Reader, make_mesh, published_root, token

WDS = (types.ADDRESS, types.AUTHORIZATION)


@dataclass(frozen=True)
class Replica:
    """One istiod; `pod` is its name in the Lease."""

    pod: str
    process: asyncio.subprocess.Process
    xds: int
    http: int

    async def stop(self) -> None:
        """As a pod is ended."""
        if self.process.returncode is None:
            self.process.terminate()
        assert await self.process.wait() == 0

    async def proxies(self) -> int:
        """How many it serves; -1 while it does not answer."""
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{self.http}/metrics") as answer,
            ):
                lines = (await answer.text()).splitlines()
        except aiohttp.ClientError:
            return -1
        return next(int(float(line.split()[1])) for line in lines if line.startswith("pilot_xds "))

    async def ready(self) -> bool:
        async with aiohttp.ClientSession() as session:
            try:
                async with session.get(f"http://127.0.0.1:{self.http}/ready") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False


@asynccontextmanager
async def replica(kubeconfig: str, home: str, pod: str) -> AsyncIterator[Replica]:
    """An istiod that has been started."""
    names = ("XDS_PORT", "HTTP_PORT", "METRICS_PORT", "WEBHOOK_PORT", "PLAINTEXT_XDS_PORT")
    ports = dict(zip(names, _free_ports(len(names)), strict=True))
    environment = {
        **os.environ,
        **{name: str(port) for name, port in ports.items()},
        "KUBECONFIG": kubeconfig,
        "POD_NAME": pod,
        "POD_NAMESPACE": home,
        "LISTEN_ADDRESS": "127.0.0.1",
        "LOG_LEVEL": "error",
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tulle.istiod", env=environment)
    made = Replica(pod, process, ports["XDS_PORT"], ports["HTTP_PORT"])
    try:
        yield made
    finally:
        await made.stop()


def _free_ports(number: int) -> list[int]:
    with ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@asynccontextmanager
async def following(
    client: Client, ports: Sequence[int], account: tuple[str, str], type_urls: Sequence[str], root: Path
) -> AsyncIterator[Reader]:
    """A proxy that tries one replica after the other, as behind a Service, from the first of ``ports`` on."""
    bearer = await token(client, *account)
    reader = Reader()
    doors = itertools.cycle([channels.tls(f"127.0.0.1:{port}", root) for port in ports])

    def connect() -> grpc.aio.Channel:
        return next(doors)()

    ads = AdsClient(
        connect,
        base_pb2.Node(id="test"),
        {type_url: reader.of(type_url) for type_url in type_urls},
        metadata=lambda: (("authorization", f"Bearer {bearer}"),),
    )
    task = asyncio.create_task(ads.run())
    try:
        yield reader
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def test_lifting_with_proxies_that_begin_at_different_replicas(
    client: Client, api_server: str, namespace: str, tmp_path: Path
) -> None:
    home = f"{namespace}-home"
    config = {"metadata": {"name": "istio", "namespace": home}, "data": {"mesh": "tulle: {liftSelectorPolicies: true}"}}
    trust = f"{namespace}/tulle_waypoint_allow_{namespace}_waypoint"
    policy = {
        "metadata": {"name": "p", "namespace": namespace},
        "spec": {
            "selector": {"matchLabels": {"app": "s"}},
            "rules": [
                {
                    "from": [{"source": {"principals": ["cluster.local/ns/test/sa/default"]}}],
                    "to": [{"operation": {"methods": ["GET"]}}],
                }
            ],
        },
    }
    async with AsyncExitStack() as running:
        await client.create(NAMESPACES, {"metadata": {"name": home}})
        await client.create(CONFIG_MAPS, config)
        both = [await running.enter_async_context(replica(api_server, home, pod)) for pod in ("one", "two")]
        await client.create(GATEWAYS, gateway(namespace))
        uid = await make_mesh(client, namespace)
        for one in both:
            await eventually(one.ready, f"istiod {one.pod} is ready")
        await make_ready(client, namespace)
        root = await published_root(client, home, tmp_path)
        holder = await eventually(lambda: _holder(client, home), "one of them leads")
        leader, other = both if holder == both[0].pod else both[::-1]
        ports = (other.xds, leader.xds)
        async with (
            following(client, ports, (home, "ztunnel"), WDS, root) as ztunnel,
            following(client, ports[::-1], (namespace, "waypoint"), TYPES, root) as waypoint,
        ):

            async def trusting() -> bool:
                found = ztunnel.workload(uid)
                return found is not None and trust in found.authorization_policies

            async def enforced() -> bool:
                held = waypoint.held[types.ROUTES].get(f"Service/{namespace}/s|80", b"")
                return b"tulle.rbac.allow" in held

            await client.create(AUTHORIZATION_POLICIES, policy)
            await eventually(trusting, "the workload trusts the waypoint")
            assert await enforced()
            await client.delete(AUTHORIZATION_POLICIES, "p", namespace)

            async def withdrawn() -> bool:
                return not await trusting() and not await enforced()

            await eventually(withdrawn, "neither is in force any more")
            assert [await one.proxies() for one in (leader, other)] == [2, 0], "the leader alone serves"
            # The leader goes; the other replica takes over, and the proxies with it.
            await leader.stop()
            await eventually(lambda: _serves_both(other), "both proxies have found the other replica")
            await client.create(AUTHORIZATION_POLICIES, policy)
            await eventually(trusting, "the workload trusts the waypoint again")
            assert await enforced()


async def _holder(client: Client, namespace: str) -> str:
    try:
        lease = await client.get(LEASES, "istiod-leader", namespace)
    except NotFound:
        return ""
    return lease.spec.holder_identity


async def _serves_both(istiod: Replica) -> bool:
    return await istiod.proxies() == 2
