"""Two istiods: lifting hands policies over by what waypoints and node proxies acknowledge, whichever replica they find first."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
from envoy.config.core.v3 import base_pb2

from tulle.istiod.app import Istiod
from tulle.istiod.waypoint_source import TYPES
from tulle.kube.client import Client
from tulle.kube.resources import AUTHORIZATION_POLICIES, CONFIG_MAPS, GATEWAYS
from tulle.xds import channels, types
from tulle.xds.client import AdsClient

from .conftest import RunIstiod, eventually
from .test_gateway_controller import gateway, make_ready
from .test_istiod import Reader, make_mesh, published_root, token

WDS = (types.ADDRESS, types.AUTHORIZATION)


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
    client: Client, namespace: str, run_istiod: RunIstiod, tmp_path: Path
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
        leader = AsyncExitStack()
        await running.enter_async_context(leader)
        second: Istiod = await leader.enter_async_context(run_istiod(home, "second"))
        first: Istiod = await running.enter_async_context(run_istiod(home, "first"))
        await client.create(CONFIG_MAPS, config)
        await client.create(GATEWAYS, gateway(namespace))
        await make_ready(client, namespace)
        uid = await make_mesh(client, namespace)
        root = await published_root(client, home, tmp_path)
        ports = (first.ports["xds"], second.ports["xds"])
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
            serving = [one for one in (first, second) if tuple(one.connections)]
            assert serving == [second], "the leader alone serves"
            # The leader goes; the other replica takes over, and the proxies with it.
            await leader.aclose()
            await eventually(lambda: _served(first, 2), "both proxies have found the other replica")
            await client.create(AUTHORIZATION_POLICIES, policy)
            await eventually(trusting, "the workload trusts the waypoint again")
            assert await enforced()


async def _served(istiod: Istiod, number: int) -> bool:
    return len(tuple(istiod.connections)) == number
