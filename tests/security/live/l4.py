"""Layer 4: one real node proxy, a pod for each policy set, and clients of any identity and address.

The way of a policy is the product's own: manifest, `PolicySet`, istio.security over delta ADS, Envoy's route table and
filter chains. Each pod has a namespace of its own, so that many sets stand side by side; mesh-wide policies are shared.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.ztunnel.lab import Lab, run
from tests.ztunnel.node import Node
from tulle.istiod.authorization_pb import authorization
from tulle.security.decision import Request, allows, decide
from tulle.security.mesh import MeshSettings
from tulle.security.model import AuthorizationPolicy, PeerAuthentication
from tulle.security.policies import PolicySet
from tulle.security.views import WorkloadView
from tulle.xds.proto import authorization_pb2

from .. import strategies, world
from . import wire
from .drawing import Disagreement, drawn

SUBNET = "10.244.0"
CLIENT, SOURCES = 9, (f"{SUBNET}.9", "192.0.2.7", "198.51.100.9")
PORTS = tuple(int(port) for port in strategies.PORTS)
LABELS = ({"app": "helloworld", "version": "v1"}, {"app": "helloworld"}, {"app": "other"})
#: A mesh-wide DENY of one port that nobody asks for is the batch's mark; its namespace sorts before all others, so that no
#: policy that denies everything can hide it.
_MARKS, _MARK_NAMESPACE = 20000, "0"


@dataclass(frozen=True)
class Question:
    """A request to a slot's pod: the client is None for plaintext."""

    client: Any
    source: str
    port: int


def questions(namespace: str) -> st.SearchStrategy[Question]:
    """Peers of the small world, and of the pod's own namespace."""
    peers = st.one_of(strategies.clients, st.sampled_from((f"{namespace}/default", f"{namespace}/a.b", "plaintext")))
    return st.builds(Question, peers.map(world.client), st.sampled_from(SOURCES), st.sampled_from(PORTS))


def _local_policies(namespace: str) -> st.SearchStrategy[list[AuthorizationPolicy]]:
    attachment = st.one_of(strategies.selectors, st.just({}))
    return strategies.policies(strategies.specs(attachment), st.sampled_from((namespace, namespace, namespace, "web")))


mesh_policies = strategies.policies(
    strategies.specs(st.one_of(strategies.selectors, st.just({})), strategies.l4_rules), st.just("istio-system")
)
modes = st.lists(st.tuples(strategies.pa_specs, st.integers(1, 3)), max_size=2)


@dataclass(frozen=True)
class Slot:
    """A pod and what it stands for."""

    number: int

    @property
    def pod(self) -> str:
        return f"s{self.number}-1"

    @property
    def namespace(self) -> str:
        return f"s{self.number}"

    @property
    def address(self) -> str:
        return f"{SUBNET}.{20 + self.number}"

    @property
    def view(self) -> WorkloadView:
        return WorkloadView(self.namespace, self.pod, LABELS[self.number % len(LABELS)])


