"""Further questions of an ambient mesh: profiles, ports, tokens, authorizers, and what is proposed to mend a refusal."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from .scenes import (
    BASE,
    ENROLLED,
    STRICT,
    TARGET,
    TEST,
    WAYPOINT,
    ask,
    commands,
    ids,
    namespace,
    policy,
    rule,
    scene,
    selecting,
    targeting,
)


def test_head_is_not_get() -> None:
    world = scene(ENROLLED, targeting("get", rule(principals=[TEST], methods=["GET"])))
    report = ask(world, method="HEAD")
    assert report.sees.text == "HTTP 403 (HEAD has no body)"
    assert "head-is-not-get" in ids(report)
    assert '"value": "HEAD"' in commands(report)
    lesson = ask(
        scene(ENROLLED, targeting("get", rule(principals=[TEST], methods=["GET"])), profile="lesson"), method="HEAD"
    )
    assert lesson.allowed
    assert any(one.startswith("headIsGet") for one in lesson.settings)


def test_label_that_means_nothing() -> None:
    labelled = namespace("istio.io/waypoint: enabled")
    report = ask(scene(WAYPOINT, labelled, targeting("nobody", rule(principals=["x/ns/x/sa/y"]))))
    assert "unknown-waypoint-label" in ids(report)
    assert "kubectl label namespace hello istio.io/use-waypoint=waypoint" in commands(report)
    assert any(
        one.startswith("waypointLabelAlias") for one in ask(scene(WAYPOINT, labelled, profile="lesson")).settings
    )


def test_lifting_is_told() -> None:
    world = scene(ENROLLED, selecting("v2", rule(principals=[TEST], methods=["GET"])), profile="lesson")
    report = ask(world)
    assert report.allowed
    assert any(one.startswith("liftSelectorPolicies") for one in report.settings)
    direct = ask(world, url="http://helloworld-0.hello.pod:8080/")
    assert not direct.allowed, "the waypoint cannot be bypassed"


def test_port_that_is_not_declared_http() -> None:
    tcp = BASE.replace("name: http, port: 5000", "name: tcp-data, port: 5000")
    report = ask(scene(tcp, ENROLLED, targeting("get", rule(principals=[TEST], methods=["GET"]))))
    assert report.sees.code == "closed", "a waypoint that refuses opaque bytes closes the connection"
    assert "port-not-http" in ids(report)


def test_port_that_declares_nothing_is_looked_at() -> None:
    """The waypoint finds HTTP in the first bytes, also where the pod itself is addressed."""
    bare = BASE.replace("name: http, port: 5000", "name: data, port: 5000")
    world = scene(bare, ENROLLED, targeting("get", rule(principals=[TEST], methods=["GET"])))
    assert ask(world).allowed
    assert ask(world, method="POST").sees.code == "403"


def test_forwarded_addresses_count_at_a_waypoint() -> None:
    policy = targeting("no", {"from": [{"source": {"remoteIpBlocks": ["192.0.2.0/24"]}}]}, action="DENY")
    world = scene(ENROLLED, policy)
    assert ask(world).allowed
    assert ask(world, headers=(("X-Forwarded-For", "10.0.0.1, 192.0.2.7"),)).sees.code == "403"
    assert ask(world, headers=(("X-Forwarded-For", "192.0.2.7, 10.0.0.1"),)).allowed, "the last address counts"
    assert ask(world, headers=(("X-Forwarded-For", "nobody"),)).allowed


@pytest.mark.parametrize(("namespace", "code"), [("test", "closed"), ("legacy", "refused")])
def test_port_that_a_service_does_not_have(namespace: str, code: str) -> None:
    report = ask(scene(), url="http://helloworld.hello:81/", namespace=namespace)
    assert report.sees.code == code
    assert "has no port 81; its ports are 5000" in report.summary


def test_server_outside_the_mesh_enforces_nothing() -> None:
    plain = "{apiVersion: v1, kind: Namespace, metadata: {name: hello}}"
    report = ask(scene(plain, STRICT, selecting("nothing")), namespace="legacy")
    assert report.allowed
    assert "server-not-captured" in ids(report)


def test_deny_is_answered_by_an_exemption() -> None:
    report = ask(scene(selecting("no", rule(namespaces=["test"]), action="DENY")))
    assert "notPrincipals" in commands(report)
    assert report.change is not None
    assert report.change.verified.startswith("200")


def test_deny_of_plaintext_is_answered_by_capture() -> None:
    deny = policy("identified", {"action": "DENY", "rules": [{"from": [{"source": {"notPrincipals": ["*"]}}]}]})
    assert (
        commands(ask(scene(deny), namespace="legacy"))
        == "kubectl label namespace legacy istio.io/dataplane-mode=ambient"
    )


def test_custom_without_an_authorizer_denies() -> None:
    custom = policy(
        "ask",
        {
            "targetRefs": TARGET,
            "action": "CUSTOM",
            "provider": {"name": "opa"},
            "rules": [{"to": [{"operation": {"paths": ["/hello"]}}]}],
        },
    )
    assert ask(scene(ENROLLED, custom)).sees.code == "403"


def token(**claims: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"e30.{body}.c2ln"


REQUEST_AUTHENTICATION = """
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: jwt, namespace: hello}
spec:
  targetRefs: [{group: "", kind: Service, name: helloworld}]
  jwtRules: [{issuer: "https://id.example", audiences: [hello], jwks: '{"keys": []}'}]
