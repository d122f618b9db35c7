"""kubectl against the embedded cluster: what it prints and how it ends, as on any cluster."""

from __future__ import annotations

import re

import pytest

from tests.e2e.mesh import Mesh, lines
from tulle.cli.lesson import Outcome

DENY_WITHOUT_RULES = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: bad, namespace: default}
spec: {action: DENY}
"""
BAD = {
    "a DENY without rules": (DENY_WITHOUT_RULES, "spec.rules: Required value"),
    "an unknown action": (
        DENY_WITHOUT_RULES.replace("action: DENY", "action: FORBID, rules: [{}]"),
        'spec.action: Unsupported value: "FORBID": supported values: "ALLOW"',
    ),
    "a CIDR that is none": (
        DENY_WITHOUT_RULES.replace("DENY", 'DENY, rules: [{from: [{source: {ipBlocks: ["10.0.0.0/33"]}}]}]'),
        'spec.rules[0].from[0].source.ipBlocks[0]: Invalid value: "10.0.0.0/33"',
    ),
    "a field that does not exist": (
        DENY_WITHOUT_RULES.replace("DENY", "DENY, rulez: []"),
        'unknown field "spec.rulez"',
    ),
    "port modes without a selector": (
        """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: bad, namespace: default}
spec: {mtls: {mode: STRICT}, portLevelMtls: {"8080": {mode: PERMISSIVE}}}
""",
        "spec.portLevelMtls",
    ),
}


def header(output: str) -> list[str]:
    return lines(output)[0].split()


def test_what_runs(mesh: Mesh) -> None:
    pods = mesh.ok("kubectl get pods -A")
    assert header(pods) == ["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    for name in ("istio-cni-node", "istiod", "ztunnel"):
        assert re.search(rf"^istio-system +{name}-\S+ +1/1 +Running +0 ", pods, re.M), pods
    services = mesh.ok("kubectl get svc -A")
    assert header(services) == ["NAMESPACE", "NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]
    assert re.search(r"^default +kubernetes +ClusterIP +10\.96\.0\.1 +<none> +443/TCP ", services, re.M), services
    assert re.search(r"^kube-system +kube-dns +ClusterIP +10\.96\.0\.10 +<none> +53/UDP,53/TCP ", services, re.M)
    for kind in ("peerauthentications", "authorizationpolicies", "gateways"):
        assert mesh.ok(f"kubectl get {kind} -A") == "No resources found\n"


def test_a_pods_whole_life(mesh: Mesh) -> None:
    mesh.ok("kubectl create namespace life")
    assert mesh.ok("kubectl run web --image=nginx -n life") == "pod/web created\n"
    assert mesh.ok("kubectl wait -n life pod/web --for=condition=Ready --timeout=120s") == "pod/web condition met\n"
    # Events are written behind what they tell of, as on any cluster.
    described = mesh.settles("kubectl describe pod -n life web", Outcome(0, "Started container web")).output
    for part in ("Node:             node1/", "Status:           Running", "Image:          nginx"):
        assert part in described
    address = mesh.ok("kubectl get pod -n life web -o jsonpath={.status.podIP}")
    mesh.ok("kubectl run client --image=curlimages/curl -n life --restart=Never --command -- sleep infinity")
    mesh.ok("kubectl wait -n life pod/client --for=condition=Ready --timeout=120s")
    mesh.settles(f"kubectl exec -n life client -- curl -s http://{address}/", Outcome(0, "Welcome to nginx!"))
    mesh.settles("kubectl logs -n life web", Outcome(0, "GET / HTTP/1.1"))
    ended = mesh.run("kubectl exec -n life client -- sh -c 'exit 7'")
    assert (ended.code, ended.output.strip()) == (7, "command terminated with exit code 7")
    on_a_terminal = "script -qec 'kubectl exec -n life -it client -- sh -c \"test -t 0 && tty\"' /dev/null"
    assert "/dev/pts/" in mesh.ok(on_a_terminal)
    assert mesh.ok("kubectl delete pod -n life client --now").startswith('pod "client" deleted')
    assert mesh.ok("kubectl delete namespace life --timeout=120s").startswith('namespace "life" deleted')
    assert "NotFound" in mesh.run("kubectl get namespace life").output


def test_an_image_that_cannot_be_had(mesh: Mesh) -> None:
    mesh.ok("kubectl run nowhere --image=example.com/no/such:1")
    mesh.settles("kubectl get pod nowhere", Outcome(0, "ErrImagePull"))
    mesh.settles("kubectl describe pod nowhere", Outcome(0, "example.com/no/such:1"))
    inside = mesh.run("kubectl exec nowhere -- ls")
    assert 'container "nowhere" of pod "default/nowhere" is not running on this node' in inside.output
    mesh.ok("kubectl delete pod nowhere --now")


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_with_the_fields_path(mesh: Mesh, what: str) -> None:
    manifest, message = BAD[what]
    refused = mesh.apply(manifest)
    assert refused.code == 1
    assert message in refused.output


def test_waypoint_commands(mesh: Mesh) -> None:
    mesh.ok("kubectl create namespace wp")
    assert mesh.ok("istioctl waypoint list -n wp") == "No waypoints found.\n"
    applied = mesh.run("istioctl waypoint apply -n wp --enroll-namespace --wait")
    assert applied.code == 0
    assert "✅ waypoint wp/waypoint applied" in applied.output
    assert "✅ waypoint wp/waypoint is ready!" in applied.output
    assert header(mesh.ok("istioctl waypoint list -A")) == [
        "NAMESPACE",
        "NAME",
        "REVISION",
        "TRAFFIC",
        "TYPE",
        "PROGRAMMED",
    ]
    gateways = mesh.ok("kubectl get gateways -A")
    assert header(gateways) == ["NAMESPACE", "NAME", "CLASS", "ADDRESS", "PROGRAMMED", "AGE"]
    assert re.search(r"^wp +waypoint +istio-waypoint +\S+ +True ", gateways, re.M)
    assert mesh.ok("istioctl waypoint delete -n wp waypoint") == "waypoint wp/waypoint deleted\n"
    assert mesh.run("istioctl waypoint apply -n wp --name none").code == 1
    mesh.settles("kubectl get deploy,svc,sa -n wp -o name", Outcome(0, "serviceaccount/default"))
    mesh.ok("kubectl delete namespace wp --timeout=120s")
