"""istiod's answers are acknowledged when Envoy has taken them, and refused in Envoy's words when it has not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping

import pytest
from envoy.config.route.v3 import route_pb2
from envoy.service.discovery.v3 import discovery_pb2

from tests.waypoint.lab import TEST, WEB, Mesh, policy
from tulle.istiod.waypoint_config import names
from tulle.waypoint.relay import RELAYED, Relay
from tulle.xds import types
from tulle.xds.client import Rejected
from tulle.xds.delta import ServerStream, TypeState

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
ROUTE = "Service/hello/helloworld|5000"


def route(name: str, cluster: str = "c") -> bytes:
    table = route_pb2.RouteConfiguration(name=name)
    table.virtual_hosts.add(name=cluster, domains=["*"])
    return bytes(table.SerializeToString())


class Envoy:
    """An Envoy's stream as the relay's server sees it."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self.stream = ServerStream(relay.maps.get, lambda: None)

    def states(self) -> Mapping[str, TypeState]:
        return {state.type_url: state for state in self.stream.states}

    def subscribe(self, type_url: str, *wanted: str) -> None:
        self._say(discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=wanted))

    def answer(self, refuse: str = "") -> int:
        """Answer everything that may be sent now, refusing what contains the resource `refuse`; how many answers."""
        pushes = list(self.stream.pushes())
        for push in pushes:
            request = discovery_pb2.DeltaDiscoveryRequest(type_url=push.type_url, response_nonce=push.nonce)
            if refuse in [entry.name for entry in push.updated]:
                request.error_detail.message = f"{refuse} is bad"
            self._say(request)
        return len(pushes)

    def _say(self, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        self.stream.receive(request)
        self._relay.answered()


def relayed(patience: float = 5.0) -> tuple[Relay, list[Envoy]]:
    envoys: list[Envoy] = []
    relay = Relay(lambda: [one.states() for one in envoys], patience)
    envoys.append(Envoy(relay))
    return relay, envoys


async def hand_over(relay: Relay, type_url: str, **resources: bytes) -> asyncio.Future[None]:
    found = {name.replace("_", "/"): value for name, value in resources.items()}
    handler = relay.subscriptions()[type_url].handler
    task = asyncio.ensure_future(handler(found, ()))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    return task


async def test_what_envoy_has_not_asked_for_is_no_matter_of_its() -> None:
    relay, _ = relayed()
    await (await hand_over(relay, types.ROUTES, a=route("a")))


async def test_listeners_wait_until_envoy_asks_for_them() -> None:
    relay, (envoy,) = relayed()
    task = await hand_over(relay, types.LISTENER, a=b"")
    envoy.subscribe(types.CLUSTER, "*")
    await asyncio.sleep(0)
    assert not task.done()
    envoy.subscribe(types.LISTENER, "*")
    assert envoy.answer() >= 1
    await task


async def test_an_answer_waits_for_envoys() -> None:
    relay, (envoy,) = relayed()
    envoy.subscribe(types.ROUTES, "a")
    envoy.answer()
    task = await hand_over(relay, types.ROUTES, a=route("a"))
    await asyncio.sleep(0)
    assert not task.done()
    envoy.answer()
    await task


async def test_a_refusal_names_the_resource_and_the_reason() -> None:
    relay, (envoy,) = relayed()
    envoy.subscribe(types.ROUTES, "a", "b", "c")
    envoy.answer()
    task = await hand_over(relay, types.ROUTES, a=route("a"), b=route("b"), c=route("c"))
    while not task.done():
        envoy.answer(refuse="b")
        await asyncio.sleep(0)
    with pytest.raises(Rejected, match=r"^b: b is bad$") as refusal:
        await task
    assert refusal.value.names == {"b"}
    again = await hand_over(relay, types.ROUTES, b=route("b"))
    with pytest.raises(Rejected, match="b is bad"):
        await again
    better = await hand_over(relay, types.ROUTES, b=route("b", "other"))
    envoy.answer()
    await better


async def test_a_verdict_that_comes_late_is_passed_back_all_the_same() -> None:
    """An Envoy that was busy, or away, for longer than anybody waits: what it took then counts from then on."""
    asked: list[tuple[str, set[str]]] = []
    envoys: list[Envoy] = []
    relay = Relay(
        lambda: [one.states() for one in envoys],
        0.05,
        ask_again=lambda type_url, names: asked.append((type_url, set(names))),
    )
    envoys.append(Envoy(relay))
    envoys[0].subscribe(types.ROUTES, "a")
    envoys[0].answer()
    task = await hand_over(relay, types.ROUTES, a=route("a"))
    with pytest.raises(Rejected, match="has not answered"):
        await task
    assert asked == []
    envoys[0].answer()
    assert asked == [(types.ROUTES, {"a"})]
    await (await hand_over(relay, types.ROUTES, a=route("a")))
    envoys[0].answer()
    assert len(asked) == 1


async def test_without_an_envoy_nothing_is_acknowledged() -> None:
    relay, envoys = relayed(patience=0.05)
    envoys.clear()
    with pytest.raises(Rejected, match=r"has not answered within 0\.05 seconds"):
        await (await hand_over(relay, types.ROUTES, a=route("a")))


async def test_an_envoy_that_comes_back_must_take_it_too() -> None:
    relay, envoys = relayed()
    envoys.clear()
    task = await hand_over(relay, types.CLUSTER, a=b"")
    envoys.append(Envoy(relay))
    envoys[0].subscribe(types.CLUSTER, "*")
    await asyncio.sleep(0)
    assert not task.done()
    envoys[0].answer()
    await task


def test_every_type_of_the_waypoints_configuration_is_relayed() -> None:
    assert {
        names.CLUSTER_TYPE,
        names.ENDPOINT_TYPE,
        names.EXTENSION_TYPE,
        names.LISTENER_TYPE,
        names.ROUTE_TYPE,
    } == set(RELAYED)


@needs_root
@pytest.mark.asyncio(loop_scope="module")
async def test_istiod_learns_what_envoy_refused_and_the_rest_goes_on(mesh: Mesh) -> None:
    only_test = policy({"rules": [{"from": [{"source": {"namespaces": ["test"]}}]}]}, "only-test")
    await mesh.configure(only_test)
    bad = route_pb2.RouteConfiguration(name=ROUTE)
    bad.virtual_hosts.add(name="one", domains=["*"])
    bad.virtual_hosts.add(name="two", domains=["*"])
    mesh.maps[names.ROUTE_TYPE].set(ROUTE, bad)
    await mesh.acknowledged()
    (rejection,) = {one.message: one for one in mesh.rejections}.values()
    assert rejection.names == (ROUTE,)
    assert "Only a single wildcard domain is permitted" in rejection.message
    assert ((await mesh.get(TEST)).status, (await mesh.get(WEB)).status) == (200, 403), "what it had stays in force"
    await mesh.configure(policy({"rules": [{"from": [{"source": {"namespaces": ["web"]}}]}]}, "only-web"))
    assert ((await mesh.get(TEST)).status, (await mesh.get(WEB)).status) == (403, 200)
