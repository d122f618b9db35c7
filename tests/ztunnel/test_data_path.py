"""Traffic between real pods through a real node proxy: what arrives, and with which identity."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys

import pytest

from tulle.xds.proto import workload_pb2

from .conftest import needs_root
from .fake_istiod import plaintext
from .lab import run
from .mesh import PORTS, SERVICE, VIP, hello, helloworld
from .node import Node

pytestmark = [needs_root, pytest.mark.asyncio(loop_scope="package")]

URL = f"http://{VIP}:5000/x"


async def test_service_address(fresh: Node) -> None:
    answer = await fresh.curl("test-1", URL)
    assert answer.out.startswith("hello-1 got GET /x")
    line = await fresh.eventually(lambda: _line(fresh, "outbound", "10.244.77.10:5000"))
    assert line["src.identity"] == "spiffe://cluster.local/ns/test/sa/default"
    assert line["dst.identity"] == "spiffe://cluster.local/ns/hello/sa/default"
    assert line["dst.service"] == SERVICE
    assert line["dst.workload"] == "hello-1"


async def _line(node: Node, direction: str, hbone: str) -> dict[str, str] | None:
    for text in reversed(node.access_lines()):
        line: dict[str, str] = json.loads(text)
        if line["direction"] == direction and line.get("dst.hbone_addr") == hbone:
            return line
    return None


async def test_pod_address(fresh: Node) -> None:
    answer = await fresh.curl("test-1", f"http://{fresh.lab.pods['hello-1'].ip}:5000/x")
    assert answer.out.startswith("hello-1 got GET /x")
    line = await fresh.eventually(lambda: _line(fresh, "inbound", "10.244.77.10:5000"))
    assert line["src.identity"] == "spiffe://cluster.local/ns/test/sa/default"


async def test_ipv6_within_the_mesh_and_out_of_it(fresh: Node) -> None:
    """By address of a service and of a pod, over tunnels between IPv6 addresses; and in plaintext, in and out."""
    server, client, stranger = (fresh.lab.pods[name] for name in ("hello-1", "test-1", "out-1"))
    hello(fresh, also=[server.ip6])
    fresh.istiod.workload("test-1", "test", client.ip, also=[client.ip6])
    fresh.istiod.service("hello", "six", "fd00:96::5", {80: 5000})
    fresh.istiod.workload(
        "hello-1", "hello", server.ip, also=[server.ip6], services={"hello/six.hello.svc.cluster.local": {80: 5000}}
    )
    await fresh.settled()
    for url in ("http://[fd00:96::5]/x", f"http://[{server.ip6}]:5000/x"):
        assert (await fresh.curl("test-1", "-g", url)).out.startswith("hello-1 got GET /x")
        line = await fresh.eventually(lambda: _line(fresh, "inbound", f"[{server.ip6}]:5000"))
        assert line["src.addr"].startswith(f"[{client.ip6}]:")
        assert line["src.identity"] == "spiffe://cluster.local/ns/test/sa/default"
    answer = await fresh.curl("out-1", "-g", f"http://[{server.ip6}]:5000/x")
    assert answer.out == f"hello-1 got GET /x HTTP/1.1 from {stranger.ip6}"
    assert (await fresh.curl("test-1", "-g", f"http://[{stranger.ip6}]:5000/x")).out.startswith("out-1 got")
    hello(fresh, also=[server.ip6], authorization_policies=["hello/strict"])
    fresh.istiod.policy("hello", "strict", "DENY", [[plaintext()]])
    await fresh.settled()
    assert (await fresh.curl("out-1", "-g", f"http://[{server.ip6}]:5000/x")).code == 56
    assert (await fresh.curl("test-1", "-g", f"http://[{server.ip6}]:5000/x")).code == 0


async def test_plaintext_both_ways(fresh: Node) -> None:
    into = await fresh.curl("out-1", f"http://{fresh.lab.pods['hello-1'].ip}:5000/x")
    assert into.out == f"hello-1 got GET /x HTTP/1.1 from {fresh.lab.pods['out-1'].ip}"
    out = await fresh.curl("hello-1", f"http://{fresh.lab.pods['out-1'].ip}:5000/x")
    assert out.out == "out-1 got GET /x HTTP/1.1 from 10.244.77.10"


async def test_outside_of_the_mesh(fresh: Node) -> None:
    pod = fresh.lab.pods["out-1"]
    run("ip", "-n", pod.netns, "addr", "add", "192.0.2.1/32", "dev", "eth0")
    run("ip", "-n", fresh.lab.node, "route", "add", "192.0.2.1", "via", pod.ip)
    answer = await fresh.curl("test-1", "http://192.0.2.1:5000/x")
    assert answer.out == "out-1 got GET /x HTTP/1.1 from 10.244.77.12"


async def test_own_service(fresh: Node) -> None:
    """A pod that reaches itself by its service's address."""
    assert (await fresh.curl("hello-1", URL)).out.startswith("hello-1 got GET /x")


