"""Conversion for ztunnel: the exact shapes, what was dropped, and that the wire type takes them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given

from tulle.security.match import StringForm, StringMatch
from tulle.security.model import Action, AuthorizationPolicy, PeerAuthentication
from tulle.security.peer_authentication import PeerAuthentications
from tulle.security.reduction import Effect, Place
from tulle.security.ztunnel import (
    Address,
    Clause,
    Match,
    Scope,
    ServiceAccountMatch,
    ZtunnelPolicy,
    ZtunnelRule,
    convert,
)
from tulle.security.ztunnel_eval import Connection, evaluate
from tulle.xds.proto import authorization_pb2 as wire

from . import strategies, world

ROOT = "istio-system"


def converted(spec: dict[str, Any], place: Place = Place.ZTUNNEL, namespace: str = "hello") -> ZtunnelPolicy:
    policy = convert(world.policy(spec, namespace=namespace), ROOT, place).policy
    assert policy is not None
    return policy


def to_wire(policy: ZtunnelPolicy) -> wire.Authorization:
    """A plain walk over the fields, since the types mirror the message."""
    message = wire.Authorization(
        name=policy.name,
        namespace=policy.namespace,
        scope=policy.scope.value,
        action=policy.action.value,
        dry_run=policy.dry_run,
    )
    for rule in policy.rules:
        wire_rule = message.rules.add()
        for clause in rule.clauses:
            wire_clause = wire_rule.clauses.add()
            for match in clause.matches:
                wire_match = wire_clause.matches.add()
                for field in fields(match):
                    getattr(wire_match, field.name).extend(_value(value) for value in getattr(match, field.name))
    return message


def _value(value: Any) -> Any:
    match value:
        case StringMatch(StringForm.PRESENCE, _):
            return wire.StringMatch(presence={})
        case StringMatch(form, text):
            return wire.StringMatch(**{form.value: text})
        case Address(address, length):
            return wire.Address(address=address, length=length)
        case ServiceAccountMatch(namespace, account):
            return wire.ServiceAccountMatch(namespace=namespace, serviceAccount=account)
    return value


@given(strategies.policies())
def test_the_wire_type_takes_every_conversion(found: list[AuthorizationPolicy]) -> None:
    for policy in found:
        if (sent := convert(policy, ROOT).policy) is not None:
            message = to_wire(sent)
            assert wire.Authorization.FromString(message.SerializeToString()) == message


@given(strategies.peer_authentications)
def test_the_wire_type_takes_every_peer_authentication(modes: list[PeerAuthentication]) -> None:
    sent = PeerAuthentications(ROOT, modes).ztunnel_policies()
    assert bool(modes) == (f"{ROOT}/istio_converted_static_strict" in sent)
    for key, policy in sent.items():
        assert policy.action is Action.DENY
        assert policy.scope is Scope.WORKLOAD_SELECTOR
        assert to_wire(policy).SerializeToString()
        assert key == policy.key


def test_every_layer_4_field() -> None:
    spec = {
        "rules": [
            {
                "from": [
                    {
                        "source": {
                            "principals": ["a/*"],
                            "notPrincipals": ["*b"],
                            "namespaces": ["*"],
                            "ipBlocks": ["10.1.2.3/8"],
                        }
                    },
                    {"source": {"serviceAccounts": ["s", "n/s"], "notIpBlocks": ["::1"]}},
                ],
                "to": [{"operation": {"ports": ["80"], "notPorts": ["81"]}}],
                "when": [{"key": "destination.ip", "values": ["10.0.0.1"], "notValues": ["10.0.0.2"]}],
            }
        ]
    }
    assert converted(spec).rules == (
        ZtunnelRule(
            (
                Clause(
                    (
                        Match(
                            principals=(StringMatch(StringForm.PREFIX, "a/"),),
                            not_principals=(StringMatch(StringForm.SUFFIX, "b"),),
                            namespaces=(StringMatch(StringForm.PRESENCE),),
                            source_ips=(Address(bytes([10, 0, 0, 0]), 8),),
                        ),
                        Match(
                            service_accounts=(ServiceAccountMatch("hello", "s"), ServiceAccountMatch("n", "s")),
                            not_source_ips=(Address(bytes(15) + b"\x01", 128),),
                        ),
                    )
                ),
                Clause((Match(destination_ports=(80,), not_destination_ports=(81,)),)),
                Clause(
                    (
                        Match(
                            destination_ips=(Address(bytes([10, 0, 0, 1]), 32),),
                            not_destination_ips=(Address(bytes([10, 0, 0, 2]), 32),),
                        ),
                    )
                ),
            )
        ),
    )


DENY_GET_FROM_X = {
    "action": "DENY",
    "rules": [{"from": [{"source": {"namespaces": ["x"]}}], "to": [{"operation": {"methods": ["GET"]}}]}],
}
FROM_X = Clause((Match(namespaces=(StringMatch(StringForm.EXACT, "x"),)),))


def test_a_deny_keeps_its_clauses_with_an_empty_match() -> None:
    assert converted(DENY_GET_FROM_X).rules == (ZtunnelRule((FROM_X, Clause((Match(),)))),)


def test_a_closed_deny_loses_the_clause() -> None:
    assert converted(DENY_GET_FROM_X, Place.ZTUNNEL_CLOSED).rules == (ZtunnelRule((FROM_X,)),)


def test_an_allow_with_http_fields_keeps_no_rule() -> None:
    assert converted({**DENY_GET_FROM_X, "action": "ALLOW"}).rules == ()


def test_an_empty_rule_has_no_clause() -> None:
    assert converted({"rules": [{}]}).rules == (ZtunnelRule(),)


def test_what_is_dropped_is_recorded() -> None:
    spec = {
        "action": "DENY",
        "rules": [
            {
                "to": [{"operation": {"methods": ["GET"], "ports": ["80"]}}],
                "when": [{"key": "request.headers[a]", "values": ["b"]}],
            }
        ],
    }
    for place, last in ((Place.ZTUNNEL, Effect.NO_EFFECT), (Place.ZTUNNEL_CLOSED, Effect.MATCHES_ANY)):
        dropped = convert(world.policy(spec), ROOT, place).dropped
        assert [(item.path, item.field, item.effect) for item in dropped] == [
            ("spec.rules[0].to[0].operation.methods", "methods", Effect.WIDENED),
            ("spec.rules[0].when[0].values", "request.headers[a]", last),
        ]
    dropped = convert(world.policy({**spec, "action": "ALLOW"}), ROOT).dropped
    assert {item.effect for item in dropped} == {Effect.RULE_OMITTED}


def test_a_dropped_condition_does_not_move_its_neighbours() -> None:
    conditions = [{"key": "request.headers[a]", "values": ["b"]}, {"key": "source.namespace", "values": ["x"]}]
    policies = [world.policy({"action": "DENY", "rules": [{"when": conditions}]})]
    from tulle.security.reduction import reduce_policy
    from tulle.security.terms import groups

    for place in Place:
        reduced = reduce_policy(policies[0], place).policy
        assert reduced is not None
        assert groups(reduced.rules[0])[-1].entries[0].path == "spec.rules[0].when[1]"


@pytest.mark.parametrize(
    ("spec", "namespace", "scope"),
    [
        ({}, "hello", Scope.NAMESPACE),
        ({}, ROOT, Scope.GLOBAL),
        ({"selector": {"matchLabels": {"a": "b"}}}, "hello", Scope.WORKLOAD_SELECTOR),
        ({"selector": {"matchLabels": {"a": "b"}}}, ROOT, Scope.WORKLOAD_SELECTOR),
        ({"selector": {}}, "hello", Scope.WORKLOAD_SELECTOR),
    ],
)
def test_scope(spec: dict[str, Any], namespace: str, scope: Scope) -> None:
    assert converted(spec, namespace=namespace).scope is scope


@pytest.mark.parametrize(
    "spec",
    [
        {"targetRefs": [{"kind": "Service", "name": "s"}], "rules": [{}]},
        {"action": "AUDIT", "rules": [{}]},
        {"action": "CUSTOM", "provider": {"name": "p"}, "rules": [{}]},
    ],
)
def test_what_is_not_sent(spec: dict[str, Any]) -> None:
    assert convert(world.policy(spec), ROOT).policy is None


NO_IDENTITY = Connection(None, "10.0.0.1", "10.0.0.2", 80)


@pytest.mark.parametrize(
    ("rules", "matches"),
    [
        ((), False),
        ((ZtunnelRule(),), True),
        ((ZtunnelRule((Clause(),)),), True),
        ((ZtunnelRule((Clause((Match(),)),)),), False),
        ((ZtunnelRule((Clause((Match(), Match(destination_ports=(80,)))),)),), True),
        ((ZtunnelRule((Clause(), Clause((Match(),)))),), False),
        ((ZtunnelRule((Clause((Match(),)),)), ZtunnelRule()), True),
    ],
)
def test_empty_parts(rules: tuple[ZtunnelRule, ...], matches: bool) -> None:
    allow = ZtunnelPolicy("p", "hello", Scope.NAMESPACE, Action.ALLOW, rules)
    deny = ZtunnelPolicy("p", "hello", Scope.NAMESPACE, Action.DENY, rules)
    assert evaluate([allow], NO_IDENTITY).allowed is matches
    assert evaluate([deny], NO_IDENTITY).allowed is not matches


def test_the_words_of_a_verdict() -> None:
    deny = ZtunnelPolicy("d", "hello", Scope.NAMESPACE, Action.DENY, (ZtunnelRule(),))
    nothing = ZtunnelPolicy("n", "hello", Scope.NAMESPACE, Action.ALLOW)
    assert evaluate([nothing, deny], NO_IDENTITY).reason == "explicitly denied by: hello/d"
    assert evaluate([nothing], NO_IDENTITY).reason == "allow policies exist, but none allowed"
    assert evaluate([], NO_IDENTITY).allowed


def test_strict_with_exceptions_is_one_rule() -> None:
    pa = world.peer_authentication(
        {
            "selector": {"matchLabels": {"app": "helloworld"}},
            "mtls": {"mode": "STRICT"},
            "portLevelMtls": {"90": {"mode": "PERMISSIVE"}, "91": {"mode": "DISABLE"}, "92": {"mode": "STRICT"}},
        },
        "pa",
    )
    modes = PeerAuthentications(ROOT, [pa])
    no_principal = Clause((Match(not_principals=(StringMatch(StringForm.PRESENCE),)),))
    assert modes.ztunnel_policies()["hello/converted_peer_authentication_pa"].rules == (
        ZtunnelRule(
            (
                no_principal,
                Clause((Match(not_destination_ports=(90,)),)),
                Clause((Match(not_destination_ports=(91,)),)),
            )
        ),
    )
    assert modes.names_for(world.workload()) == ("hello/converted_peer_authentication_pa",)
