"""Policies as conditions, and the same policies as Envoy matchers: both must say the same of every peer."""

from __future__ import annotations

import dataclasses
import fnmatch
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tulle.xds.proto import authorization_pb2
from tulle.ztunnel.config import names
from tulle.ztunnel.config.access import ALLOW_CHAIN, DENY_CHAIN, Access, Named, plaintext_matcher, route_table
from tulle.ztunnel.policy.convert import Scope, UnreadableError, policy_from
from tulle.ztunnel.policy.decide import NONE_ALLOWED, Effective, decide, effective
from tulle.ztunnel.policy.terms import Constant, Peer, holds, specialise
from tulle.ztunnel.state.model import AppTunnel

from .matcher import choose
from .strategies import POD, authorizations, identities, identity, peers, rules, strings

PEER = Peer(identity("a", "default"), ip_address("10.0.0.1"), POD, 80)


def _effective(messages: list[Any], attached: tuple[str, ...] | None = None) -> Effective:
    by_key = {policy.key: policy for policy in map(policy_from, messages)}
    return effective("a", tuple(by_key) if attached is None else attached, by_key, [])


def _headers(peer: Peer, **more: str) -> dict[str, str]:
    return {
        ":method": "CONNECT",
        ":authority": names.authority(peer.destination, peer.port),
        names.PRINCIPAL_HEADER: peer.identity or "",
        names.SOURCE_HEADER: str(peer.source),
        **more,
    }


def _table(access: Access) -> Any:
    return route_table("t", access).virtual_hosts[0].matcher


@settings(max_examples=150, deadline=None)
@given(st.lists(authorizations, max_size=4), peers)
def test_route_table_decides_like_the_policies(messages: list[Any], peer: Peer) -> None:
    policies = _effective(messages)
    verdict = decide(policies, peer)
    route = choose(_table(Access((POD,), policies)), _headers(peer))
    if verdict.allowed:
        assert route.route.cluster == names.APP_BY_AUTHORITY
    else:
        assert route.direct_response.status == 401
        assert route.name.endswith(verdict.reason)


@settings(max_examples=150, deadline=None)
@given(st.lists(authorizations, max_size=4), peers)
def test_plaintext_chain_decides_like_the_policies(messages: list[Any], peer: Peer) -> None:
    plain = dataclasses.replace(peer, identity=None)
    policies = _effective(messages)
    facts = {
        "DestinationPortInput": str(plain.port),
        "DestinationIPInput": str(plain.destination),
        "SourceIPInput": str(plain.source),
    }
    chain = choose(plaintext_matcher(Access((POD,), policies)), facts)
    assert chain == (ALLOW_CHAIN if decide(policies, plain).allowed else DENY_CHAIN)


@settings(deadline=None)
@given(rules, peers, st.booleans(), st.booleans(), st.booleans())
def test_specialising_changes_nothing(rule: Any, peer: Peer, plaintext: bool, destination: bool, port: bool) -> None:
    peer = dataclasses.replace(peer, identity=None) if plaintext else peer
    term = policy_from(authorization_pb2.Authorization(name="p", namespace="a", rules=[rule])).condition
    known: dict[str, Any] = {"destination": POD if destination else None, "port": peer.port if port else None}
    special = specialise(term, **known, plaintext=plaintext)
    assert holds(special, peer) == holds(term, peer)
    assert "Constant" not in repr(special) or isinstance(special, Constant)


@given(strings("cluster.local/ns/a/sa/default", "default", "cluster.local/ns/a", "x.y"), identities)
def test_principal_forms(match: Any, who: str) -> None:
    """Against an independent reading: wildcards over the identity without its scheme (spec C3)."""
    kind = match.WhichOneof("match_type")
    text = getattr(match, kind) if kind != "presence" else ""
    pattern = {"exact": text, "prefix": text + "*", "suffix": "*" + text, "presence": "?*"}[kind]
    message = authorization_pb2.Match(principals=[match])
    peer = dataclasses.replace(PEER, identity=who)
    expected = fnmatch.fnmatchcase(who.removeprefix("spiffe://"), pattern)
    assert _matches(message, peer) == expected


def _matches(match: Any, peer: Peer) -> bool:
    rule = authorization_pb2.Rule(clauses=[authorization_pb2.Clause(matches=[match])])
    policy = policy_from(authorization_pb2.Authorization(name="p", namespace="a", rules=[rule]))
    return holds(policy.condition, peer)


def _allow(*found: Any, action: int = 0) -> Any:
    return authorization_pb2.Authorization(name="p", namespace="a", scope=2, action=action, rules=found)


RULE, CLAUSE, MATCH = authorization_pb2.Rule, authorization_pb2.Clause, authorization_pb2.Match


