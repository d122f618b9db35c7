"""Layer 7: one real waypoint, a Service for each policy set, and clients that reach it through HBONE.

The way of a policy is the product's own: manifest, `PolicySet.for_service`, Envoy RBAC in routes and filter chains, served
by a real istiod server to a waypoint's agent and Envoy. Ports 80 and 5000 of each Service are HTTP, 9090 is opaque.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.support import netns
from tulle.istiod.ca import x509 as shapes
from tulle.istiod.ca.authority import ROOT_LIFETIME, Authority, Roots, utc_now
from tulle.istiod.waypoint_config import resources
from tulle.istiod.waypoint_config.view import EndpointView, PortView, TargetView, WaypointConfigView
from tulle.istiod.waypoint_targets import rules_of
from tulle.security.decision import HttpRequest, Request, allows, decide
from tulle.security.mesh import PATH_NORMALIZATIONS, MeshSettings
from tulle.security.policies import PolicySet
from tulle.xds.resources import ResourceMap

from .. import strategies, world
from . import proxy, wire
from .drawing import Disagreement, drawn

NETWORK = "169.254.92.0"
SOURCES = ("192.0.2.7", "198.51.100.9", "169.254.92.1")
OPAQUE = 9090
PORTS = ((80, 80), (5000, 5000), (OPAQUE, OPAQUE))
_MARK_VIP, _BACKEND = "10.96.9.9", 8080

calls = st.builds(
    HttpRequest,
    st.sampled_from(strategies.METHODS),
    st.sampled_from(strategies.PATHS),
    st.sampled_from(strategies.HOSTS),
    st.lists(st.tuples(st.just("x-team"), st.sampled_from(strategies.SENT_VALUES)), max_size=2).map(tuple),
    st.none(),
    st.sampled_from(("", *strategies.IPS)),
)
mesh_clients = strategies.clients.filter(lambda peer: peer != "plaintext")


@dataclass(frozen=True)
class Question:
    """A request to a slot's Service; on the opaque port the call is ignored."""

    client: Any
    source: str
    port: int
    call: HttpRequest


questions = st.builds(
    Question,
    mesh_clients.map(world.client),
    st.sampled_from(SOURCES),
    st.sampled_from([int(port) for port in strategies.PORTS]),
    calls,
)
_SERVICE = {"targetRefs": [{"kind": "Service", "group": "", "name": "helloworld"}]}
#: Most policies attach, so that there is something to decide.
attached = strategies.policies(
    strategies.specs(st.one_of(st.just(_SERVICE), st.just(_SERVICE), strategies.attachments)),
    st.sampled_from(("hello", "hello", "hello", "istio-system")),
)
switches = st.builds(MeshSettings, lift_selector_policies=st.booleans(), head_is_get=st.booleans())


def address_of(slot: int) -> str:
    """The Service address of a slot."""
    return f"10.96.1.{slot + 1}"


class Ground:
    """The running data plane."""

    def __init__(self, place: netns.Joined, maps: dict[str, ResourceMap], clients: wire.Clients, slots: int) -> None:
        self.place, self.maps, self.clients, self.slots = place, maps, clients, slots
        self._batch = 0
        self.verdicts: Counter[bool] = Counter()

    async def put(self, found: Sequence[PolicySet]) -> None:
        """Give every slot's Service its policies, and wait until the proxy enforces them."""
        self.serve(found)
        await self._taken()

    def serve(self, found: Sequence[PolicySet]) -> None:
        """Give every slot's Service its policies."""
        self._batch += 1
        targets = [self._target(f"s{i}", address_of(i), policies) for i, policies in enumerate(found)]
        mark = PolicySet(
            MeshSettings(),
            [world.policy(self._spec({"to": [{"operation": {"paths": [f"/batch/{self._batch}"]}}]}), "mark")],
        )
        targets.append(self._target("mark", _MARK_VIP, mark))
        normalization = found[0].settings.path_normalization
        view = WaypointConfigView(
            "hello", "waypoint", world.WAYPOINT.identity.spiffe, world.TRUST_DOMAIN, tuple(targets),
            path_normalization=normalization,
        )  # fmt: skip
        for type_url, made in resources.build(view).by_type.items():
            self.maps[type_url].replace(made)

    def _spec(self, rule: dict[str, Any]) -> dict[str, Any]:
        return {**_SERVICE, "rules": [rule]}

    def _target(self, name: str, address: str, policies: PolicySet) -> TargetView:
        target = world.workload()
        rules = rules_of(policies.for_service(world.service(target, ports=PORTS), world.WAYPOINT), policies.settings)
        endpoint = EndpointView(self.place.host, _BACKEND, "", hbone=False)
        ports = tuple(PortView(port, "TCP" if port == OPAQUE else "HTTP", (endpoint,)) for port, _ in PORTS)
        return TargetView("Service", "hello", name, f"{name}.hello.svc.cluster.local", (address,), ports, rules)

    async def _taken(self) -> None:
        """Until the mark's Service lets through this batch's path and no other.

        The proxy takes a batch's routes in any order, so the last slot's are waited for by quiet: its agent acknowledges.
        """
        question = Question(
            world.client("test/default"), SOURCES[-1], 80, HttpRequest("GET", f"/batch/{self._batch}", "h")
        )
        async with asyncio.timeout(60):
            while await self._ask(_MARK_VIP, question) != 200:
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.25)

    async def ask(self, slot: int, question: Question) -> int:
        """The status for a request to the slot's Service; 0 for a connection that was closed."""
        return await self._ask(address_of(slot), question)

    async def _ask(self, vip: str, question: Question) -> int:
        call = question.call
        lines = [f"{call.method} {call.path} HTTP/1.1", f"host: {call.host}"]
        lines += [f"{name}: {value}" for name, value in call.headers]
        if call.remote_ip:
            lines.append(f"x-forwarded-for: 203.0.113.1, {call.remote_ip}")
        text = "\r\n".join([*lines, "content-length: 0", "connection: close", "", ""])
        authority = f"{vip}:{question.port}"
        async with self.clients.tunnel(question.client, question.source, self.place.inside, authority) as tunnel:
            if tunnel.status != 200:
                return tunnel.status
            await tunnel.write(text.encode())
            return wire.status_of(await asyncio.wait_for(tunnel.reader.read(4096), wire.PATIENCE))


