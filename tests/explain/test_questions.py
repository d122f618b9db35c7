"""The questions that people ask of an ambient mesh at night, each answered."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest

from tulle.cli.explain.world import World, live

from .scenes import (
    BASE,
    ENROLLED,
    STRICT,
    TARGET,
    TEST,
    WAYPOINT,
    WAYPOINT_PRINCIPAL,
    ask,
    commands,
    ids,
    policy,
    rule,
    scene,
    selecting,
    targeting,
)


def test_everything_open() -> None:
    report = ask(scene())
    assert report.allowed
    assert report.sees.code == "200"
    assert report.last == "Nothing needs to change."
    assert [row.sees for row in report.hops[:2]] == ["the pod", TEST]


# 1
def test_layer7_deny_at_ztunnel_denies_nothing() -> None:
    report = ask(scene(ENROLLED, selecting("no-get", rule(namespaces=["test"], methods=["GET"]), action="DENY")))
    assert report.allowed
    assert "l7-deny-no-op" in ids(report)
    assert report.change is not None
    assert report.change.verified.startswith("403")
    assert '"targetRefs"' in commands(report) or "/spec/targetRefs" in commands(report)


# 2
def test_layer7_allow_at_ztunnel_denies_everyone() -> None:
    report = ask(scene(selecting("get-only", rule(namespaces=["test"], methods=["GET"]))))
    assert (report.sees.code, report.sees.curl) == ("reset", 56)
    assert "l7-allow-denies-all" in ids(report)
    assert "istioctl waypoint apply -n hello --wait" in commands(report)
    assert "istio.io/use-waypoint=waypoint" in commands(report)
    assert "/spec/targetRefs" in commands(report)


# 3
def namespace(labels: str) -> str:
    """Namespace hello with more labels."""
    return f"{{kind: Namespace, metadata: {{name: hello, labels: {{istio.io/dataplane-mode: ambient, {labels}}}}}}}"


def test_waypoint_missing() -> None:
    labelled = namespace("istio.io/use-waypoint: wp")
    report = ask(scene(labelled, targeting("none", rule(principals=["nobody"]))))
    assert report.allowed, "a waypoint that is missing fails open"
    assert {"waypoint-WaypointIsNotReady", "target-not-enforced"} <= ids(report)
    assert "istioctl waypoint apply -n hello --name wp" in commands(report)


def test_waypoint_not_ready() -> None:
    pending = WAYPOINT + "status: {conditions: [{type: Programmed, status: 'False'}]}\n"
    report = ask(scene(ENROLLED, pending))
    assert "waypoint-WaypointIsNotReady" in ids(report)


def test_waypoint_bypassed_by_pod_address() -> None:
    world = scene(ENROLLED, targeting("nobody", rule(principals=["cluster.local/ns/x/sa/y"])))
    assert ask(world).sees.code == "403"
    direct = ask(world, url="http://helloworld-0.hello.pod:8080/hello")
    assert direct.allowed
    assert {"pod-ip-skips-waypoint", "target-not-enforced"} <= ids(direct)
    assert WAYPOINT_PRINCIPAL in commands(direct), "an ALLOW of the waypoint alone closes the way around it"
    assert direct.change is not None
    assert direct.change.verified.startswith("reset")


# 4
INGRESS = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: ingress, namespace: test}
spec: {gatewayClassName: istio, listeners: [{name: http, port: 80, protocol: HTTP}]}
---
apiVersion: v1
kind: Pod
metadata:
  name: ingress-0
  namespace: test
  labels: {gateway.networking.k8s.io/gateway-name: ingress, istio.io/dataplane-mode: none}
spec: {serviceAccountName: ingress, containers: [{name: proxy}]}
"""


def test_ingress_skips_the_waypoint() -> None:
    report = ask(
        scene(ENROLLED, INGRESS, targeting("nobody", rule(principals=["x/ns/x/sa/y"]))), client="pod/ingress-0"
    )
    assert report.allowed
    assert (
        "waypoint hello/waypoint is skipped: pod test/ingress-0, an ingress gateway, with a proxy of its own, goes to"
        in str(report.findings)
    )
    assert "ingress-skips-waypoint" in ids(report)
    assert "kubectl label service helloworld -n hello istio.io/ingress-use-waypoint=true" in commands(report)
    assert report.change is not None
    assert report.change.verified.startswith("403")


