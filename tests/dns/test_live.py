"""Real packets of a captured pod: redirected by the node agent's own rules, answered or sent on, to whom it asked."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from functools import partial

import pytest
import pytest_asyncio
from dnslib import QTYPE, RR, A, DNSRecord
from prometheus_client import CollectorRegistry, generate_latest

from tests.ztunnel.conftest import needs_root
from tests.ztunnel.lab import Lab, Pod, run
from tulle.cni.enrolment import Redirection
from tulle.cni.rules import pod_ruleset
from tulle.ztunnel.config.local_pod import LocalPod
from tulle.ztunnel.config.names import MARK
from tulle.ztunnel.dns import relay, server
from tulle.ztunnel.dns.counters import DnsCounters
from tulle.ztunnel.dns.server import DnsProxy
from tulle.ztunnel.netns import made_inside

from .world import PLACE, World

pytestmark = [needs_root, pytest.mark.asyncio(loop_scope="module")]

LOCAL = LocalPod("uid", "client", "shop", "default", "/nowhere", "cluster.local")


@dataclass
class Node:
    """A captured client, and a resolver that is a pod of its own and answers 192.0.2.1 to everything but `silent.test`."""

    client: Pod
    resolver: Pod
    world: World = field(default_factory=World)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    heard: list[str] = field(default_factory=list)

    def link(self, kind: socket.SocketKind, pod: Pod, family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
        descriptor = os.open(pod.path, os.O_RDONLY)
        try:
            made = made_inside(descriptor, partial(socket.socket, family, kind))
        finally:
            os.close(descriptor)
        made.setblocking(False)
        return made

    async def ask(self, name: str, kind: str = "A", *, stream: bool = False, whom: str = "") -> DNSRecord:
        query = bytes(DNSRecord.question(name, kind).pack())
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in whom else socket.AF_INET
        with self.link(socket.SOCK_STREAM if stream else socket.SOCK_DGRAM, self.client, family) as link:
            async with asyncio.timeout(60):
                await loop.sock_connect(link, (whom or self.resolver.ip, 53))
                if not stream:
                    await loop.sock_sendall(link, query)
                    return DNSRecord.parse(await loop.sock_recv(link, 65535))
                reader, writer = await asyncio.open_connection(sock=link.dup())
                writer.write(len(query).to_bytes(2, "big") + query)
                answer = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
                writer.close()
                return DNSRecord.parse(answer)

    async def addresses(self, name: str, **how: object) -> list[str]:
        answer = await self.ask(name, **how)  # type: ignore[arg-type]
        return [str(one.rdata) for one in answer.rr]

    def count(self, name: str, protocol: str = "udp", kind: str = "a") -> float:
        labels = {
            "request_query_type": kind,
            "request_protocol": protocol,
            "source_canonical_service": "unknown",
            "source_canonical_revision": "unknown",
        }
        return self.registry.get_sample_value(f"istio_{name}_total", labels) or 0.0


class Resolver(asyncio.DatagramProtocol):
    def __init__(self, heard: list[str]) -> None:
        self._heard = heard

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.DatagramTransport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._heard.append(f"{DNSRecord.parse(data).q.qname!s} from {addr[0]}")
        if b"silent" not in data:
            self._transport.sendto(bytes(reply(data)), addr)


def reply(query: bytes) -> bytes:
    record = DNSRecord.parse(query)
    answer = record.reply()
    answer.add_answer(RR(record.q.qname, QTYPE.A, rdata=A("192.0.2.1")))
    return bytes(answer.pack())


async def by_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    answer = reply(await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big")))
    writer.write(len(answer).to_bytes(2, "big") + answer)
    writer.close()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    lab = Lab("tk-dns", "10.244.83")
    lab.up()
    try:
        lab.add("client", 10)
        lab.add("resolver", 11)
        run(*lab.pods["client"].argv("nft", "-f", "-"), stdin=pod_ruleset(Redirection(dns=True)).text)
        yield lab
    finally:
        lab.down()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def node(lab: Lab) -> AsyncIterator[Node]:
    node = Node(lab.pods["client"], lab.pods["resolver"])
    datagrams, streams = node.link(socket.SOCK_DGRAM, node.resolver), node.link(socket.SOCK_STREAM, node.resolver)
    for link in (datagrams, streams):
        link.bind((node.resolver.ip, 53))
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(partial(Resolver, node.heard), sock=datagrams)
    listening = await asyncio.start_server(by_stream, sock=streams)
    datagrams6, streams6 = (
        node.link(kind, node.resolver, socket.AF_INET6) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM)
    )
    for link in (datagrams6, streams6):
        link.bind((node.resolver.ip6, 53))
    transport6, _ = await loop.create_datagram_endpoint(partial(Resolver, node.heard), sock=datagrams6)
    listening6 = await asyncio.start_server(by_stream, sock=streams6)
    proxy = DnsProxy(node.world.mesh, PLACE, DnsCounters(node.registry))
    netns = os.open(node.client.path, os.O_RDONLY)
    await proxy.open(LOCAL, netns)
    node.world.service("shop", "api.example.com", "240.0.0.1", "240.0.0.2")
    try:
        yield node
    finally:
        proxy.close_all()
        os.close(netns)
        for way_in in (transport, listening, transport6, listening6):
            way_in.close()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_name_of_the_mesh_is_answered_without_the_resolver(node: Node, stream: bool) -> None:
    node.heard.clear()
    before = node.count("dns_requests", "tcp" if stream else "udp")
    assert sorted(await node.addresses("api.example.com", stream=stream)) == ["240.0.0.1", "240.0.0.2"]
    assert sorted(await node.addresses("api.example.com.svc.cluster.local", stream=stream))[2:] == ["api.example.com."]
    assert node.count("dns_requests", "tcp" if stream else "udp") == before + 2
    assert not node.heard


async def test_a_resolver_that_does_not_exist_does_not_matter_for_a_name_of_the_mesh(node: Node) -> None:
    assert sorted(await node.addresses("api.example.com", whom="203.0.113.53")) == ["240.0.0.1", "240.0.0.2"]


@pytest.mark.parametrize("stream", [False, True])
async def test_everything_else_is_asked_of_whom_the_pod_asked(node: Node, stream: bool) -> None:
    node.heard.clear()
    assert await node.addresses("www.example.org", stream=stream) == ["192.0.2.1"]
    assert await node.addresses("api.example.com", kind="TXT", stream=stream) == ["192.0.2.1"]
    if not stream:
        assert node.heard == [f"{name}. from {node.client.ip}" for name in ("www.example.org", "api.example.com")]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_resolver_with_an_ipv6_address(node: Node, stream: bool) -> None:
    assert sorted(await node.addresses("api.example.com", whom="fd00::53", stream=stream)) == ["240.0.0.1", "240.0.0.2"]
    node.heard.clear()
    assert await node.addresses("www.example.org", whom=node.resolver.ip6, stream=stream) == ["192.0.2.1"]
    if not stream:
        assert node.heard == [f"www.example.org. from {node.client.ip6}"]


async def test_another_version_of_address_than_a_service_has_is_no_missing_name(node: Node) -> None:
    answer = await node.ask("api.example.com", "AAAA")
    assert (answer.header.rcode, answer.rr) == (0, [])


async def test_a_silent_or_absent_resolver_is_a_failure_that_the_client_hears_of(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "PATIENCE_SECONDS", 0.1)
    failures = node.count("dns_upstream_failures")
    assert (await node.ask("silent.test")).header.rcode == 2
    assert (await node.ask("www.example.org", whom=node.client.ip.replace(".10", ".1"))).header.rcode == 2
    assert node.count("dns_upstream_failures") == failures + 2
    assert "istio_dns_upstream_request_duration_seconds_bucket" in generate_latest(node.registry).decode()


async def test_a_question_from_a_port_that_the_proxy_has_just_asked_from_is_the_proxys_all_the_same(node: Node) -> None:
    loop, answers = asyncio.get_running_loop(), []
    for mark, name in ((MARK, "www.example.org"), (0, "api.example.com"), (MARK, "www.example.org")):
        with node.link(socket.SOCK_DGRAM, node.client) as link:
            link.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            link.bind((node.client.ip, 40_000))
            link.connect((node.resolver.ip, 53))
            async with asyncio.timeout(60):
                await loop.sock_sendall(link, bytes(DNSRecord.question(name).pack()))
                answers.append(len(DNSRecord.parse(await loop.sock_recv(link, 65535)).rr))
    assert answers == [1, 2, 1]


async def test_a_pod_may_have_so_many_questions_on_their_way_and_no_more(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_ON_THEIR_WAY", 1)
    monkeypatch.setattr(relay, "PATIENCE_SECONDS", 0.5)
    waiting = asyncio.create_task(node.ask("silent.test"))
    await asyncio.sleep(0.1)
    node.heard.clear()
    with node.link(socket.SOCK_DGRAM, node.client) as link:
        link.connect((node.resolver.ip, 53))
        link.send(bytes(DNSRecord.question("www.example.org").pack()))
        assert await node.addresses("api.example.com"), "what the mesh knows is answered all the same"
    assert (await waiting).header.rcode == 2
    assert not node.heard


async def test_two_proxies_can_serve_a_pod_and_without_one_it_has_no_dns(node: Node) -> None:
    """One takes over from the other; when both are gone, questions fail rather than pass by."""
    first, second = (DnsProxy(node.world.mesh, PLACE, DnsCounters(CollectorRegistry())) for _ in range(2))
    resolver = os.open(node.resolver.path, os.O_RDONLY)
    run(*node.resolver.argv("nft", "-f", "-"), stdin=pod_ruleset(Redirection(dns=True)).text)
    node.client, node.resolver = node.resolver, node.client
    try:
        await first.open(LOCAL, resolver)
        await second.open(LOCAL, resolver)
        first.close(LOCAL.uid)
        await asyncio.sleep(0)  # sockets are closed by the loop
        assert await node.addresses("api.example.com")
        second.close_all()
        await asyncio.sleep(0)
        for stream in (False, True):
            with pytest.raises(ConnectionRefusedError):
                await node.ask("api.example.com", stream=stream)
    finally:
        node.client, node.resolver = node.resolver, node.client
        run(*node.resolver.argv("nft", "delete", "table", "inet", "tulle-ambient"))
        os.close(resolver)
