"""Lines of Envoy, the table of open connections, verdicts on them, metrics: without I/O."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import socket
import threading
from collections.abc import Sequence
from ipaddress import ip_address

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.xds.proto import workload_pb2
from tulle.ztunnel.config.access import Access
from tulle.ztunnel.config.destination import Here
from tulle.ztunnel.config.local_access import LocalAccess
from tulle.ztunnel.configurator import Configurator
from tulle.ztunnel.netns import made_inside
from tulle.ztunnel.policy.convert import Policy, Scope
from tulle.ztunnel.policy.decide import Effective, decide
from tulle.ztunnel.policy.terms import Constant, IdentityMatches, Peer
from tulle.ztunnel.traffic import metrics as metrics_module
from tulle.ztunnel.traffic import sockets
from tulle.ztunnel.traffic.flow import Flow
from tulle.ztunnel.traffic.line import Line, address, split
from tulle.ztunnel.traffic.metrics import LABELS, Ended, Metrics, Opened
from tulle.ztunnel.traffic.monitor import TrafficMonitor
from tulle.ztunnel.traffic.parties import Parties
from tulle.ztunnel.traffic.revoked import SETTLE_SECONDS, RevocationWatch
from tulle.ztunnel.traffic.sockets import CannotCloseError, Ends, destroy
from tulle.ztunnel.traffic.table import Connection, OpenConnections
from tulle.ztunnel.traffic.verdict import objection
from tulle.ztunnel.traffic.watch import PolicyWatch

A, B = "spiffe://cluster.local/ns/a/sa/a", "spiffe://cluster.local/ns/b/sa/b"
HERE, POD = ip_address("10.0.0.1"), ip_address("10.0.0.2")


def policy(name: str, identity: str, *, deny: bool) -> Policy:
    condition = IdentityMatches(identity) if identity else Constant(True)
    return Policy(name=name, namespace="n", scope=Scope.NAMESPACE, deny=deny, dry_run=False, condition=condition)


def access(
    *, deny: Sequence[str] = (), allow: Sequence[str] = (), unknown: Sequence[str] = (), known: bool = True
) -> Access:
    effective = Effective(
        tuple(unknown),
        tuple(policy(f"deny-{who}", who, deny=True) for who in deny),
        tuple(policy(f"allow-{who}", who, deny=False) for who in allow),
    )
    return Access((POD,), effective, known=known)


identities = st.sampled_from([A, B])
some = st.lists(identities, max_size=2, unique=True)


@given(some, some, st.sampled_from([A, B, None]), st.booleans())
def test_with_all_policies_there_the_verdict_is_that_on_a_new_connection(
    deny: list[str], allow: list[str], identity: str | None, patient: bool
) -> None:
    now = access(deny=deny, allow=allow)
    peer = Peer(identity, HERE, POD, 80)
    assert objection(now, peer, patient=patient) == decide(now.policies, peer).reason


@given(some, some, st.sampled_from([A, B, None]))
def test_patience_spares_only_what_a_missing_policy_may_still_allow(
    deny: list[str], allow: list[str], identity: str | None
) -> None:
    now = access(deny=deny, allow=allow, unknown=["n/late"])
    peer = Peer(identity, HERE, POD, 80)
    assert bool(objection(now, peer, patient=True)) == (identity in deny)
    assert objection(now, peer, patient=False) == "attached policy not known: n/late"


def test_a_pod_whose_record_is_gone_keeps_what_it_has() -> None:
    assert objection(access(deny=[A], known=False), Peer(A, HERE, POD, 80), patient=False) == ""


FLOWS = {
    who: Flow(True, "o", "a", "HBONE", Parties(None, None, None), (), Opened(), Ended(), Peer(who, HERE, POD, 80))
    for who in (A, B)
}


def connection(identity: str, port: int = 1) -> Connection:
    key = ("uid", f"10.0.0.2:{port}", "10.0.0.2:80")
    return Connection(key, "s", FLOWS[identity])


async def test_the_watch_closes_once_and_only_what_is_forbidden() -> None:
    table = OpenConnections()
    table.add(connection(A, 1))
    table.add(connection(B, 2))
    closed: list[Connection] = []
    now = {"uid": LocalAccess(access(deny=[A]), None, frozenset())}
    watch = PolicyWatch(now, table, lambda _, found: closed.extend(found))
    watch.changed("uid")
    watch.changed("uid")
    await asyncio.sleep(0.15)
    watch.changed("uid")
    await asyncio.sleep(0.15)
    assert closed == [connection(A, 1)]
    line = Line("TcpConnectionEnd", "hbone", "uid", app_local="10.0.0.2:1", app_remote="10.0.0.2:80")
    assert table.remove(line) == (
        connection(A, 1),
        "connection closed due to policy change: explicitly denied by: n/deny-" + A,
    )
    assert len(table) == 1
    watch.opened(connection(B, 2))
    assert not watch.pending
    table.add(connection(A, 3))
    watch.opened(connection(A, 3))
    await asyncio.sleep(0.15)
    assert closed[1:] == [connection(A, 3)]
    watch.stop()


async def test_what_could_not_be_closed_is_not_said_to_be_closed() -> None:
    table = OpenConnections()
    table.add(connection(A, 1))
    tried: list[Connection] = []

    def close(_: str, found: Sequence[Connection]) -> None:
        tried.extend(found)
        raise OSError("too many open files")

    now = {"uid": LocalAccess(access(deny=[A]), None, frozenset())}
    watch = PolicyWatch(now, table, close)
    watch.changed("uid")
    await asyncio.sleep(0.15)
    assert tried == [connection(A, 1)]
    assert watch.pending
    watch.stop()
    line = Line("TcpConnectionEnd", "hbone", "uid", app_local="10.0.0.2:1", app_remote="10.0.0.2:80")
    assert table.remove(line) == (connection(A, 1), "")


async def test_what_could_not_be_closed_is_tried_again_without_a_further_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tulle.ztunnel.traffic.watch.AGAIN_SECONDS", 0.01)
    monkeypatch.setattr("tulle.ztunnel.traffic.revoked.AGAIN_SECONDS", 0.01)
    table, tried = OpenConnections(), []
    flow = dataclasses.replace(FLOWS[A], serials=frozenset({7}))
    table.add(Connection(connection(A).key, "s", flow, ("10.0.0.2:15008", "10.0.0.1:1")))

    def close(_: str, found: Sequence[object]) -> None:
        tried.extend(found)
        if len(tried) % 2:
            raise OSError("too many open files")

    watch = PolicyWatch({"uid": LocalAccess(access(deny=[A]), None, frozenset())}, table, close)
    watch.changed("uid")
    await asyncio.sleep(0.25)
    assert len(tried) == 2
    assert not watch.pending
    revoked = RevocationWatch(table, lambda: ["uid"], lambda _: [Ends(("10.0.0.2", 15008), ("10.0.0.1", 1))], close)
    revoked.revoke(frozenset({7}))
    await asyncio.sleep(SETTLE_SECONDS + 0.2)
    assert len(tried) == 4


def test_without_a_thread_a_namespace_cannot_be_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(OSError, match="can't start new thread"):
        made_inside(-1, socket.socket)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("10.0.0.1:80", ("10.0.0.1", 80)),
        ("[fd00::1]:80", ("fd00::1", 80)),
        ("", None),
        ("envoy://x", None),
        ("10.0.0.1:" + "9" * 5000, None),
    ],
)
def test_addresses(text: str, pair: tuple[str, int] | None) -> None:
    assert split(text) == pair
    assert address(text) == (None if pair is None else ip_address(pair[0]))


@given(st.text(max_size=40))
def test_no_text_breaks_the_reading_of_addresses(text: str) -> None:
    split(text)
    address(text)


@pytest.mark.parametrize(
    ("line", "problem", "flag"),
    [
        (Line("E", "hbone", "u"), "", "-"),
        (Line("E", "hbone", "u", response_flags="DC"), "", "-"),
        (Line("E", "hbone", "u", response_flags="UF"), "connection failed", "CONNECT"),
        (
            Line("E", "outbound", "u", response_flags="UF,URX", failure="TLS_error"),
            "connection failed: TLS_error",
            "TLS_FAILURE",
        ),
        (Line("E", "handshake", "u", failure="no certificate"), "no certificate", "TLS_FAILURE"),
        (
            Line("E", "hbone", "u", error="connection closed due to policy rejection: x"),
            "connection closed due to policy rejection: x",
            "DENY",
        ),
    ],
)
def test_problems(line: Line, problem: str, flag: str) -> None:
    assert (line.problem, line.failure_flag) == (problem, flag)


@pytest.mark.parametrize(
    ("destination", "refused"),
    [("envoy://shared/explain-front/", True), ("envoy://shared/reset-front/", True), ("envoy://shared/plain/x", False)],
)
def test_connections_that_lead_to_nobody(destination: str, refused: bool) -> None:
    assert Line("E", "outbound", "u", destination=destination).refused == refused


def test_the_number_of_series_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics_module, "MAX_SERIES", 5)
    counted = Metrics()
    for number in range(50):
        counted.opened((str(number), *LABELS[1:])).connections += 1
    opened = [text for text in counted.render().splitlines() if text.startswith("istio_tcp_connections_opened_total{")]
    assert len(opened) == 6
    assert any('reporter="unknown"' in text and text.endswith(" 45.0") for text in opened)


def test_what_is_known_of_a_connection_follows_the_mesh() -> None:
    configurator = Configurator(Here(), 1)
    monitor = TrafficMonitor(configurator, "", lambda _: None, lambda _: None)
    opened = b'{"type":"TcpUpstreamConnected","kind":"plaintext","pod":"u","src.addr":"10.0.0.1:%d","app_local":"%d"}'
    monitor.lines([opened % (1, 1), opened % (2, 2)])
    record = workload_pb2.Workload(uid="w", name="w", namespace="n", addresses=[HERE.packed])
    configurator.apply_addresses({"w": workload_pb2.Address(workload=record).SerializeToString()}, [])
    monitor.lines([opened % (3, 3)])
    first, second, third = monitor.connections.of("u")
    assert first.flow is second.flow
    assert first.flow.who.source is None
    assert third.flow.who.source is not None
    counted = [text for text in monitor.metrics.render().splitlines() if "connections_opened_total{" in text]
    assert sorted(text.rpartition(" ")[2] for text in counted) == ["1.0", "2.0"]


def test_a_connection_that_was_refused_is_counted_as_opened_closed_and_failed() -> None:
    monitor = TrafficMonitor(Configurator(Here(), 1), "", lambda _: None, lambda _: None)
    monitor.lines([b'{"type":"TcpConnectionEnd","kind":"outbound","pod":"u","response_flags":"UF","bytes_recv":3}'])
    text = monitor.metrics.render()
    for name, value in (
        ("connections_opened", 1),
        ("connections_closed", 1),
        ("connections_failed", 1),
        ("received_bytes", 3),
    ):
        (line,) = [one for one in text.splitlines() if one.startswith(f"istio_tcp_{name}_total{{")]
        assert line.endswith(f" {value}.0")
        assert ('response_flags="CONNECT"' in line) == (name != "connections_opened")


def test_open_connections_are_gauged_until_they_end_or_the_proxy_does() -> None:
    monitor = TrafficMonitor(Configurator(Here(), 1), "", lambda _: None, lambda _: None)
    line = b'{"type":"%s","kind":"plaintext","pod":"u","src.addr":"10.0.0.1:%d","app_local":"%d"}'

    def gauged() -> str:
        (found,) = [t for t in monitor.metrics.render().splitlines() if t.startswith("istio_tcp_sockets_open{")]
        return found.rpartition(" ")[2]

    monitor.lines([line % (b"TcpUpstreamConnected", port, port) for port in (1, 2, 3)])
    assert gauged() == "3.0"
    monitor.lines([line % (b"TcpConnectionEnd", 1, 1)])
    assert gauged() == "2.0"
    monitor.envoy_gone()
    assert gauged() == "0.0"


def test_the_log_and_the_metrics_say_where_the_ends_are() -> None:
    out: list[bytes] = []
    configurator = Configurator(Here(), 1)
    monitor = TrafficMonitor(configurator, "", lambda _: None, out.append)
    record = workload_pb2.Workload(uid="w", name="w", namespace="n", addresses=[HERE.packed], cluster_id="Kubernetes")
    record.locality.region, record.locality.zone = "north", "north-1"
    configurator.apply_addresses({"w": workload_pb2.Address(workload=record).SerializeToString()}, [])
    monitor.lines([b'{"type":"TcpConnectionEnd","kind":"plaintext","pod":"u","src.addr":"10.0.0.1:5"}'])
    assert msgspec.json.decode(b"".join(out))["src.cluster"] == "Kubernetes"
    text = monitor.metrics.render()
    for label in ('source_region="north"', 'source_zone="north-1"', 'destination_zone="unknown"'):
        assert label in text


def test_lines_that_cannot_be_read_stop_nothing() -> None:
    out: list[bytes] = []
    monitor = TrafficMonitor(Configurator(Here(), 1), "", lambda _: None, out.append)
    ended = b'{"type":"TcpConnectionEnd","kind":"plaintext","pod":"u","src.addr":"1.2.3.4:5","bytes_recv":7}'
    monitor.lines([b"", b"not JSON", b'{"type":1}', b'{"type":"\xff"}', ended])
    (line,) = b"".join(out).splitlines()
    assert msgspec.json.decode(line)["bytes_recv"] == 7
    assert len(monitor.connections) == 0


def test_no_authority_that_a_peer_makes_up_stops_the_reading_of_lines() -> None:
    """A port of very many digits is more than Python makes a number of."""
    out: list[bytes] = []
    monitor = TrafficMonitor(Configurator(Here(), 1), "", lambda _: None, out.append)
    refused = (
        b'{"type":"DownstreamEnd","kind":"hbone","pod":"u","dst.hbone_addr":"x:%s","error":"authority is not this pod"}'
    )
    monitor.lines([refused % (b"9" * 5000)])
    assert msgspec.json.decode(b"".join(out))["error"] == "authority is not this pod"


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_a_connection_that_cannot_be_closed_keeps_no_other_open(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def refused_once(_: object, ends: Ends) -> bool:
        tried.append(ends)
        if len(tried) == 1:
            raise CannotCloseError("not in this state")
        return True

    monkeypatch.setattr(sockets, "_destroy", refused_once)
    both = [Ends(("10.0.0.1", port), ("10.0.0.2", 80)) for port in (1, 2)]
    namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        with pytest.raises(CannotCloseError):
            destroy(namespace, both)
    finally:
        os.close(namespace)
    assert tried == both


@pytest.mark.skipif(os.geteuid() != 0, reason="closing connections needs CAP_NET_ADMIN")
def test_a_listener_is_never_closed_for_a_connection_that_has_gone() -> None:
    namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
    with socket.create_server(("127.0.0.1", 0)) as server:
        where = server.getsockname()
        with socket.create_connection(where) as client:
            accepted, _ = server.accept()
            with accepted:
                ends = Ends(where, client.getsockname())
                assert destroy(namespace, [ends]) == 1
                with pytest.raises(ConnectionResetError):
                    client.recv(1)
                with pytest.raises(ConnectionAbortedError):
                    accepted.recv(1)
        assert destroy(namespace, [ends]) == 0
        with socket.create_connection(where):
            server.accept()[0].close()
    os.close(namespace)


@pytest.mark.parametrize(
    ("line", "actual"),
    [
        (Line("E", "hbone", "u", asked_for="10.0.0.5:80", app_remote="10.0.0.5:80"), "10.0.0.5:80"),
        (Line("E", "hbone", "u", asked_for="web.shop.svc:80", app_remote="10.0.0.5:8080"), "10.0.0.5:8080"),
        (Line("E", "hbone", "u", asked_for="web.shop.svc:80"), "web.shop.svc:80"),
        (Line("E", "plaintext", "u", destination="10.0.0.5:80", app_remote="127.0.0.1:15004"), "10.0.0.5:80"),
    ],
)
def test_where_an_inbound_connection_leads(line: Line, actual: str) -> None:
    assert line.actual == actual


@pytest.mark.parametrize(
    ("more", "flag"),
    [
        ({}, "-"),
        ({"response_flags": "UF,URX", "failure": "delayed_connect_error:_Connection_refused"}, "CONNECT"),
        ({"response_flags": "UF,URX", "failure": "TLS_error:|...:_certificate_revoked:TLS_error_end"}, "CERT_REVOKED"),
        ({"response_flags": "UF,URX", "failure": "TLS_error:|...:SAN matcher:TLS_error_end"}, "TLS_FAILURE"),
        ({"response_flags": "UF,URX", "duration": "627ms"}, "H2_HANDSHAKE_FAILURE"),
        ({"response_flags": "UF,URX", "duration": "30256ms"}, "NETWORK_POLICY"),
        ({"response_flags": "UF,URX", "duration": "30256ms", "destination": "envoy://shared/plain/"}, "CONNECT"),
        ({"response_flags": "UF,URX", "error": "service a/b has no endpoint"}, "CONNECT"),
    ],
)
def test_why_an_outbound_connection_failed(more: dict[str, str], flag: str) -> None:
    text = {"asked_for": "10.0.0.2:80", "destination": "10.0.0.2:15008", "type": "TcpConnectionEnd", **more}
    assert Line(kind="outbound", pod="uid", **text).failure_flag == flag


def test_a_client_without_certificate_failed_for_that() -> None:
    written: list[bytes] = []
    monitor = TrafficMonitor(Configurator(Here(), 1), "", lambda _: None, written.append, certified=lambda _: False)
    fields = {
        "type": "TcpConnectionEnd",
        "kind": "outbound",
        "pod": "uid",
        "response_flags": "UF,URX",
        "duration": "30256ms",
        "src.identity": A,
        "dst.addr": "10.0.0.2:15008",
        "dst.hbone_addr": "10.0.0.1:80,10.0.0.2:80",
    }
    monitor.lines([msgspec.json.encode(fields)])
    (line,) = written
    told = msgspec.json.decode(line)
    assert told["error"].startswith(f"connection failed: there is no certificate for {A}; ")
    assert told["dst.hbone_addr"] == "10.0.0.2:80", "the endpoint that was tried last"
    assert 'response_flags="IDENTITY_ERROR"' in monitor.metrics.render()


async def test_tunnels_of_the_revoked_and_idle_ones_are_closed() -> None:
    table, closed = OpenConnections(), []
    for number, serials in ((1, {7, 1}), (2, {8, 1}), (3, {9, 1})):
        flow = dataclasses.replace(FLOWS[A], serials=frozenset(serials))
        table.add(Connection(("uid", f"k{number}", ""), "s", flow, ("10.0.0.2:15008", f"10.0.0.1:{number}")))
    ends = [Ends(("10.0.0.2", 15008), ("10.0.0.1", number)) for number in range(1, 5)]
    watch = RevocationWatch(table, lambda: ["uid"], lambda _: ends, lambda _, found: closed.extend(found))
    watch.revoke(frozenset({7}))
    await asyncio.sleep(SETTLE_SECONDS + 0.1)
    assert [one.remote[1] for one in closed] == [1, 4]
    watch.revoke(frozenset())
    watch.stop()
    assert len(closed) == 2


async def test_of_tunnels_that_could_not_be_closed_it_is_not_said_that_they_were() -> None:
    table = OpenConnections()
    flow = dataclasses.replace(FLOWS[A], serials=frozenset({7}))
    table.add(Connection(("uid", "k", ""), "s", flow, ("10.0.0.2:15008", "10.0.0.1:1")))

    def close(_: str, found: Sequence[Ends]) -> None:
        raise OSError("too many open files")

    watch = RevocationWatch(table, lambda: ["uid"], lambda _: [Ends(("10.0.0.2", 15008), ("10.0.0.1", 1))], close)
    watch.revoke(frozenset({7}))
    await asyncio.sleep(SETTLE_SECONDS + 0.1)
    assert len(table.inbound("uid")) == 1, "a change of policy may close it"
    watch.stop()