# 5
def test_client_outside_the_mesh() -> None:
    report = ask(scene(STRICT), namespace="legacy")
    assert report.sees.curl == 56
    assert report.hops[0].sees == "nobody (plaintext)"
    assert "outside-mesh" in ids(report)
    assert commands(report) == "kubectl label namespace legacy istio.io/dataplane-mode=ambient"
    assert report.last == "Smallest change to allow it: bring namespace legacy into the mesh."


def test_client_that_opted_out() -> None:
    out = """
apiVersion: v1
kind: Pod
metadata: {name: curl, namespace: test, labels: {istio.io/dataplane-mode: none}}
spec: {containers: [{name: curl}]}
"""
    assert "kubectl label pod curl -n test istio.io/dataplane-mode=ambient --overwrite" in commands(
        ask(scene(STRICT, out))
    )


def test_client_that_cannot_be_captured_gets_an_exception_for_its_port() -> None:
    report = ask(scene(STRICT), client="outside")
    assert report.change is not None
    assert "portLevelMtls" in commands(report)
    assert "'8080'" in commands(report), "the pod's port, not the Service's"


# 6
def test_behind_a_waypoint_the_pod_sees_the_waypoint() -> None:
    allow = selecting("only-test", rule(principals=[TEST]))
    assert ask(scene(allow)).allowed
    report = ask(scene(ENROLLED, allow, targeting("test-too", rule(principals=[TEST]))))
    assert report.sees.code == "503"
    assert report.hops[-1].sees == WAYPOINT_PRINCIPAL
    assert "waypoint-identity" in ids(report)
    assert report.change is not None
    assert WAYPOINT_PRINCIPAL in commands(report)


# 7
def test_nearest_miss() -> None:
    far = targeting("far", rule(principals=["cluster.local/ns/x/sa/y"], methods=["PUT"]))
    near = targeting("near", rule(principals=["cluster.local/ns/x/sa/y"], methods=["GET"]))
    report = ask(scene(ENROLLED, far, near))
    assert report.sees.text == "HTTP 403, body `RBAC: access denied`"
    assert report.nearest is not None
    assert report.nearest.policy == "AuthorizationPolicy/hello/near"
    assert report.nearest.text.endswith(f"if principals contained {TEST}")
    assert "ALLOW policies apply, but none allows it" in report.summary
    assert commands(report).startswith("kubectl patch authorizationpolicy near -n hello --type=json")


def test_a_list_of_restrictions_is_mended_in_full() -> None:
    allow = targeting("strict", rule(principals=["cluster.local/ns/x/sa/y"], methods=["PUT"]))
    report = ask(scene(ENROLLED, allow))
    assert report.change is not None
    assert len(report.change.commands) == 2


# 8
WEBHOOK = """
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: guard}
webhooks:
- name: guard.example.com
  clientConfig: {service: {name: helloworld, namespace: hello}}
"""


def test_strict_breaks_a_webhook_and_a_scraper() -> None:
    scraped = BASE.replace(
        "metadata: {labels: {app: helloworld}}",
        "metadata: {labels: {app: helloworld}, annotations: {prometheus.io/scrape: 'true'}}",
    )
    report = ask(scene(scraped, STRICT, WEBHOOK), client="outside")
    assert {"webhook-under-strict", "scraper-under-strict", "plaintext-speakers", "probes-pass"} <= ids(report)
    assert any("legacy (1)" in finding.text for finding in report.findings)

    before = ask(scene(scraped, WEBHOOK), client="outside")
    assert before.allowed
    expected = {"plaintext-accepted", "webhook-under-strict", "scraper-under-strict", "plaintext-speakers"}
    assert expected <= {finding.id for finding in before.findings if not finding.trap}


# 9
def test_probes_pass_strict_and_policies() -> None:
    report = ask(scene(STRICT, policy("nothing", {})), client="kubelet")
    assert report.allowed
    assert "probes-pass" in ids(report)
    assert report.hops[0].how == "from the node"


# 10
def test_port_level_mtls_on_the_port_of_the_service() -> None:
    wrong = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: open-5000, namespace: hello}
spec:
  selector: {matchLabels: {app: helloworld}}
  mtls: {mode: STRICT}
  portLevelMtls: {5000: {mode: PERMISSIVE}}
