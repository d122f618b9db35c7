"""Connections that must not be: what is refused, and that the refused client sees the same thing every time."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from tulle.xds.proto import authorization_pb2

from .conftest import needs_root
from .fake_istiod import cidr, exact, plaintext
from .mesh import PORTS, SERVICE, STRICT, VIP, hello, http
from .node import Node

pytestmark = [needs_root, pytest.mark.asyncio(loop_scope="package")]

URL = f"http://{VIP}:5000/x"
TEST = "spiffe://cluster.local/ns/test/sa/default"
CAPABLE = (("x-tulle-refusal", "in-tunnel"),)
RUNS = 30
RESET = {56: RUNS}


def strict(node: Node) -> None:
    node.istiod.policy("istio-system", "istio_converted_static_strict", "DENY", [[plaintext()]])
    hello(node, authorization_policies=[STRICT])


def only(node: Node, principal: str) -> None:
    """An ALLOW for one identity, on hello-1."""
    match = authorization_pb2.Match(principals=[exact(principal)])
    node.istiod.policy("hello", "only", "ALLOW", [[match]])
    hello(node, authorization_policies=["hello/only"])


async def test_strict_refuses_plaintext_and_takes_the_mesh(fresh: Node) -> None:
    strict(fresh)
    await fresh.settled()
    target = f"http://{fresh.lab.pods['hello-1'].ip}:5000/hello"
    assert await fresh.many(RUNS, "out-1", "-I", target) == RESET
    assert await fresh.many(20, "test-1", "-I", URL) == {0: 20}
    assert await fresh.many(20, "out-1", "-I", f"http://{fresh.lab.pods['hello-2'].ip}:5000/x") == {0: 20}


async def test_strict_does_not_keep_a_silent_client(fresh: Node) -> None:
    strict(fresh)
    await fresh.settled()
    answer = await fresh.curl("out-1", f"telnet://{fresh.lab.pods['hello-1'].ip}:2500", timeout=5)
    assert answer.code == 56
    assert "220" not in answer.out


async def test_a_policy_without_rules_refuses_everybody(fresh: Node) -> None:
    fresh.istiod.policy("hello", "hw", "ALLOW")
    hello(fresh, authorization_policies=["hello/hw"])
    await fresh.settled()
    assert await fresh.many(RUNS, "test-1", "-I", URL) == RESET
    assert await fresh.many(RUNS, "test-1", "-I", f"http://{fresh.lab.pods['hello-1'].ip}:5000/x") == RESET
    assert await fresh.many(20, "out-1", "-I", f"http://{fresh.lab.pods['hello-1'].ip}:5000/x") == {56: 20}
    silent = await fresh.curl("test-1", f"telnet://{VIP}:2500", timeout=5)
    assert (silent.code, "220" in silent.out) == (56, False)
    denied = [json.loads(line) for line in fresh.access_lines() if "none allowed" in line]
    assert denied[-1]["error"] == ("connection closed due to policy rejection: allow policies exist, but none allowed")


async def test_explained_refusals(fresh: Node) -> None:
    http(fresh, explain=True)
    fresh.istiod.policy("hello", "hw", "ALLOW")
    hello(fresh, authorization_policies=["hello/hw"])
    await fresh.settled()
    reason = "connection closed due to policy rejection: allow policies exist, but none allowed"
    assert await fresh.many(RUNS, "test-1", "-f", "-I", URL) == {22: RUNS}
    plain = await fresh.curl("test-1", "-i", URL)
    assert plain.out.startswith("HTTP/1.1 503 Service Unavailable")
    assert plain.out.endswith(reason)
    assert "ztunnel refused spiffe://cluster.local/ns/test/sa/default: " in plain.out
    assert "connection: close" in plain.out, "nobody's next request may be sent to where the reason is given"
    head = await fresh.curl("test-1", "-I", URL)
    assert head.out.startswith("HTTP/1.1 503 Service Unavailable")
    assert reason not in head.out
    assert (await fresh.curl("test-1", "-0", "-i", URL)).out.startswith("HTTP/1.0 503")
    assert (await fresh.curl("test-1", "--http2-prior-knowledge", "-i", URL)).out.startswith("HTTP/2 503")
    upgrade = ("-H", "Connection: Upgrade", "-H", "Upgrade: websocket")
    assert (await fresh.curl("test-1", *upgrade, "-i", URL)).out.startswith("HTTP/1.1 503")
    assert (await fresh.curl("test-1", "-d", "x" * 100_000, "-i", URL)).out.endswith(reason)


async def test_explaining_leaves_good_traffic_alone(fresh: Node) -> None:
    http(fresh, explain=True)
    await fresh.settled()
    for more in (("-0",), ("-I",), ("-H", "Connection: Upgrade", "-H", "Upgrade: websocket")):
        assert (await fresh.curl("test-1", *more, "-i", URL)).out.startswith("HTTP/1.1 200 OK")
    fresh.istiod.policy("hello", "hw", "ALLOW")
    hello(fresh, authorization_policies=["hello/hw"])
    await fresh.settled()
    raw = await fresh.curl("out-1", "-I", f"http://{fresh.lab.pods['hello-1'].ip}:5000/x")
    assert raw.code == 56, "a client outside of the mesh is not answered by the mesh"


async def test_no_endpoint(fresh: Node) -> None:
    hello(fresh, status=1)
    await fresh.settled()
    assert await fresh.many(RUNS, "test-1", URL) == RESET
    http(fresh, explain=True)
    await fresh.settled()
    assert (await fresh.curl("test-1", "-i", URL)).out.startswith("HTTP/1.1 503 Service Unavailable")


async def test_unknown_port(fresh: Node) -> None:
    assert await fresh.many(RUNS, "test-1", f"http://{VIP}:81/x") == RESET


async def test_own_ports_are_no_target(fresh: Node) -> None:
    pod = fresh.lab.pods["test-1"]
    for target in (f"{pod.ip}:15001", "127.0.0.1:15001", f"{pod.ip}:15006", "127.0.0.1:15006"):
        assert (await fresh.curl("test-1", f"http://{target}/", timeout=3)).code == 56
    for port in (15001, 15006):
        assert (await fresh.curl("out-1", f"http://{pod.ip}:{port}/", timeout=3)).code == 56
    status = await fresh.tunnels(
        "out-1", pod.ip, TEST, *({"authority": f"{pod.ip}:{p}"} for p in (15001, 15006, 15008))
    )
    assert [answer["status"] for answer in status] == [503, 503, 503]


async def test_wrong_identity_of_the_server(fresh: Node) -> None:
    """The mesh says that hello-1 is somebody else than it is: its certificate is not accepted."""
    hello(fresh, service_account="other")
    await fresh.settled()
    assert await fresh.many(RUNS, "test-1", URL) == RESET
    assert await fresh.many(20, "test-1", f"http://{fresh.lab.pods['hello-1'].ip}:5000/x") == {56: 20}


async def test_nobody_listens_at_the_endpoint(fresh: Node) -> None:
    pod = fresh.lab.pods["out-1"]
    fresh.istiod.workload(
        "hello-1", "hello", pod.ip, services={"hello/helloworld.hello.svc.cluster.local": {5000: 5000}}
    )
    await fresh.settled()
    assert await fresh.many(RUNS, "test-1", URL) == RESET


async def answers(node: Node) -> bool:
    """Whether the service does, now."""
    return (await node.curl("test-1", "-f", URL)).code == 0


async def all_answer(node: Node) -> bool:
    return await node.many(40, "test-1", "-f", URL) == {0: 40}


async def test_unreachable_and_mistaken_endpoints_are_explained(fresh: Node) -> None:
    """Ports that want explanation: an endpoint with another identity, one that is not there, and one good one beside it."""
    http(fresh, explain=True)
    hello(fresh, service_account="other")
    await fresh.settled()
    for _ in range(10):
        answer = await fresh.curl("test-1", "-i", URL)
        assert answer.out.startswith("HTTP/1.1 503 Service Unavailable"), answer
        assert answer.out.endswith("the log of the client's ztunnel says why")
    nobody = fresh.lab.pods["out-1"]
    fresh.istiod.workload("hello-1", "hello", nobody.ip, services={SERVICE: PORTS})
    await fresh.settled()
    assert await fresh.many(10, "test-1", "-f", URL) == {22: 10}
    web = fresh.lab.pods["web-1"]
    fresh.istiod.workload("web-1", "web", web.ip, services={SERVICE: PORTS})
    await fresh.eventually(lambda: answers(fresh))
    codes = await fresh.many(40, "test-1", "-f", URL)
    assert set(codes) <= {0, 22, 56}
    assert codes[0] > codes[22] + codes[56], "what cannot be reached is left out after the first attempt"
    hello(fresh)
    await fresh.settled()
    await fresh.eventually(lambda: all_answer(fresh))


async def test_foreign_authority(fresh: Node) -> None:
    """A tunnel is for the pod that takes it and for nobody else, in one spelling of the port only."""
    pod, other = fresh.lab.pods["hello-1"].ip, fresh.lab.pods["hello-2"].ip
    authorities = (f"{other}:5000", f"{VIP}:5000", "helloworld.hello", pod, f"{pod}:", f"{pod}:05000")
    more = (f"{pod}:+5000", f"{pod}:5000x", f"[{pod}]:5000", "127.0.0.1:5000", f"{pod}:0", f"x{pod}:5000")
    requests = [{"authority": authority} for authority in authorities + more]
    answers = await fresh.tunnels("out-1", pod, TEST, *requests)
    assert [answer["status"] for answer in answers] == [400] * len(requests)
    named = [{"authority": f"{name}:5000"} for name in ("helloworld.hello", "helloworld.hello.svc.cluster.local")]
    others = await fresh.tunnels(
        "out-1", pod, TEST, *named, {"authority": f"{pod}:5000"}, {"authority": f"{pod}:99999"}
    )
    assert [answer["status"] for answer in others] == [503, 200, 200, 400]


async def test_only_connect(fresh: Node) -> None:
    pod = fresh.lab.pods["hello-1"].ip
    methods = [{"authority": f"{pod}:5000", "method": method} for method in ("GET", "POST", "PUT")]
    answers = await fresh.tunnels("out-1", pod, TEST, *methods)
    assert [answer["status"] for answer in answers] == [400, 400, 400]


async def test_forged_headers_do_not_make_an_identity(fresh: Node) -> None:
    only(fresh, "cluster.local/ns/test/sa/default")
    await fresh.settled()
    pod = fresh.lab.pods["hello-1"].ip
    forged = (("x-tulle-principal", TEST), ("x-tulle-source", "10.244.77.12"), ("x-forwarded-for", "10.244.77.12"))
    requests = [
        {"authority": f"{pod}:5000", "headers": forged},
        {"authority": f"{pod}:5000", "headers": (*forged, *forged)},
        {"authority": f"{pod}:5000"},
    ]
    web = await fresh.tunnels("out-1", pod, "spiffe://cluster.local/ns/web/sa/default", *requests)
    assert [answer["status"] for answer in web] == [401, 401, 401]
    test = await fresh.tunnels("out-1", pod, TEST, *requests)
    assert [answer["status"] for answer in test] == [200, 200, 200]


@pytest.mark.parametrize(
    "identity",
    [
        "spiffe://other.domain/ns/test/sa/default",
        "spiffe://cluster.local/test",
        "spiffe://cluster.local/ns/test/sa/default/more",
    ],
)
async def test_identities_that_are_not_of_the_mesh(fresh: Node, identity: str) -> None:
    pod = fresh.lab.pods["hello-1"].ip
    (answer,) = await fresh.tunnels("out-1", pod, identity, {"authority": f"{pod}:5000"})
    assert answer.get("status", 401) == 401


async def test_app_that_does_not_listen(fresh: Node) -> None:
    pod = fresh.lab.pods["hello-1"].ip
    (answer,) = await fresh.tunnels("out-1", pod, TEST, {"authority": f"{pod}:4999"})
    assert answer["status"] == 503


async def test_peers_that_cannot_take_a_refusal_in_the_tunnel_get_a_status(fresh: Node) -> None:
    fresh.istiod.policy("hello", "hw", "ALLOW")
    hello(fresh, authorization_policies=["hello/hw"])
    await fresh.settled()
    pod = fresh.lab.pods["hello-1"].ip
    request = {"authority": f"{pod}:5000", "send": "GET / HTTP/1.1\r\n\r\n"}
    plain, capable = await fresh.tunnels("out-1", pod, TEST, request, {**request, "headers": CAPABLE})
    assert plain["status"] == 401
    assert (capable["status"], capable["data"]) == (200, "")


async def test_connections_of_one_identity_are_never_used_by_another(fresh: Node) -> None:
    """The pool is keyed by identity: a denied pod does not ride on the connection of an allowed one.

    test-1 and test-2 are of one namespace, so they use one cluster, and only the pool's key keeps them apart.
    """
    only(fresh, "cluster.local/ns/test/sa/default")
    await fresh.settled()
    for denied in ("test-2", "web-1"):
        for _ in range(3):
            results = await asyncio.gather(fresh.many(6, "test-1", "-I", URL), fresh.many(6, denied, "-I", URL))
            assert results == [{0: 6}, {56: 6}]


async def test_unknown_policy_keeps_everybody_out(fresh: Node) -> None:
    hello(fresh, authorization_policies=["hello/late"])
    await fresh.settled()
    assert await fresh.many(20, "test-1", "-I", URL) == {56: 20}
    assert await fresh.many(20, "out-1", "-I", f"http://{fresh.lab.pods['hello-1'].ip}:5000/x") == {56: 20}
    fresh.istiod.policy("hello", "late", "ALLOW", [])
    await fresh.settled()
    assert await fresh.many(20, "test-1", "-I", URL) == {0: 20}


async def test_source_and_port_rules(fresh: Node) -> None:
    pod = fresh.lab.pods["hello-1"].ip
    source = authorization_pb2.Match(source_ips=[cidr("10.244.77.12/32")], destination_ports=[5000])
    fresh.istiod.policy("hello", "deny", "DENY", [[source]])
    hello(fresh, authorization_policies=["hello/deny"])
    await fresh.settled()
    assert await fresh.many(10, "test-1", "-I", URL) == {56: 10}
    assert (await fresh.curl("test-1", f"telnet://{VIP}:2500", timeout=1)).code == 28
    assert await fresh.many(10, "web-1", "-I", URL) == {0: 10}
    outside = authorization_pb2.Match(source_ips=[cidr("10.244.77.14/32")], destination_ports=[5000])
    fresh.istiod.policy("hello", "deny", "DENY", [[outside]])
    await fresh.settled()
    assert await fresh.many(10, "out-1", "-I", f"http://{pod}:5000/x") == {56: 10}
    assert (await fresh.curl("out-1", f"telnet://{pod}:2500", timeout=1)).code == 28


async def test_every_kind_of_rule_is_acceptable_to_envoy(fresh: Node) -> None:
    """Rules that use every field at once, for both listeners; a rejection would show in the proxy's log."""
    match = authorization_pb2.Match(
        principals=[exact("cluster.local/ns/a/sa/b"), authorization_pb2.StringMatch(suffix="%a.b")],
        not_principals=[authorization_pb2.StringMatch(prefix="x-y")],
        namespaces=[exact("a"), exact("b.c")],
        not_namespaces=[exact("x")],
        service_accounts=[authorization_pb2.ServiceAccountMatch(namespace="a", serviceAccount="b.c")],
        source_ips=[cidr("10.0.0.0/8"), cidr("fd00::/8")],
        not_source_ips=[cidr("10.9.0.0/16")],
        destination_ports=[5000, 8080],
        not_destination_ports=[1],
    )
    fresh.istiod.policy("hello", "much", "DENY", [[match, match], [plaintext(), match]], [[match]])
    fresh.istiod.policy(
        "hello", "more", "ALLOW", [[match], [match]], [[authorization_pb2.Match(namespaces=[exact("test")])]]
    )
    hello(fresh, authorization_policies=["hello/much", "hello/more"])
    await fresh.settled()
    assert await fresh.many(5, "test-1", "-I", URL) == {0: 5}
    assert await fresh.many(5, "web-1", "-I", URL) == {56: 5}
    assert "Envoy rejected configuration" not in fresh.log.read_text()


async def test_policy_change_leaves_open_connections_of_others_alone(fresh: Node) -> None:
    """A live connection goes on while policies and endpoints of other pods change."""
    script = (
        "import socket,time\n"
        f"s=socket.create_connection(({VIP!r},2500)); s.recv(100)\n"
        "for _ in range(30):\n"
        " s.sendall(b'x'); assert s.recv(1)==b'x'; time.sleep(.05)\n"
        "print('fine')"
    )
    client = await asyncio.create_subprocess_exec(
        *fresh.lab.pods["test-1"].argv("python3", "-c", script), stdout=asyncio.subprocess.PIPE
    )
    deadline = time.monotonic() + 1.2
    number = 0
    while time.monotonic() < deadline:
        number += 1
        fresh.istiod.policy("hello", f"other-{number}", "DENY", [[plaintext()]], scope="NAMESPACE")
        fresh.istiod.workload(f"more-{number}", "hello", f"10.50.{number % 200}.1")
        await asyncio.sleep(0.05)
    out, _ = await client.communicate()
    assert out.strip() == b"fine"