"""


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"iss": "https://id.example", "sub": "me", "aud": "hello"}, "200"),
        ({"iss": "https://id.example", "sub": "you", "aud": ["hello"]}, "403"),
        ({"iss": "https://id.example", "sub": "me", "aud": "other"}, "403"),
        ({"iss": "https://id.example", "sub": "me"}, "403"),
        ({"iss": "https://id.example", "sub": "me", "aud": "https://hello/"}, "200"),
        ({"iss": "https://id.example", "sub": "me", "aud": 5}, "401"),
        ({"iss": "https://id.example", "sub": "me", "aud": ["hello", 5]}, "401"),
        ({"iss": "https://id.example", "sub": "me", "aud": {"hello": 1}}, "401"),
        ({"iss": "https://id.example", "sub": ["me"], "aud": "hello"}, "401"),
        ({"iss": ["https://id.example"], "sub": "me", "aud": "hello"}, "401"),
        ({"iss": "https://id.example", "sub": "me", "aud": "hello", "exp": "2099"}, "401"),
        ({"iss": "https://id.example", "sub": "me", "aud": "hello", "exp": 999}, "200"),
        ({"iss": "https://id.example", "sub": "me", "aud": "hello", "nbf": 1001}, "200"),
        ({"iss": "https://id.example", "sub": "me", "aud": "hello", "nbf": 1061}, "401"),
        ({"iss": "https://other.example", "sub": "me", "aud": "hello"}, "401"),
        ({"iss": "https://id.example", "sub": "me", "aud": "hello", "exp": 939}, "401"),
        (None, "403"),
    ],
)
def test_tokens(claims: dict[str, object] | None, code: str) -> None:
    allow = policy(
        "me",
        {"targetRefs": TARGET, "rules": [{"from": [{"source": {"requestPrincipals": ["https://id.example/me"]}}]}]},
    )
    world = scene(ENROLLED, REQUEST_AUTHENTICATION, allow)
    given = "" if claims is None else token(**claims)
    assert ask(world, token=given, now=1000.0).sees.code == code


def test_a_token_for_somebody_else_is_not_refused_in_the_words_of_a_policy() -> None:
    report = ask(scene(ENROLLED, REQUEST_AUTHENTICATION), token=token(iss="https://id.example", aud="other"))
    assert (report.sees.code, report.sees.text) == ("403", "HTTP 403 from the waypoint")
    assert "audience 'other'" in report.summary


@pytest.mark.parametrize("rules", ["", "jwtRules: [{issuer: i, fromHeaders: [{name: x-token}]}]"])
def test_a_token_that_no_rule_looks_for_counts_for_nothing(rules: str) -> None:
    authentication = REQUEST_AUTHENTICATION.partition("  jwtRules")[0] + (f"  {rules}\n" if rules else "")
    report = ask(scene(ENROLLED, authentication), token=token(iss="other"))
    assert report.sees.code == "200"
    assert any("counts for nothing" in one for one in report.assumptions)


@pytest.mark.parametrize(
    ("claim", "held", "code"),
    [
        ("scope", "read write", "200"),
        ("scope", ["read"], "200"),
        ("scope", "reader writer", "403"),
        ("groups", "read write", "200"),
        ("other", "read write", "403"),
    ],
)
def test_claims_that_hold_a_list_in_a_string(claim: str, held: object, code: str) -> None:
    when = [{"key": f"request.auth.claims[{claim}]", "values": ["read"]}]
    allow = policy("readers", {"targetRefs": TARGET, "rules": [{"when": when}]})
    listing = REQUEST_AUTHENTICATION.replace("audiences: [hello]", "spaceDelimitedClaims: [groups]")
    world = scene(ENROLLED, listing, allow)
    given = token(iss="https://id.example", sub="me", **{claim: held})
    assert ask(world, token=given, now=10.0).sees.code == code


def test_an_ipv6_address_is_in_brackets_in_the_authority() -> None:
    service = BASE.split("---\n")[5].replace("spec:\n", "spec:\n  clusterIP: fd00::30\n  clusterIPs: [fd00::30]\n")
    operation = {"operation": {"hosts": ["[fd00::30]:5000"]}}
    deny = policy("by-address", {"targetRefs": TARGET, "action": "DENY", "rules": [{"to": [operation]}]})
    assert ask(scene(ENROLLED, service, deny), url="http://[fd00::30]:5000/").sees.code == "403"


def test_token_without_request_authentication_counts_for_nothing() -> None:
    report = ask(scene(ENROLLED), token=token(iss="a", sub="b"))
    assert any("counts for nothing" in one for one in report.assumptions)


def test_what_is_proposed_was_tried_and_nothing_is_left_behind() -> None:
    world = scene(STRICT, selecting("get-only", rule(namespaces=["test"], methods=["GET"])))
    before = dict(world.index.workloads)
    policies = dict(world.index.policies)
    assert ask(world, namespace="legacy").change is not None
    assert world.index.workloads == before
    assert world.index.policies == policies


def test_unresolved_host_unknown_port_and_outside() -> None:
    assert ask(scene(), url="http://nobody.hello:80/").sees.curl == 6
    assert "its ports are 5000" in ask(scene(), url="http://helloworld.hello:81/").summary
    assert "outside the mesh" in ask(scene(), url="http://example.com/").summary


# A cluster's objects are facts: a waypoint that is yet to be deployed has no pods there, and is tried all the same.
def test_a_waypoint_that_a_cluster_does_not_have_yet_is_tried_as_if_it_were_ready() -> None:
    cluster = replace(scene(selecting("no-get", rule(namespaces=["test"], methods=["GET"]), action="DENY")), live=True)
    report = ask(cluster)
    assert report.change is not None
    assert report.change.verified.startswith("403")
    denied = ask(replace(scene(selecting("get", rule(namespaces=["test"], methods=["GET"]))), live=True))
    assert "istioctl waypoint apply -n hello --wait" in commands(denied)


TWO_VERSIONS = "\n---\n".join(
    f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: helloworld{suffix}, namespace: hello}}
spec:
  template:
    metadata: {{labels: {{app: helloworld, version: v{number}}}}}
    spec: {{containers: [{{name: helloworld, ports: [{{containerPort: 8080}}]}}]}}
"""
    for number, suffix in ((1, ""), (2, "-v2"))
)