"""
    report = ask(scene(wrong), client="outside")
    assert report.sees.code == "reset"
    assert "port-level-mtls" in ids(report)
    assert "/spec/portLevelMtls/8080" in commands(report)
    assert "/spec/portLevelMtls/5000" in commands(report)


# 11
def test_principal_with_its_scheme() -> None:
    report = ask(scene(selecting("typo", rule(principals=[f"spiffe://{TEST}"]))))
    assert not report.allowed
    assert "spiffe-scheme" in ids(report)
    assert f'"op": "replace", "path": "/spec/rules/0/from/0/source/principals/0", "value": "{TEST}"' in commands(report)


ALIASES = """
apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "{trustDomain: corp.example, trustDomainAliases: [cluster.local]}"}
"""


def test_trust_domain_aliases_count_at_the_waypoint_only() -> None:
    at_ztunnel = ask(scene(ALIASES, selecting("old", rule(principals=[TEST])), profile=""))
    assert not at_ztunnel.allowed
    assert "trust-domain" in ids(at_ztunnel)
    assert "corp.example/ns/test/sa/default" in commands(at_ztunnel)
    assert ask(scene(ALIASES, ENROLLED, targeting("old", rule(principals=[TEST])), profile="")).allowed


# 12
def cluster(*texts: str) -> World:
    """The base mesh as a cluster would list it."""
    return live(scene(*texts).objects.values())


def mesh_pod(name: str, app: str, *, ready: bool) -> str:
    """A pod of the mesh itself, on node n1."""
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: istio-system, labels: {{app: {app}}}}}
spec: {{nodeName: n1, containers: [{{name: main}}]}}
status: {{phase: Running, podIP: 10.0.0.9, conditions: [{{type: Ready, status: '{ready}'}}]}}
"""


def test_no_certificate_yet() -> None:
    on_node = BASE.replace(
        "metadata: {name: curl, namespace: test, labels: {app: curl}}\nspec: {",
        "metadata: {name: curl, namespace: test, labels: {app: curl}}\nspec: {nodeName: n1, ",
    )
    report = ask(cluster(on_node, mesh_pod("ztunnel-a", "ztunnel", ready=False)))
    assert report.sees.code == "closed"
    assert "certificate" in report.summary
    assert report.last == "No policy is at fault. Look at: kubectl logs -n istio-system ztunnel-a"


def test_client_that_no_ztunnel_has_taken_yet() -> None:
    pending = """
apiVersion: v1
kind: Pod
metadata: {name: curl, namespace: test, annotations: {ambient.istio.io/redirection: pending}}
spec: {containers: [{name: curl}]}
status: {phase: Running, podIP: 10.0.0.1}
"""
    report = ask(scene(pending))
    assert (report.sees.code, report.sees.curl) == ("refused", 7)


def test_no_istiod_means_no_new_certificates() -> None:
    assert "no-certificates" in ids(ask(cluster(mesh_pod("istiod-a", "istiod", ready=False))))


# 13
def test_rollout() -> None:
    waiting = """
apiVersion: v1
kind: Pod
metadata: {name: next, namespace: hello, labels: {app: helloworld, version: v2}, annotations: {ambient.istio.io/redirection: enabled}}
spec: {containers: [{name: main}]}
status: {phase: Running, podIP: 10.0.0.1, conditions: [{type: Ready, status: 'False'}]}
"""
    alone = ask(scene(ENROLLED, waiting))
    assert alone.sees.code == "503"
    assert "helloworld has no ready endpoint: its pods are not ready: hello/next" in alone.summary
    both = (
        waiting
        + "---"
        + waiting.replace("name: next", "name: now").replace("'False'", "'True'").replace("10.0.0.1", "10.0.0.2")
    )
    assert "rollout" in ids(ask(scene(ENROLLED, both)))


def test_endpoints_that_differ() -> None:
    other = (
        BASE.split("---")[-1]
        .replace("name: helloworld, namespace", "name: v2, namespace")
        .replace("{app: helloworld}", "{app: helloworld, version: v2}")
    )
    deny = policy("v2-closed", {"selector": {"matchLabels": {"version": "v2"}}})
    report = ask(scene(other, deny))
    assert "endpoints-differ" in ids(report)
    assert report.summary.startswith("1 of 2 pods: ")
    assert sorted(report.endpoints.values()) == ["200", "reset"]