async def test_server_speaks_first(fresh: Node) -> None:
    assert "220 ready" in (await fresh.curl("test-1", f"telnet://{VIP}:2500", timeout=1)).out
    address = fresh.lab.pods["hello-1"].ip
    assert "220 ready" in (await fresh.curl("out-1", f"telnet://{address}:2500", timeout=1)).out


@pytest.mark.parametrize("client", ["test-1", "out-1"])
async def test_every_byte_arrives_when_the_client_closes_its_side_first(fresh: Node, client: str) -> None:
    host = VIP if client == "test-1" else fresh.lab.pods["hello-1"].ip
    script = (
        "import socket,sys,time\n"
        f"s=socket.create_connection(({host!r},2600)); s.shutdown(socket.SHUT_WR); time.sleep(.3)\n"
        "n=0\n"
        "while d:=s.recv(4096): n+=len(d)\n"
        "print(n)"
    )
    process = await asyncio.create_subprocess_exec(
        *fresh.lab.pods[client].argv(sys.executable, "-c", script), stdout=subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert out.strip() == b"3000000"


async def test_endpoint_change_is_followed(fresh: Node) -> None:
    assert (await fresh.curl("test-1", URL)).out.startswith("hello-1")
    hello(fresh, services={})
    second = fresh.lab.pods["hello-2"]
    fresh.istiod.workload("hello-2", "hello", second.ip, services={SERVICE: PORTS}, service_account="default")
    await fresh.settled()
    assert (await fresh.curl("test-1", URL)).out.startswith("hello-2")


async def test_mixed_endpoints(fresh: Node) -> None:
    """One endpoint in the mesh, one not: both are used, each its own way."""
    outside = fresh.lab.pods["out-1"]
    fresh.istiod.workload("out-1", "out", outside.ip, tunnel_protocol=workload_pb2.NONE, services={SERVICE: PORTS})
    await fresh.settled()
    seen = {(await fresh.curl("test-1", URL)).out.split()[0] for _ in range(40)}
    assert seen == {"hello-1", "out-1"}


async def test_endpoints_of_two_identities(fresh: Node) -> None:
    fresh.istiod.workload("hello-2", "hello", fresh.lab.pods["hello-2"].ip, services={SERVICE: PORTS})
    web = fresh.lab.pods["web-1"]
    fresh.istiod.workload("web-1", "web", web.ip, services={SERVICE: PORTS})
    await fresh.settled()
    seen = {(await fresh.curl("test-1", URL)).out.split()[0] for _ in range(60)}
    assert seen == {"hello-1", "hello-2", "web-1"}


async def test_target_port_of_the_endpoint(fresh: Node) -> None:
    fresh.istiod.service("hello", "other", "10.96.0.6", {80: 0})
    hello(fresh, services={"hello/other.hello.svc.cluster.local": {80: 5000}})
    await fresh.settled()
    assert (await fresh.curl("test-1", "http://10.96.0.6/x")).out.startswith("hello-1")


async def test_private_service_is_seen_in_its_namespace_only(fresh: Node) -> None:
    helloworld(fresh, visibility=workload_pb2.NAMESPACE)
    await fresh.settled()
    assert (await fresh.curl("hello-2", URL)).out.startswith("hello-1")
    assert (await fresh.curl("test-1", URL, timeout=2)).code != 0


async def test_waypoint_gets_the_service_address_and_the_client_identity(fresh: Node) -> None:
    gateway = "hello/waypoint.hello.svc.cluster.local"
    where = fresh.lab.pods["out-1"]
    what = {"mode": "server", "host": where.ip, "port": 15008, "backend": [where.ip, 5000]}
    what |= {"headers": ["baggage", "forwarded", "traceparent"]}
    what |= fresh.identity_files("spiffe://cluster.local/ns/hello/sa/waypoint")
    command = where.argv(sys.executable, "-m", "tests.ztunnel.peer", json.dumps(what))
    waypoint = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert waypoint.stdout is not None
    try:
        assert await waypoint.stdout.readline() == b"listening\n"
        fresh.istiod.service("hello", "waypoint", "10.96.0.9", {15008: 15008})
        fresh.istiod.workload(
            "waypoint-1", "hello", where.ip, service_account="waypoint", services={gateway: {15008: 15008}}
        )
        reference = workload_pb2.GatewayAddress(hbone_mtls_port=15008)
        reference.hostname.namespace, reference.hostname.hostname = gateway.split("/")
        helloworld(fresh, waypoint=reference)
        await fresh.settled()
        assert (await fresh.curl("test-1", URL)).out.startswith("out-1")
        seen = json.loads(await waypoint.stdout.readline())
        assert (seen["authority"], seen["peer"]) == (f"{VIP}:5000", "spiffe://cluster.local/ns/test/sa/default")
        source = re.escape(fresh.lab.pods["test-1"].ip)
        assert re.fullmatch(rf'for="{source}:[0-9]+";host=helloworld\.hello\.svc\.cluster\.local', seen["forwarded"])
        assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", seen["traceparent"])
        assert "k8s.cluster.name=Kubernetes,k8s.namespace.name=test,k8s.pod.name=test-1" in seen["baggage"]

        fresh.istiod.workload(
            "waypoint-1", "hello", where.ip, service_account="impostor", services={gateway: {15008: 15008}}
        )
        await fresh.settled()
        assert await fresh.many(10, "test-1", URL) == {56: 10}

        fresh.istiod.remove("Kubernetes//Pod/hello/waypoint-1")
        await fresh.settled()
        assert await fresh.many(10, "test-1", URL) == {56: 10}
    finally:
        waypoint.kill()
        await waypoint.wait()


async def test_a_pod_costs_the_same_whatever_the_mesh(fresh: Node) -> None:
    before = await _sizes(fresh)
    for number in range(300):
        address = f"10.244.77.{number % 100 + 100}"
        fresh.istiod.workload(f"filler-{number}", "filler", address)
        fresh.istiod.service("filler", f"filler-{number}", f"10.96.0.{number % 100 + 100}", {80: 80})
    await fresh.settled()
    assert await _sizes(fresh) == before


async def _sizes(node: Node) -> str:
    """Everything that Envoy has of listeners, without the times at which it got them."""
    listeners = await node.admin("/envoy/config_dump?resource=dynamic_listeners")
    states = [entry.get("active_state", {}).get("listener") for entry in listeners["configs"]]
    return json.dumps(states, sort_keys=True)


async def test_the_app_sees_the_address_of_the_client(fresh: Node) -> None:
    assert (await fresh.curl("test-1", URL)).out.endswith(f"from {fresh.lab.pods['test-1'].ip}")
    host = fresh.lab.pods["hello-1"].ip
    asked = {
        "authority": f"{host}:5000",
        "headers": [("x-forwarded-for", "10.9.9.9")],
        "send": "GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    }
    (answer,) = await fresh.tunnels("out-1", host, "spiffe://cluster.local/ns/x/sa/y", asked)
    assert f"from {fresh.lab.pods['out-1'].ip}" in answer["data"]