def test_what_is_changed_for_a_service_is_changed_for_all_of_its_versions() -> None:
    outside = ask(scene(STRICT, TWO_VERSIONS), client="outside")
    assert (
        outside.last
        == "Smallest change to allow it: accept plaintext on port 8080 of the pods of Service hello/helloworld only."
    )
    guarded = scene(ENROLLED, TWO_VERSIONS, targeting("nobody", rule(principals=["cluster.local/ns/x/sa/y"])))
    bypass = ask(guarded, url="http://helloworld-0.hello.pod:8080/hello")
    for report in (outside, bypass):
        assert "app: helloworld" in commands(report)
        assert "version" not in commands(report)


def test_without_a_nearest_miss_none_is_spoken_of() -> None:
    bare = "{kind: Pod, metadata: {name: bare, namespace: hello}, spec: {containers: [{name: bare}]}}"
    report = ask(scene(STRICT, bare), client="outside", url="http://bare.hello.pod:8080/")
    assert report.last == "No single policy, label or waypoint that was tried allows it."


POD_WAYPOINT = """
kind: Gateway
apiVersion: gateway.networking.k8s.io/v1
metadata: {name: waypoint, namespace: hello, labels: {istio.io/waypoint-for: all}}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
---
kind: Pod
apiVersion: v1
metadata: {name: bare, namespace: hello, labels: {istio.io/use-waypoint: waypoint}}
spec: {containers: [{name: bare}]}
"""


def test_a_waypoint_for_pods_reads_every_port_of_theirs() -> None:
    gateway = [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "waypoint"}]
    posts = policy("posts", {"targetRefs": gateway, "rules": [rule(methods=["POST"])]})
    url = "http://bare.hello.pod:4711/"
    assert ask(scene(POD_WAYPOINT, posts), url=url).sees.code == "403"
    assert ask(scene(POD_WAYPOINT, posts), method="POST", url=url).allowed


def test_what_is_proposed_takes_no_name_that_is_taken() -> None:
    """To apply it would replace the policy of that name, and open what that one closes."""
    other = "{kind: Service, metadata: {name: other, namespace: hello}, spec: {selector: {app: helloworld}, ports: [{port: 80}]}}"
    taken = policy(
        "allow-test-default",
        {"targetRefs": [{"group": "", "kind": "Service", "name": "other"}], "rules": [rule(principals=[TEST])]},
    )
    nobody = policy("nobody", {"targetRefs": TARGET})
    report = ask(scene(ENROLLED, other, taken, nobody))
    assert "name: allow-test-default-2\n" in commands(report)

    peer = "{kind: PeerAuthentication, metadata: {name: plaintext-8080, namespace: hello}, spec: {selector: {matchLabels: {app: other}}}}"
    assert "name: plaintext-8080-2\n" in commands(ask(scene(STRICT, peer), "outside"))


def test_a_policy_without_a_spec_can_be_mended() -> None:
    closed = "{kind: AuthorizationPolicy, metadata: {name: closed, namespace: hello}%s}"
    for spec in ("", ", spec: null", ", spec: {}"):
        report = ask(scene(ENROLLED, closed % spec))
        assert report.sees.code == "503"
        assert report.change is not None
