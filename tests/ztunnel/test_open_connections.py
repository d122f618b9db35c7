"""Open connections when policies change: those that are forbidden now are closed, all others go on."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tulle.xds.proto import authorization_pb2

from .conftest import needs_root
from .fake_istiod import exact, plaintext
from .live import ENDED, live
from .mesh import SERVICE, STRICT, VIP, hello
from .node import Node

pytestmark = [needs_root, pytest.mark.asyncio(loop_scope="package")]

GREETING = b"220 ready\r\n"
TEST = "cluster.local/ns/test/sa/default"


async def connections(node: Node, pod: str = "hello-1") -> dict[str, list[dict[str, Any]]]:
    dump = await node.admin("/config_dump")
    found: dict[str, list[dict[str, Any]]] = dump["workloadState"][f"uid-{pod}"]["connections"]
    return found


def only(node: Node, *principals: str) -> None:
    match = authorization_pb2.Match(principals=[exact(principal) for principal in principals])
    node.istiod.policy("hello", "only", "ALLOW", [[match]])


async def test_an_unrelated_change_leaves_connections_alone(fresh: Node) -> None:
    async with live(fresh, "test-1") as tunnel, live(fresh, "out-1") as plain:
        only(fresh, TEST)
        fresh.istiod.policy("web", "deny", "DENY", scope="NAMESPACE")
        match = authorization_pb2.Match(principals=[exact("cluster.local/ns/nobody/sa/x")])
        fresh.istiod.policy("hello", "deny-nobody", "DENY", [[match]], scope="NAMESPACE")
        await fresh.settled()
        await asyncio.sleep(1)
        assert await tunnel.goes_on()
        assert await plain.goes_on()


async def test_deny_closes_whom_it_names(fresh: Node) -> None:
    async with live(fresh, "test-1") as denied, live(fresh, "web-1") as other, live(fresh, "out-1") as plain:
        match = authorization_pb2.Match(principals=[exact(TEST)])
        fresh.istiod.policy("hello", "deny", "DENY", [[match]], scope="NAMESPACE")
        assert await denied.ended() in ENDED
        assert await other.goes_on()
        assert await plain.goes_on()
    closed = await fresh.eventually(lambda: _line(fresh, "due to policy change: explicitly denied by: hello/deny"))
    assert closed["src.identity"] == f"spiffe://{TEST}"
    assert closed["level"] == "error"


async def _line(node: Node, text: str) -> dict[str, Any] | None:
    for line in reversed(node.access_lines()):
        if text in line:
            found: dict[str, Any] = json.loads(line)
            return found
    return None


async def test_strict_closes_plaintext(fresh: Node) -> None:
    async with (
        live(fresh, "test-1") as tunnel,
        live(fresh, "out-1") as plain,
        live(fresh, "out-1", 2501) as to_ipv6_socket,
    ):
        fresh.istiod.policy("istio-system", "istio_converted_static_strict", "DENY", [[plaintext()]])
        hello(fresh, authorization_policies=[STRICT])
        assert await plain.ended() == "reset"
        assert await to_ipv6_socket.ended() == "reset"
        assert await tunnel.goes_on()


async def test_a_newly_attached_policy_closes(fresh: Node) -> None:
    only(fresh, "cluster.local/ns/web/sa/default")
    await fresh.settled()
    async with live(fresh, "test-1") as denied, live(fresh, "web-1") as allowed:
        hello(fresh, authorization_policies=["hello/only"])
        assert await denied.ended() in ENDED
        assert await allowed.goes_on()


async def test_removal_of_the_allow_that_let_it_in(fresh: Node) -> None:
    only(fresh, TEST)
    fresh.istiod.policy("hello", "nobody", "ALLOW", scope="NAMESPACE")
    hello(fresh, authorization_policies=["hello/only"])
    await fresh.settled()
    async with live(fresh, "test-1") as client:
        hello(fresh)
        fresh.istiod.no_policy("hello", "only")
        assert await client.ended() in ENDED


async def test_a_policy_that_arrives_after_it_is_attached(fresh: Node) -> None:
    """The record names a policy first; connections wait a moment for it, and go when it does not come."""
    async with live(fresh, "test-1") as allowed, live(fresh, "web-1") as denied:
        hello(fresh, authorization_policies=["hello/only"])
        await asyncio.sleep(0.3)
        only(fresh, TEST)
        assert await denied.ended() in ENDED
        assert await allowed.goes_on()
        hello(fresh, authorization_policies=["hello/never"])
        assert await allowed.ended() in ENDED


async def test_the_table_of_open_connections(fresh: Node) -> None:
    pods = fresh.lab.pods
    async with live(fresh, "test-1"), live(fresh, "out-1"):

        async def both() -> dict[str, list[dict[str, Any]]] | None:
            found = await connections(fresh)
            return found if len(found["inbound"]) == 2 else None

        found = await fresh.eventually(both)
        target = f"{pods['hello-1'].ip}:2500"
        by_protocol = {entry["protocol"]: entry for entry in found["inbound"]}
        assert by_protocol["HBONE"]["src"].startswith(f"{pods['test-1'].ip}:")
        assert by_protocol["TCP"]["src"].startswith(f"{pods['out-1'].ip}:")
        assert {entry["actualDst"] for entry in found["inbound"]} == {target}
        (out,) = (await connections(fresh, "test-1"))["outbound"]
        assert (out["originalDst"], out["actualDst"]) == (f"{VIP}:2500", f"{pods['hello-1'].ip}:15008")
        assert out["protocol"] == "HBONE"

    async def none() -> bool:
        return await connections(fresh) == {"inbound": [], "outbound": []}

    await fresh.eventually(none)


async def test_log_and_metrics_of_both_sides(fresh: Node) -> None:
    match = authorization_pb2.Match(principals=[exact("cluster.local/ns/web/sa/default")])
    fresh.istiod.policy("hello", "deny-web", "DENY", [[match]], scope="NAMESPACE")
    await fresh.settled()
    url = f"http://{VIP}:5000/logged"
    assert (await fresh.curl("test-1", url)).code == 0
    assert (await fresh.curl("web-1", url)).code == 56
    denied = await fresh.eventually(lambda: _line(fresh, "explicitly denied by: hello/deny-web"))
    assert (denied["src.workload"], denied["src.namespace"]) == ("web-1", "web")
    assert (denied["dst.workload"], denied["dst.service"]) == ("hello-1", SERVICE)
    assert (denied["direction"], denied["level"]) == ("inbound", "error")
    hello_service = 'destination_service="helloworld.hello.svc.cluster.local"'
    for reporter in ("source", "destination"):
        wanted = (f'reporter="{reporter}"', f'source_principal="spiffe://{TEST}"', hello_service, "mutual_tls")
        await fresh.eventually(lambda w=wanted: _counted(fresh, "istio_tcp_connections_opened_total", *w))
        await fresh.eventually(lambda w=wanted: _counted(fresh, "istio_tcp_received_bytes_total", *w))
    refused = ('response_flags="DENY"', "ns/web/sa/default", hello_service)
    await fresh.eventually(lambda: _counted(fresh, "istio_tcp_connections_failed_total", *refused))
    for name in ("istio_build", "istio_xds_message_total", "envoy_server_live"):
        assert await _counted(fresh, name), name


async def _counted(node: Node, name: str, *labels: str) -> bool:
    """Whether there is a series of that name with all of these in its labels, and a value above 0."""
    return any(
        line.startswith(f"{name}{{") and all(label in line for label in labels) and float(line.split()[-1]) > 0
        for line in await node.stats()
    )


async def test_a_peer_that_tls_does_not_accept_is_logged_and_counted(fresh: Node) -> None:
    pod = fresh.lab.pods["hello-1"]
    await fresh.curl("out-1", "-k", f"https://{pod.ip}:15008/")
    line = await fresh.eventually(lambda: _line(fresh, '"message":"connection failed"'))
    assert line["direction"] == "inbound"
    assert "TLS" in line["error"]
    assert await _counted(fresh, "istio_tcp_connections_failed_total", 'response_flags="TLS_FAILURE"')
