"""An app that takes all tunnels to its pod, such as a waypoint of somebody else (spec D10)."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import ip_network
from typing import Any

import pytest

from tulle.xds.proto import authorization_pb2, workload_pb2
from tulle.ztunnel.netns import made_inside

from .conftest import needs_root
from .fake_istiod import exact
from .mesh import VIP, hello
from .node import Node
from .test_open_connections import ENDED, live

pytestmark = [needs_root, pytest.mark.asyncio(loop_scope="package")]

PORT = 15088
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
PEER = "spiffe://cluster.local/ns/test/sa/default"


@asynccontextmanager
async def app(node: Node, heard: asyncio.Queue[bytes]) -> AsyncIterator[None]:
    """On the loopback of hello-1: keeps the first bytes of each connection, and answers `hi`."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received = b""
        while b"GET" not in received:
            received += await reader.read(65536) or b"GET"
        heard.put_nowait(received)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nhi\n")
        writer.close()

    async with listening(node, answer):
        yield


@asynccontextmanager
async def listening(
    node: Node, answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> AsyncIterator[None]:
    netns = os.open(node.lab.pods["hello-1"].path, os.O_RDONLY)
    link = made_inside(netns, partial(socket.create_server, ("127.0.0.1", PORT)))
    os.close(netns)
    async with await asyncio.start_server(answer, sock=link):
        yield


def tunnel(protocol: Any, port: int = PORT) -> workload_pb2.ApplicationTunnel:
    return workload_pb2.ApplicationTunnel(protocol=protocol, port=port)


async def test_a_proxy_header_tells_the_client_the_destination_and_the_identity(fresh: Node) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    hello(fresh, application_tunnel=tunnel(workload_pb2.ApplicationTunnel.PROXY))
    gateway = workload_pb2.GatewayAddress(
        address=workload_pb2.NetworkAddress(address=socket.inet_aton(fresh.lab.pods["hello-1"].ip)),
        hbone_mtls_port=15008,
    )
    fresh.istiod.service("test", "elsewhere", "10.96.0.9", {80: 8080}, waypoint=gateway)
    await fresh.settled()
    async with app(fresh, heard):
        assert (await fresh.curl("test-1", "http://10.96.0.9/x")).out == "hi"
        header = await heard.get()
        assert header.startswith(SIGNATURE + b"\x21\x11"), header
        size = int.from_bytes(header[14:16], "big")
        assert socket.inet_ntoa(header[16:20]) == fresh.lab.pods["test-1"].ip
        assert socket.inet_ntoa(header[20:24]) == "10.96.0.9"
        assert int.from_bytes(header[26:28], "big") == 80
        assert header[28 : 16 + size] == b"\xd0" + len(PEER).to_bytes(2, "big") + PEER.encode()
        assert header[16 + size :].startswith(b"GET /x ")
        assert (await fresh.curl("web-1", f"http://{fresh.lab.pods['hello-1'].ip}:99/x")).out == "hi"
        assert b"/ns/web/sa/default" in await heard.get(), "each is told of its own peer"


async def test_an_app_without_a_port_of_its_own_is_reached_on_the_one_asked_for(fresh: Node) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    hello(fresh, application_tunnel=tunnel(workload_pb2.ApplicationTunnel.PROXY, 0))
    await fresh.settled()
    async with app(fresh, heard):
        assert (await fresh.curl("test-1", f"http://{fresh.lab.pods['hello-1'].ip}:{PORT}/x")).out == "hi"
        assert (await heard.get()).startswith(SIGNATURE)


async def test_without_a_header_only_the_port_changes(fresh: Node) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    hello(fresh, application_tunnel=tunnel(workload_pb2.ApplicationTunnel.NONE))
    await fresh.settled()
    async with app(fresh, heard):
        assert (await fresh.curl("test-1", f"http://{VIP}:5000/x")).out == "hi"
        assert (await heard.get()).startswith(b"GET /x ")


async def test_policies_see_the_port_of_the_app(fresh: Node) -> None:
    heard: asyncio.Queue[bytes] = asyncio.Queue()
    for port, code in ((PORT, 0), (5000, 56)):
        fresh.istiod.policy("hello", "port", "ALLOW", [[authorization_pb2.Match(destination_ports=[port])]])
        hello(
            fresh,
            application_tunnel=tunnel(workload_pb2.ApplicationTunnel.PROXY),
            authorization_policies=["hello/port"],
        )
        await fresh.settled()
        async with app(fresh, heard):
            assert (await fresh.curl("test-1", f"http://{VIP}:5000/x")).code == code


@pytest.mark.parametrize("protocol", [workload_pb2.ApplicationTunnel.PROXY, workload_pb2.ApplicationTunnel.NONE])
async def test_open_connections_follow_policy(fresh: Node, protocol: Any) -> None:
    """Judged as when they were made: by their peer, the pod's address and the app's port."""
    hello(fresh, application_tunnel=tunnel(protocol))
    await fresh.settled()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready\r\n")
        while data := await reader.read(65536):
            writer.write(b"x" if data.endswith(b"x") else b"")
        writer.close()

    async with (
        listening(fresh, speak),
        live(fresh, "test-1") as denied,
        live(fresh, "test-1") as denied_too,
        live(fresh, "web-1") as allowed,
    ):
        match = authorization_pb2.Match(principals=[exact(PEER.removeprefix("spiffe://"))], destination_ports=[PORT])
        fresh.istiod.policy("hello", "deny", "DENY", [[match]], scope="NAMESPACE")
        assert await denied.ended() in ENDED
        assert await denied_too.ended() in ENDED
        assert await allowed.goes_on()
        away = ip_network(fresh.lab.pods["hello-1"].ip)
        match = authorization_pb2.Match(
            not_destination_ips=[authorization_pb2.Address(address=away.network_address.packed, length=32)]
        )
        fresh.istiod.policy("hello", "deny", "DENY", [[match]], scope="NAMESPACE")
        await asyncio.sleep(0.4)
        assert await allowed.goes_on()


async def test_what_a_waypoint_sends_to_a_service_of_its_own_does_not_come_back(fresh: Node) -> None:
    """Neither by its service nor by its address: it goes on to the endpoint, with the waypoint's identity."""
    gateway, own = "hello/gate.hello.svc.cluster.local", fresh.lab.pods["hello-1"].ip
    by_service = workload_pb2.GatewayAddress(hbone_mtls_port=15008)
    by_service.hostname.namespace, by_service.hostname.hostname = gateway.split("/")
    at = workload_pb2.NetworkAddress(address=socket.inet_aton(own))
    by_address = workload_pb2.GatewayAddress(address=at, hbone_mtls_port=15008)
    fresh.istiod.service("hello", "gate", "10.96.0.8", {15008: 15008})
    hello(fresh, services={gateway: {15008: 15008}}, application_tunnel=tunnel(workload_pb2.ApplicationTunnel.PROXY))
    backend = {"web/behind.web.svc.cluster.local": {80: 5000}}
    fresh.istiod.workload("web-1", "web", fresh.lab.pods["web-1"].ip, services=backend, waypoint=by_service)
    for reference in (by_service, by_address):
        fresh.istiod.service("web", "behind", "10.96.0.9", {80: 5000}, waypoint=reference)
        await fresh.settled()
        for url in ("http://10.96.0.9/x", f"http://{fresh.lab.pods['web-1'].ip}:5000/x"):
            answer = await fresh.curl("hello-1", url)
            assert answer.out.startswith("web-1 got GET /x"), answer
            assert answer.out.endswith(own)