@pytest.mark.parametrize(
    ("message", "allowed"),
    [
        (_allow(), False),
        (_allow(RULE()), True),
        (_allow(RULE(clauses=[CLAUSE()])), True),
        (_allow(RULE(clauses=[CLAUSE(matches=[MATCH()])])), False),
        (_allow(action=1), True),
        (_allow(RULE(), action=1), False),
        (_allow(RULE(clauses=[CLAUSE(matches=[MATCH()])]), action=1), True),
    ],
)
def test_what_empty_means(message: Any, allowed: bool) -> None:
    assert decide(_effective([message]), PEER).allowed is allowed


def test_suffix_of_the_scheme_is_not_part_of_a_principal() -> None:
    match = MATCH(principals=[authorization_pb2.StringMatch(suffix="e://cluster.local/ns/a/sa/default")])
    assert not _matches(match, PEER)


def test_dots_are_dots() -> None:
    account = authorization_pb2.ServiceAccountMatch(namespace="a", serviceAccount="x.y")
    assert _matches(MATCH(service_accounts=[account]), dataclasses.replace(PEER, identity=identity("a", "x.y")))
    assert not _matches(MATCH(service_accounts=[account]), dataclasses.replace(PEER, identity=identity("a", "xzy")))


def test_plaintext_has_no_identity_to_match_nor_to_exclude() -> None:
    plain = dataclasses.replace(PEER, identity=None)
    anybody = authorization_pb2.StringMatch()
    anybody.presence.SetInParent()
    assert not _matches(MATCH(namespaces=[anybody]), plain)
    assert _matches(MATCH(not_namespaces=[anybody]), plain)
    assert _matches(MATCH(not_principals=[anybody]), plain)


@pytest.mark.parametrize(("action", "allowed"), [(0, False), (1, False)])
def test_unreadable_addresses_make_a_policy_stricter(action: int, allowed: bool) -> None:
    match = MATCH(source_ips=[authorization_pb2.Address(address=b"abc", length=8)])
    message = _allow(RULE(clauses=[CLAUSE(matches=[match])]), action=action)
    assert decide(_effective([message]), PEER).allowed is allowed


def test_unknown_names_keep_out_and_are_named() -> None:
    verdict = decide(_effective([], ("a/late",)), PEER)
    assert (verdict.allowed, verdict.policy) == (False, "a/late")
    route = choose(_table(Access((POD,), _effective([], ("a/late",)))), _headers(PEER))
    assert "a/late" in route.name


def test_deny_comes_first_and_names_itself() -> None:
    deny = authorization_pb2.Authorization(name="no", namespace="a", scope=2, action=1, rules=[RULE()])
    verdict = decide(_effective([_allow(RULE()), deny]), PEER)
    assert verdict.reason == "explicitly denied by: a/no"
    assert decide(_effective([_allow()]), PEER).reason == NONE_ALLOWED


def test_scopes() -> None:
    def policy(namespace: str, scope: int) -> Any:
        return policy_from(authorization_pb2.Authorization(name="p", namespace=namespace, scope=scope, action=1))

    scoped = [policy("root", 0), policy("a", 1), policy("b", 1)]
    assert [found.scope for found in scoped] == [Scope.GLOBAL, Scope.NAMESPACE, Scope.NAMESPACE]
    assert [found.key for found in effective("a", (), {}, scoped).deny] == ["a/p", "root/p"]


@pytest.mark.parametrize("field", ["action", "scope"])
def test_values_of_the_future_are_refused(field: str) -> None:
    message = authorization_pb2.Authorization(name="p", namespace="a", **{field: 7})
    with pytest.raises(UnreadableError, match=f"Authorization/a/p: {field} 7"):
        policy_from(message)


# -- the rest of the route table --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({}, 0),
        ({":method": "GET"}, 400),
        ({":protocol": "websocket"}, 400),
        ({":authority": "10.244.1.6:80"}, 400),
        ({":authority": "10.244.1.5"}, 400),
        ({":authority": "10.244.1.5:080"}, 400),
        ({":authority": "10.244.1.5:0"}, 400),
        ({":authority": "10.244.1.5:80,10.244.1.5:80"}, 400),
        ({":authority": "10x244.1.5:80"}, 400),
        ({":authority": "10.244.1.5:15008"}, 503),
        ({":authority": "10.244.1.5:15001"}, 503),
        ({":authority": "10.244.1.5:150010"}, 400),
        ({":authority": "10.244.1.5:99999"}, 400),
        ({":authority": "10.244.1.5:65536"}, 400),
        ({":authority": "a.b.svc:80"}, 503),
        ({":authority": "a.b.svc"}, 400),
        ({":authority": "a.b.svc:99999"}, 400),
    ],
)
def test_requests_that_are_no_tunnel_to_this_pod(more: dict[str, str], status: int) -> None:
    route = choose(_table(Access((POD,), _effective([]))), _headers(PEER, **more))
    assert route.direct_response.status == status


