"""The questions that people ask of an ambient mesh at night, each answered."""

from __future__ import annotations

from tulle.cli.explain.world import World, live

from .scenes import (
    BASE,
    ENROLLED,
    STRICT,
    TEST,
    WAYPOINT,
    WAYPOINT_PRINCIPAL,
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