# 14
def test_waypoint_of_another_namespace() -> None:
    away = WAYPOINT.replace("namespace: hello", "namespace: infra")
    labelled = """
apiVersion: v1
kind: Namespace
metadata:
  name: hello
  labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint, istio.io/use-waypoint-namespace: infra}
"""
    refused = ask(scene(away, labelled))
    assert "waypoint-AttachmentDenied" in ids(refused)
    admitting = away.replace("protocol: HBONE", "protocol: HBONE, allowedRoutes: {namespaces: {from: All}}")
    report = ask(scene(admitting, labelled, targeting("nobody", rule(principals=["x/ns/x/sa/y"]))))
    assert report.sees.code == "403"
    assert "cross-namespace-waypoint" in ids(report)
    assert any(row.destination == "waypoint infra/waypoint" for row in report.hops)
    gateway = [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "waypoint"}]
    astray = ask(scene(admitting, labelled, policy("astray", {"targetRefs": gateway})))
    assert astray.allowed
    assert "policy-astray" in ids(astray)
    assert astray.last.endswith("mind what is marked ! above.")


# 15
def test_headless_service_skips_its_waypoint() -> None:
    headless = BASE.replace(
        "spec:\n  selector: {app: helloworld}", "spec:\n  clusterIP: None\n  selector: {app: helloworld}"
    )
    report = ask(
        scene(headless, ENROLLED, targeting("nobody", rule(principals=["x/ns/x/sa/y"]))),
        url="http://helloworld.hello:8080/",
    )
    assert report.allowed
    assert {"headless-skips-waypoint", "target-not-enforced"} <= ids(report)


# and more


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
        ({"iss": "https://id.example", "sub": "me", "aud": "other"}, "401"),
        ({"iss": "https://other.example", "sub": "me", "aud": "hello"}, "401"),
        ({"iss": "https://id.example", "sub": "me", "aud": "hello", "exp": 5}, "401"),
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
    assert ask(world, token=given, now=10.0).sees.code == code


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


# -- hosts outside of the mesh ----------------------------------------------------------------------------------------


def outside(**spec: object) -> str:
    """A ServiceEntry of namespace hello, whose waypoint holds its policy: GET from namespace test."""
    ports = [
        {"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080},
        {"number": 443, "name": "tls", "protocol": "TLS"},
    ]
    entry = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "api", "namespace": "hello"},
        "spec": {"hosts": ["api.example.com"], "ports": ports, "resolution": "DNS", **spec},
    }
    return json.dumps(entry)


API = "http://api.example.com/x"
ENTRY_POLICY = policy(
    "api",
    {
        "targetRefs": [{"group": "networking.istio.io", "kind": "ServiceEntry", "name": "api"}],
        "rules": [rule(namespaces=["test"], methods=["GET"])],
    },
)


def test_a_host_that_a_waypoint_looks_up() -> None:
    world = scene(ENROLLED, outside(), ENTRY_POLICY)
    report = ask(world, url=API)
    assert report.sees.code == "200"
    last = report.hops[-1]
    assert (last.source, last.destination) == ("endpoint api.example.com (ServiceEntry hello/api)", "its port 8080")
    assert [row.how for row in report.hops] == ["captured", "HBONE", "plaintext", "outside the mesh"]
    assert "server-outside-mesh" in ids(report)
    assert "server-not-captured" not in ids(report)
    assert any("given some by istiod" in one for one in report.assumptions)
    assert ask(world, url=API, method="POST").sees.code == "403"
    assert ask(world, url="https://api.example.com").sees.code == "closed", "an ALLOW of methods allows no bytes"


@pytest.mark.parametrize(
    "spec",
    [
        {"endpoints": [{"address": "a.example.com", "labels": {"networking.istio.io/tunnel": "http"}}]},
        {"endpoints": [{"address": "a.example.com", "network": "far"}]},
        {"endpoints": [{"address": "127.0.0.1"}]},
        {"resolution": "STATIC"},
        {"resolution": "NONE", "addresses": ["192.0.2.1"]},
    ],
)
def test_endpoints_that_a_waypoint_cannot_connect_to(spec: dict[str, object]) -> None:
    report = ask(scene(ENROLLED, outside(**spec)), url=API)
    assert report.sees.code == "503"
    assert "it has none that a waypoint can connect to" in report.summary
    assert report.last == "No policy is at fault. Look at: kubectl get serviceentry -n hello api -o yaml"


def test_of_several_endpoints_each_is_told_apart() -> None:
    far = {"address": "far.example.com", "network": "far"}
    given = [{"address": "a.example.com"}, {"address": "192.0.2.1"}, far]
    report = ask(scene(ENROLLED, outside(endpoints=given)), url=API)
    assert report.endpoints == {"hello/api/192.0.2.1": "200", "hello/api/a.example.com": "200"}