@settings(max_examples=80, deadline=None)
@given(st.lists(authorizations, max_size=3), peers)
def test_a_request_by_name_is_judged_by_the_port_behind_it(messages: list[Any], peer: Peer) -> None:
    policies = _effective(messages)
    asked = Named("web.a.svc.cluster.local", 8888, peer.port), Named("other.a.svc.cluster.local", 9, 10)
    table = _table(Access((POD,), policies, named=asked))
    verdict = decide(policies, peer)
    route = choose(table, _headers(peer, **{":authority": "web.a.svc.cluster.local:8888"}))
    if verdict.allowed:
        assert route.route.cluster == names.APP_BY_AUTHORITY
        assert f"{POD}:{peer.port}".encode() in route.SerializeToString()
    else:
        assert route.direct_response.status == 401
        assert route.name.endswith(verdict.reason)


@pytest.mark.parametrize("wanted", ["web.a.svc:81", "other.a.svc:80", "webxa.svc:80", "proxy.a.svc:80"])
def test_names_and_ports_that_are_not_this_pods(wanted: str) -> None:
    asked = Named("web.a.svc", 80, 8080), Named("proxy.a.svc", 80, 15006)
    table = _table(Access((POD,), _effective([]), named=asked))
    assert choose(table, _headers(PEER, **{":authority": wanted})).direct_response.status == 503


def test_refusals_of_requests_by_name_are_explained_by_the_port_behind_it() -> None:
    asked = Named("web.a.svc", 80, 8080), Named("web.a.svc", 8080, 81)
    table = _table(Access((POD,), _effective([_allow()]), explain_ports=(8080,), named=asked))
    capable = {names.REFUSAL_HEADER: names.REFUSAL_IN_TUNNEL}
    assert choose(table, _headers(PEER, **capable, **{":authority": "web.a.svc:80"})).route.cluster == names.EXPLAIN
    assert choose(table, _headers(PEER, **capable, **{":authority": "web.a.svc:8080"})).route.cluster == names.RESET


def test_ipv6_authority() -> None:
    pod = ip_address("fd00::5")
    peer = dataclasses.replace(PEER, destination=pod)
    table = _table(Access((POD, pod), _effective([])))
    assert choose(table, _headers(peer)).route.cluster == names.APP_BY_AUTHORITY
    assert choose(table, _headers(peer, **{":authority": "fd00::5:80"})).direct_response.status == 400


def test_an_app_of_all_tunnels_takes_any_address_and_is_judged_by_its_own_port() -> None:
    only_80 = _allow(RULE(clauses=[CLAUSE(matches=[MATCH(destination_ports=[80])])]))
    foreign = {":authority": "10.96.0.7:443"}
    for port, cluster in ((80, names.APP_TUNNEL), (81, "")):
        access = Access((POD,), _effective([only_80]), tunnel=AppTunnel(True, port))
        assert choose(_table(access), _headers(PEER, **foreign)).route.cluster == cluster
    plain = Access((POD,), _effective([]), tunnel=AppTunnel(False, 80))
    assert choose(_table(plain), _headers(PEER, **foreign)).route.cluster == names.ORIGINAL_DESTINATION
    assert choose(_table(plain), _headers(PEER, **{":authority": "cart.shop:443"})).direct_response.status == 503


@pytest.mark.parametrize(("port", "authority"), [(15008, "10.96.0.7:443"), (0, "10.96.0.7:15001")])
def test_no_tunnel_ends_at_the_proxys_own_ports(port: int, authority: str) -> None:
    access = Access((POD,), _effective([]), tunnel=AppTunnel(True, port))
    route = choose(_table(access), _headers(PEER, **{":authority": authority}))
    assert route.direct_response.status == 503


def test_refusals_by_what_the_peer_can_take() -> None:
    access = Access((POD,), _effective([_allow()]), explain_ports=(8080,))
    table = _table(access)
    capable = {names.REFUSAL_HEADER: names.REFUSAL_IN_TUNNEL}
    assert choose(table, _headers(PEER)).direct_response.status == 401
    assert choose(table, _headers(PEER, **capable)).route.cluster == names.RESET
    explained = dataclasses.replace(PEER, port=8080)
    assert choose(table, _headers(explained, **capable)).route.cluster == names.EXPLAIN
    assert choose(table, _headers(explained)).direct_response.status == 401


def test_without_a_record_nothing_is_let_in() -> None:
    access = Access((), _effective([]), known=False)
    assert choose(_table(access), _headers(PEER)).direct_response.status == 503
    facts = {"DestinationPortInput": "80", "DestinationIPInput": str(POD), "SourceIPInput": "10.0.0.1"}
    assert choose(plaintext_matcher(access), facts) == DENY_CHAIN


@pytest.mark.parametrize("port", ["15001", "15006", "15008"])
def test_own_ports_are_refused_in_plaintext(port: str) -> None:
    facts = {"DestinationPortInput": port, "DestinationIPInput": str(POD), "SourceIPInput": "10.0.0.1"}
    assert choose(plaintext_matcher(Access((POD,), _effective([]))), facts) == DENY_CHAIN