@contextlib.contextmanager
def _addresses(place: netns.Joined) -> Iterator[None]:
    """Further source addresses for clients at the host's end; they go away with the link."""
    for source in SOURCES[:-1]:
        subprocess.run(["ip", "addr", "add", f"{source}/32", "dev", place.name[:13]], check=True)
        subprocess.run(["ip", "-n", place.name, "route", "add", f"{source}/32", "via", place.host], check=True)
    yield


@contextlib.asynccontextmanager
async def ground(directory: Path, slots: int) -> AsyncIterator[Ground]:
    """A waypoint in a network namespace of its own, with istiod, clients and an app on this side."""
    root = shapes.self_signed_root(world.TRUST_DOMAIN, utc_now(), ROOT_LIFETIME)
    authority = Authority(Roots((root.certificate,), root=root))
    maps = proxy.empty_maps()
    (directory / "root.pem").write_text(authority.root_pem)
    async with contextlib.AsyncExitStack() as stack:
        place = stack.enter_context(netns.joined("tk-sec7", NETWORK))
        stack.enter_context(_addresses(place))
        body = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        backend = wire.tcp("", place.host, _BACKEND, listening=True)
        for server in await wire.serve([backend], lambda said: body if said else b""):
            stack.callback(server.close)
        clients = wire.Clients("", wire.Identities(authority, directory))
        stack.push_async_callback(clients.close)
        made = Ground(place, maps, clients, slots)
        istiod_port = await stack.enter_async_context(proxy.istiod(place.host, authority, maps))
        made.serve([PolicySet(MeshSettings())] * slots)
        await stack.enter_async_context(proxy.waypoint(place, istiod_port, directory))
        yield made


def draw(slots: int, per_slot: int, number: int) -> list[tuple[PolicySet, list[Question]]]:
    """One batch: a policy set and questions per slot, under one path normalisation."""
    normalization = PATH_NORMALIZATIONS[number % len(PATH_NORMALIZATIONS)]
    found = drawn(st.tuples(switches, attached), slots + 4, number)[-slots:]
    asked = drawn(questions, slots * per_slot, number)
    return [
        (
            PolicySet(replace(settings, path_normalization=normalization), policies),
            asked[slot * per_slot : (slot + 1) * per_slot],
        )
        for slot, (settings, policies) in enumerate(found)
    ]


def request_of(question: Question, slot: int) -> Request:
    """The request as the engine sees it."""
    target = world.workload()
    return replace(
        world.request(
            "test/default", target, port=question.port, via=world.WAYPOINT, to=world.service(target, ports=PORTS),
            service_port=question.port, source_ip=question.source,
            call=None if question.port == OPAQUE else question.call,
        ),
        client=question.client,
        service_ip=address_of(slot),
    )  # fmt: skip


async def compare(place: Ground, batch: Sequence[tuple[PolicySet, list[Question]]]) -> list[Disagreement]:
    """Put a batch, ask everything, and tell where engine and data plane differ."""
    await place.put([policies for policies, _ in batch])
    found = []
    for slot, (policies, asked) in enumerate(batch):
        for question in asked:
            request = request_of(question, slot)
            decision = decide(policies, request)
            assert allows(policies, request) == decision.allowed
            expected = decision.hops[0].allowed
            live = await place.ask(slot, question)
            place.verdicts[expected] += 1
            refused = 0 if question.port == OPAQUE else 403
            if live != (200 if expected else refused):
                found.append(Disagreement(policies, request, expected, str(live)))
    return found