class Ground:
    """The running data plane."""

    def __init__(self, node: Node, slots: Sequence[Slot], clients: wire.Clients) -> None:
        self.node, self.slots, self.clients = node, slots, clients
        self._batch = 0
        self.verdicts: Counter[bool] = Counter()

    async def put(self, sets_: Sequence[PolicySet]) -> None:
        """Give every slot its policies, and wait until Envoy has them."""
        istiod, wanted = self.node.istiod, {}
        self._batch += 1
        for slot, policies in zip(self.slots, sets_, strict=True):
            wanted.update(policies.ztunnel_policies([slot.view]))
        stale = set(istiod.policies) - set(wanted) - {f"{_MARK_NAMESPACE}/mark"}
        for name, policy in wanted.items():
            istiod.policies.set(name, authorization(policy))
        mark = authorization_pb2.Match(destination_ports=[_MARKS + self._batch])
        istiod.policy(_MARK_NAMESPACE, "mark", "DENY", [[mark]], scope="GLOBAL")
        for slot, policies in zip(self.slots, sets_, strict=True):
            names = policies.for_workload(slot.view)
            istiod.workload(slot.pod, slot.namespace, slot.address, authorization_policies=names)
        for name in stale:
            istiod.policies.remove(name)
        await self._taken(stale)

    async def _taken(self, stale: set[str]) -> None:
        """Until each pod's routes and plaintext chains hold the batch's mark, and no removed policy is known any more."""
        mark = str(_MARKS + self._batch)
        async with asyncio.timeout(60):
            while True:
                dump = await self.node.admin("/config_dump")
                known = {f"{policy['namespace']}/{policy['name']}" for policy in dump["policies"]}
                routes = await self._envoy("/config_dump?resource=dynamic_route_configs")
                listeners = await self._envoy("/config_dump?resource=dynamic_listeners")
                tables = [
                    json.dumps(one["route_config"]) for one in routes if "/inbound" in one["route_config"]["name"]
                ]
                plain = [json.dumps(one["active_state"]) for one in listeners if one["name"].endswith("/plaintext")]
                current = [mark in text for text in (*tables, *plain)]
                settled = not any("warming_state" in one for one in listeners)
                if len(current) == 2 * len(self.slots) and all(current) and settled and not stale & known:
                    await asyncio.sleep(0.05)  # the main thread has it; the workers get it within their next loop
                    return
                await asyncio.sleep(0.05)

    async def _envoy(self, path: str) -> list[dict[str, Any]]:
        process = await asyncio.create_subprocess_exec(
            "curl", "-s", "--unix-socket", str(self.node.directory / "run" / "admin.sock"), f"http://envoy{path}",
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
        return list(json.loads(out).get("configs", ()))

    async def ask(self, slot: Slot, question: Question) -> str:
        """What the data plane does: "open", or how it refuses."""
        if question.client is None:
            return await wire.plaintext(self.clients.place, question.source, slot.address, question.port)
        authority = f"{slot.address}:{question.port}"
        status = await self.clients.status(question.client, question.source, slot.address, authority)
        return "open" if status == 200 else str(status)


@contextlib.asynccontextmanager
async def ground(directory: Path, slots: int) -> AsyncIterator[Ground]:
    """A node with a captured pod per slot, and a client outside of the mesh."""
    lab, places = Lab("tk-sec", SUBNET), [Slot(number) for number in range(slots)]
    lab.up()
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(lab.down)
        client = lab.add("client", CLIENT)
        for source in SOURCES[1:]:
            run("ip", "-n", client.netns, "addr", "add", f"{source}/32", "dev", "eth0")
            run("ip", "-n", lab.node, "route", "add", f"{source}/32", "via", client.ip)
        for slot in places:
            lab.add(slot.pod, 20 + slot.number)
        sockets = [
            wire.tcp(lab.pods[slot.pod].netns, "0.0.0.0", port, listening=True) for slot in places for port in PORTS
        ]
        for server in await wire.serve(sockets, lambda _: b"!"):
            stack.callback(server.close)
        node = await Node.start(directory, lab)
        stack.push_async_callback(node.stop)
        for slot in places:
            node.istiod.workload(slot.pod, slot.namespace, slot.address)
        node.start_proxy(ZTUNNEL_WORKER_THREADS="1")
        await node.pods(*(slot.pod for slot in places))
        clients = wire.Clients(client.netns, wire.Identities(node.istiod.authority, directory))
        stack.push_async_callback(clients.close)
        yield Ground(node, places, clients)


def draw(slots: Sequence[Slot], per_slot: int, number: int) -> list[tuple[PolicySet, list[Question]]]:
    """One batch: a policy set and questions per slot, with mesh-wide policies in common."""
    (shared,) = drawn(mesh_policies, 4, number)[-1:]
    settings = MeshSettings()
    found = []
    for slot in slots:
        local, asked, own = drawn(
            st.tuples(
                _local_policies(slot.namespace),
                st.lists(questions(slot.namespace), min_size=per_slot, max_size=per_slot),
                modes,
            ),
            6,
            number * 1000 + slot.number,
        )[-1]
        strict = [
            world.peer_authentication(spec, f"pa{i}", slot.namespace, creationTimestamp=f"2026-01-0{day}T00:00:00Z")
            for i, (spec, day) in enumerate(own)
        ]
        found.append((_set(settings, slot, [*local], [*shared] if number % 2 else [], strict), asked))
    return found


def _set(
    settings: MeshSettings,
    slot: Slot,
    local: list[AuthorizationPolicy],
    shared: list[AuthorizationPolicy],
    modes_: list[PeerAuthentication],
) -> PolicySet:
    """Policies of other namespaces get a name of their own per slot: here all slots are one mesh."""
    renamed = [world.renamed(policy, f"{policy.meta.name}-{slot.namespace}") for policy in local]
    return PolicySet(settings, [*renamed, *shared], modes_)


async def compare(place: Ground, batch: Sequence[tuple[PolicySet, list[Question]]]) -> list[Disagreement]:
    """Put a batch, ask everything, and tell where engine and data plane differ."""
    await place.put([policies for policies, _ in batch])
    found = await asyncio.gather(*(_compare(place, slot, *each) for slot, each in zip(place.slots, batch, strict=True)))
    return [one for each in found for one in each]


async def _compare(place: Ground, slot: Slot, policies: PolicySet, asked: list[Question]) -> list[Disagreement]:
    view, found = slot.view, []
    for question in asked:
        request = Request(question.client, view, question.port, question.source, slot.address)
        expected = decide(policies, request).allowed
        assert allows(policies, request) == expected
        live = await place.ask(slot, question)
        place.verdicts[expected] += 1
        if (live == "open") != expected or live not in ("open", "401", "reset"):
            found.append(Disagreement(policies, request, expected, live))
    return found
