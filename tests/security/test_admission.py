"""What is refused at the door, one row per rule of C1 and B1: the spec, the field named, and what the message says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.security.admission import validate
from tulle.security.mesh import MeshSettings
from tulle.security.model import Action
from tulle.security.parse import (
    InvalidObject,
    parse_authorization_policy,
    parse_peer_authentication,
    parse_request_authentication,
    policy_or_closed,
)
from tulle.security.policies import PolicySet

from . import strategies, world

SERVICE = [{"kind": "Service", "group": "", "name": "s"}]


def rule(**parts: Any) -> dict[str, Any]:
    return {"rules": [parts]}


def source(**fields: Any) -> dict[str, Any]:
    return rule(**{"from": [{"source": fields}]})


def operation(**fields: Any) -> dict[str, Any]:
    return rule(to=[{"operation": fields}])


def when(key: str, *values: str, **rest: Any) -> dict[str, Any]:
    return rule(when=[{"key": key, "values": list(values), **rest}])


FROM, TO, WHEN = "spec.rules[0].from[0].source", "spec.rules[0].to[0].operation", "spec.rules[0].when[0]"
CUSTOM = {"action": "CUSTOM", "provider": {"name": "p"}}
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"selector": {"matchLabels": {"a": "b"}}, "targetRefs": SERVICE}, "spec", "at most one"),
    ({"targetRef": SERVICE[0], "targetRefs": SERVICE}, "spec", "at most one"),
    ({"selector": {}, "targetRefs": SERVICE}, "spec", "at most one"),
    ({"targetRefs": SERVICE * 17}, "spec.targetRefs", "at most 16"),
    ({"targetRefs": [{**SERVICE[0], "namespace": "x"}]}, "spec.targetRefs[0].namespace", "must be empty"),
    ({"targetRefs": [{"kind": "Service"}]}, "spec.targetRefs[0].name", "Required value"),
    ({"targetRefs": [{"name": "s"}]}, "spec.targetRefs[0].kind", "Required value"),
    ({"targetRefs": [{"kind": "Pod", "name": "s"}]}, "spec.targetRefs[0]", "accepted are Service"),
    ({"targetRef": "x"}, "spec.targetRef", "must be an object"),
    ({"selector": {"matchLabels": {"a": "b*"}}}, "spec.selector.matchLabels[a]", "without '*'"),
    ({"selector": {"matchLabels": {"a*": "b"}}}, "spec.selector.matchLabels[a*]", "without '*'"),
    ({"selector": {"labels": {}}}, "spec.selector.labels", "unknown field"),
    ({"action": "allow"}, "spec.action", "ALLOW, DENY"),
    ({"action": "DENY"}, "spec.rules", "needs at least one rule"),
    ({"action": "DENY", "rules": []}, "spec.rules", "needs at least one rule"),
    ({**CUSTOM, "rules": []}, "spec.rules", "needs at least one rule"),
    ({"action": "CUSTOM", "rules": [{}]}, "spec.provider.name", "Required value"),
    ({"provider": {"name": "p"}, "rules": [{}]}, "spec.provider", "only be set with action CUSTOM"),
    ({"rules": [{}] * 513}, "spec.rules", "at most 512"),
    ({"rules": [{"from": [{"source": {"namespaces": ["a"]}}] * 513}]}, "spec.rules[0].from", "at most 512"),
    ({"rules": [None]}, "spec.rules[0]", "must be an object"),
    ({"rules": {}, "x": 1}, "spec.x", "unknown field"),
    (rule(**{"from": []}), "spec.rules[0].from", "must not be empty"),
    (rule(to=[]), "spec.rules[0].to", "must not be empty"),
    (rule(to=None), "spec.rules[0].to", "must not be empty"),
    (rule(form=[]), "spec.rules[0].form", "unknown field"),
    (rule(**{"from": [{}]}), FROM, "at least one field"),
    (source(), FROM, "at least one field"),
    (source(principals=[]), FROM, "at least one field"),
    (rule(to=[{"operation": None}]), TO, "at least one field"),
    (source(principal=["a"]), f"{FROM}.principal", "unknown field"),
    (operation(methods=["GET", ""]), f"{TO}.methods[1]", "must not be empty"),
    (operation(methods="GET"), f"{TO}.methods", "must be a list"),
    (operation(ports=[80]), f"{TO}.ports[0]", "must be a string"),
    (source(ipBlocks=["10.0.0.1", "10.0.0.0/33"]), f"{FROM}.ipBlocks[1]", "accepted is an IPv4 or IPv6 address"),
    (source(notRemoteIpBlocks=["x"]), f"{FROM}.notRemoteIpBlocks[0]", "CIDR"),
    (operation(ports=["0"]), f"{TO}.ports[0]", "1 to 65535"),
    (operation(notPorts=["http"]), f"{TO}.notPorts[0]", "1 to 65535"),
    (operation(paths=["/{*}x"]), f"{TO}.paths[0]", "whole segment"),
    (operation(notPaths=["/{**}/{*}"]), f"{TO}.notPaths[0]", "last operator"),
    (source(serviceAccounts=["a"], namespaces=["b"]), f"{FROM}.serviceAccounts", "combined with namespaces"),
    (source(serviceAccounts=["a"], notPrincipals=["b"]), f"{FROM}.serviceAccounts", "combined with notPrincipals"),
    (source(notServiceAccounts=["a"], principals=["b"]), f"{FROM}.notServiceAccounts", "combined with principals"),
    (source(serviceAccounts=["a*"]), f"{FROM}.serviceAccounts[0]", "wildcards"),
    (source(serviceAccounts=["a/b/c"]), f"{FROM}.serviceAccounts[0]", "<namespace>/<service account>"),
    (source(serviceAccounts=["/a"]), f"{FROM}.serviceAccounts[0]", "<namespace>/<service account>"),
    (source(serviceAccounts=["a" * 321]), f"{FROM}.serviceAccounts[0]", "320"),
    (source(serviceAccounts=["a"] * 17), f"{FROM}.serviceAccounts", "at most 16"),
    (source(serviceAccounts=5), f"{FROM}.serviceAccounts", "must be a list"),
    ({**source(trustDomains=["a/b"]), "targetRefs": SERVICE}, f"{FROM}.trustDomains[0]", "without '/'"),
    ({**source(trustDomains=["a*b"]), "targetRefs": SERVICE}, f"{FROM}.trustDomains[0]", "one '*'"),
    ({**source(notTrustDomains=["*a*"]), "targetRefs": SERVICE}, f"{FROM}.notTrustDomains[0]", "one '*'"),
    (source(trustDomains=["a"]), f"{FROM}.trustDomains", "ztunnel cannot enforce trust domains"),
    (source(principals=["a"], notTrustDomains=["a"]), f"{FROM}.notTrustDomains", "needs targetRefs"),
    (rule(when=[{"values": ["a"]}]), f"{WHEN}.key", "Required value"),
    (rule(when=[{"key": "source.ip"}]), f"{WHEN}.values", "at least one of values and notValues"),
    (rule(when=[None]), WHEN, "must be an object"),
    (when("source.ips", "10.0.0.1"), f"{WHEN}.key", "unknown key"),
    (when("request.headers", "a"), f"{WHEN}.key", "unknown key"),
    (when("request.headers[]", "a"), f"{WHEN}.key", "unknown key"),
    (when("request.headers[a\0b]", "a"), f"{WHEN}.key", "unknown key"),
    (when("request.headers[ä]", "a"), f"{WHEN}.key", "unknown key"),
    (when("request.auth.claims", "a"), f"{WHEN}.key", "unknown key"),
    (when("request.auth.claims[a]b", "a"), f"{WHEN}.key", "unknown key"),
    (when("experimental.envoy.filters.x", "a"), f"{WHEN}.key", "unknown key"),
    (when("source.ip", "a"), f"{WHEN}.values[0]", "accepted is an IPv4"),
    (when("remote.ip", "10.0.0.1", notValues=["b"]), f"{WHEN}.notValues[0]", "accepted is an IPv4"),
    (when("destination.port", "http"), f"{WHEN}.values[0]", "1 to 65535"),
    (when("source.serviceAccount", "*"), f"{WHEN}.values[0]", "wildcards"),
    (when("source.principal", ""), f"{WHEN}.values[0]", "must not be empty"),
    ({**CUSTOM, **source(principals=["a"])}, f"{FROM}.principals", "CUSTOM may not test"),
    ({**CUSTOM, **source(notNamespaces=["a"])}, f"{FROM}.notNamespaces", "CUSTOM may not test"),
    ({**CUSTOM, **source(serviceAccounts=["a"])}, f"{FROM}.serviceAccounts", "CUSTOM may not test"),
    ({**CUSTOM, **source(requestPrincipals=["a"])}, f"{FROM}.requestPrincipals", "CUSTOM may not test"),
    ({**CUSTOM, **when("source.namespace", "a")}, f"{WHEN}.key", "CUSTOM may not test"),
    ({**CUSTOM, **when("request.auth.claims[a]", "a")}, f"{WHEN}.key", "CUSTOM may not test"),
]
ACCEPTED: list[dict[str, Any]] = [
    {},
    {"rules": [{}]},
    {"action": "DENY", "rules": [{}]},
    {**CUSTOM, **operation(paths=["/x"])},
    {**CUSTOM, **source(ipBlocks=["10.0.0.0/8"])},
    {"selector": {}, "rules": [{}]},
    {"targetRefs": SERVICE * 16},
    {**source(trustDomains=["*.a"]), "targetRefs": SERVICE},
    source(serviceAccounts=["a", "b/c"], ipBlocks=["::1"]),
    operation(paths=["/{*}/a/{**}", "/{x}"]),
    when("source.trustDomain", "a"),
    when("experimental.envoy.filters.network.mysql_proxy[db.table]", "[update]"),
    when("request.auth.claims[a][b]", "c"),
    rule(when=[]),
]


def errors(kind: str, spec: Any, namespace: str = "hello") -> list[tuple[str, str]]:
    return [(e.path, str(e)) for e in validate(world.manifest(kind, "x", spec, namespace)).errors]


@pytest.mark.parametrize(("spec", "path", "words"), REFUSED)
def test_refused(spec: dict[str, Any], path: str, words: str) -> None:
    found = errors("AuthorizationPolicy", spec)
    assert any(where == path and words in text for where, text in found), found
    with pytest.raises(InvalidObject, match="AuthorizationPolicy/hello/x"):
        parse_authorization_policy(world.manifest("AuthorizationPolicy", "x", spec))


@pytest.mark.parametrize("spec", ACCEPTED)
def test_accepted(spec: dict[str, Any]) -> None:
    assert errors("AuthorizationPolicy", spec) == []


def test_the_shape_of_an_error() -> None:
    ((_, text),) = errors("AuthorizationPolicy", source(ipBlocks=["10.0.0.1", "10.0.0.0/33"]))
    assert text == (
        'spec.rules[0].from[0].source.ipBlocks[1]: Invalid value: "10.0.0.0/33": accepted is an IPv4 or IPv6 address, '
        "or a CIDR such as 10.0.0.0/8 or 2001:db8::/32"
    )


@pytest.mark.parametrize(
    ("spec", "warned"),
    [
        ({"action": "DENY", **operation(methods=["GET"])}, "only HTTP attributes"),
        ({"action": "DENY", **operation(methods=["GET"], ports=["80"])}, None),
        ({"action": "DENY", "rules": [{}]}, None),
        (operation(methods=["GET"]), None),
        (source(namespaces=["a*b"]), "wildcard at a waypoint"),
        (source(namespaces=["*ab*"]), "wildcard at a waypoint"),
        (source(namespaces=["ab*", "*ab", "*"]), None),
        (source(principals=["spiffe://cluster.local/ns/a/sa/b"]), "without 'spiffe://'"),
    ],
)
def test_warnings(spec: dict[str, Any], warned: str | None) -> None:
    warnings = validate(world.manifest("AuthorizationPolicy", "x", spec)).warnings
    assert [warned in text for text in warnings] == [True] if warned else warnings == ()


@pytest.mark.parametrize(
    ("spec", "path", "words"),
    [
        ({"mtls": {"mode": "strict"}}, "spec.mtls.mode", "STRICT"),
        ({"portLevelMtls": {80: {"mode": "STRICT"}}}, "spec.portLevelMtls", "selector"),
        ({"selector": {"matchLabels": {}}, "portLevelMtls": {80: {}}}, "spec.portLevelMtls", "selector"),
        ({"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {0: {}}}, "spec.portLevelMtls[0]", "65535"),
        ({"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {"x": {}}}, "spec.portLevelMtls[x]", "65535"),
        (
            {
                "selector": {"matchLabels": {"a": "b"}},
                "portLevelMtls": {"80": {"mode": "STRICT"}, "080": {"mode": "PERMISSIVE"}},
            },
            "spec.portLevelMtls[080]",
            "65535",
        ),
        (
            {"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {"1" * 5000: {}}},
            f"spec.portLevelMtls[{'1' * 5000}]",
            "65535",
        ),
        (
            {"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {80: {"mode": "X"}}},
            "spec.portLevelMtls[80].mode",
            "STRICT",
        ),
        ({"mtl": {}}, "spec.mtl", "unknown field"),
    ],
)
def test_peer_authentication_refused(spec: dict[str, Any], path: str, words: str) -> None:
    found = errors("PeerAuthentication", spec)
    assert any(where == path and words in text for where, text in found), found
    with pytest.raises(InvalidObject):
        parse_peer_authentication(world.manifest("PeerAuthentication", "x", spec))


def test_peer_authentication_accepted() -> None:
    spec = {"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {"80": {"mode": "STRICT"}}, "mtls": None}
    assert errors("PeerAuthentication", spec) == []
    assert errors("PeerAuthentication", None) == []


def test_a_selector_in_the_root_namespace_is_warned_of() -> None:
    manifest = world.manifest("PeerAuthentication", "x", {"selector": {"matchLabels": {"a": "b"}}}, "istio-system")
    (warning,) = validate(manifest).warnings
    assert "applies to no workload" in warning
    assert validate(manifest, root_namespace="other").warnings == ()


@pytest.mark.parametrize(
    ("jwt", "path"),
    [
        ({}, "spec.jwtRules[0].issuer"),
        ({"issuer": "i", "jwks": "{}", "jwksUri": "https://x/k"}, "spec.jwtRules[0].jwks"),
        ({"issuer": "i", "jwksUri": "ftp://x"}, "spec.jwtRules[0].jwksUri"),
        ({"issuer": "i", "jwksUri": "https://"}, "spec.jwtRules[0].jwksUri"),
        ({"issuer": "i", "jwksUri": "http://127.0.0.1/k"}, "spec.jwtRules[0].jwksUri"),
        ({"issuer": "i", "jwksUri": "http://169.254.169.254/k"}, "spec.jwtRules[0].jwksUri"),
        ({"issuer": "i", "jwksUri": "http://localhost:15000/k"}, "spec.jwtRules[0].jwksUri"),
        ({"issuer": "i", "jwksUri": "https://x:port/k"}, "spec.jwtRules[0].jwksUri"),
        ({"issuer": "i", "audiences": [""]}, "spec.jwtRules[0].audiences[0]"),
        ({"issuer": "i", "fromHeaders": [{"prefix": "Bearer "}]}, "spec.jwtRules[0].fromHeaders[0].name"),
        ({"issuer": "i", "fromParams": [""]}, "spec.jwtRules[0].fromParams[0]"),
        ({"issuer": "i", "outputClaimToHeaders": [{"claim": "c"}]}, "spec.jwtRules[0].outputClaimToHeaders[0].header"),
        ({"issuer": "i", "isuer": "i"}, "spec.jwtRules[0].isuer"),
    ],
)
def test_request_authentication_refused(jwt: dict[str, Any], path: str) -> None:
    assert path in [where for where, _ in errors("RequestAuthentication", {"jwtRules": [jwt]})]


def test_request_authentication_read() -> None:
    jwt = {"issuer": "i", "jwksUri": "https://keys.example/k", "audiences": ["a"], "fromHeaders": [{"name": "x"}]}
    manifest = world.manifest("RequestAuthentication", "x", {"jwtRules": [jwt], "targetRefs": SERVICE})
    (read,) = parse_request_authentication(manifest).jwt_rules
    assert (read.issuer, read.jwks_uri, read.audiences, read.from_headers) == (
        "i",
        "https://keys.example/k",
        ("a",),
        (("x", ""),),
    )


def test_an_unknown_kind_is_refused() -> None:
    assert errors("Pod", {})[0][0] == "kind"


def test_an_invalid_policy_is_closed_over_its_own_scope() -> None:
    labels = {"matchLabels": {"app": "helloworld"}}
    broken = {"selector": labels, "action": "DENY", **source(ipBlocks=["x"])}
    closed, why = policy_or_closed(world.manifest("AuthorizationPolicy", "x", broken))
    assert (closed.action, closed.rules, closed.selector) == (Action.ALLOW, (), (("app", "helloworld"),))
    assert why


def test_an_unreadable_attachment_is_closed_over_the_namespace() -> None:
    closed, why = policy_or_closed(world.manifest("AuthorizationPolicy", "x", {"selector": "x", "rules": [{}]}))
    assert (closed.action, closed.rules, closed.selector, closed.target_refs) == (Action.ALLOW, (), None, ())
    assert why


@pytest.mark.parametrize(
    ("annotations", "action"),
    [({"istio.io/dry-run": "true"}, "ALLOW"), ({"istio.io/dry-run": "true"}, "DENY"), ({}, "AUDIT")],
)
def test_an_invalid_policy_that_would_have_decided_nothing_denies_nothing(
    annotations: dict[str, str], action: str
) -> None:
    labels = {"matchLabels": {"app": "helloworld"}}
    manifest = world.manifest(
        "AuthorizationPolicy", "x", {"selector": labels, "action": action, **source(ipBlocks=["x"])}
    )
    manifest["metadata"]["annotations"] = annotations
    closed, why = policy_or_closed(manifest)
    assert why
    assert PolicySet(MeshSettings(), [closed]).ztunnel_policies() == {}
    assert closed.dry_run or closed.action is Action.AUDIT


@pytest.mark.parametrize("annotations", ["true", ["istio.io/dry-run"], None])
def test_annotations_of_another_type_make_no_dry_run(annotations: object) -> None:
    manifest = world.manifest("AuthorizationPolicy", "x", source(ipBlocks=["x"]))
    manifest["metadata"]["annotations"] = annotations
    closed, why = policy_or_closed(manifest)
    assert why
    assert (closed.action, closed.dry_run) == (Action.ALLOW, False)


@given(strategies.specs())
def test_what_is_valid_is_accepted(spec: dict[str, Any]) -> None:
    assert errors("AuthorizationPolicy", spec) == []


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 99999) | st.sampled_from(("", "*", "a", "10.0.0.1", "ALLOW", "CUSTOM")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ("selector", "matchLabels", "targetRef", "targetRefs", "kind", "name", "rules", "from", "source", "to", "operation",
         "when", "key", "values", "action", "provider", "principals", "namespaces", "paths", "mtls", "mode", "portLevelMtls",
         "jwtRules", "issuer", "serviceAccounts", "80")
    ), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(json_values, st.sampled_from(("AuthorizationPolicy", "PeerAuthentication", "RequestAuthentication")))
def test_any_document_gets_an_answer(spec: Any, kind: str) -> None:
    """No document breaks the check; what it accepts can be read, and what it refuses is closed."""
    document = {"kind": kind, "metadata": {"name": "x", "namespace": "hello"}, "spec": spec}
    admitted = validate(document).allowed
    if kind == "AuthorizationPolicy":
        policy, why = policy_or_closed(document)
        assert bool(why) != admitted
        harmless = policy.action is Action.AUDIT and spec["action"] == "AUDIT"
        assert admitted or ((policy.action is Action.ALLOW or harmless) and not policy.rules)
    elif admitted:
        (parse_peer_authentication if kind == "PeerAuthentication" else parse_request_authentication)(document)
