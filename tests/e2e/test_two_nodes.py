"""Two nodes: a request from a captured pod on one to a captured pod on the other, and the policies that hold for it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import capture
from tests.e2e.mesh import STATE, Mesh, command, tulle, until
from tulle.cli import lab
from tulle.cli.lesson import Outcome
from tulle.cluster import supervisor

SECRET = "a-secret-of-the-request"
URL = f"http://web.there:5000/hello?{SECRET}"
GET = f"kubectl exec -n here client -- curl -sS -m 5 {URL}"
PLAIN = f"kubectl exec -n outside client -- curl -sS -m 5 {URL}"
SERVED = Outcome(0, "Hello version")
REFUSED = Outcome(56, "Connection reset by peer")

STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""
ONLY = """
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: only, namespace: there}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  action: ALLOW
  rules: [{{from: [{{source: {{principals: ["{principal}"]}}}}]}}]
"""
WEB = """
apiVersion: v1
kind: Service
metadata: {name: web, namespace: there}
spec: {selector: {app: web}, ports: [{name: tcp, port: 5000}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: there, labels: {app: web}}
spec:
  nodeName: node2
  containers: [{name: web, image: docker.io/istio/examples-helloworld-v1}]
"""


def client(namespace: str) -> str:
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: client, namespace: {namespace}}}
spec:
  nodeName: node1
  containers: [{{name: curl, image: curlimages/curl, command: [sleep, infinity]}}]
"""


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh on two nodes; `here` on the first and `there` on the second are captured, `outside` is not."""
    tulle("down")
    up = tulle("up", "--nodes", "2", "--no-kubeconfig")
    assert up.code == 0, up.output
    folder = tmp_path_factory.mktemp("nodes")
    lab.write_manifests(folder)
    mesh = Mesh("lesson", folder)
    try:
        mesh.ok("kubectl create namespace here && kubectl create namespace there && kubectl create namespace outside")
        mesh.ok("kubectl label namespace here there istio.io/dataplane-mode=ambient")
        for manifest in (WEB, client("here"), client("outside")):
            applied = mesh.apply(manifest)
            assert applied.code == 0, applied.output
        for pod in ("here pod/client", "outside pod/client", "there pod/web"):
            mesh.ok(f"kubectl wait --for=condition=Ready --timeout=120s -n {pod}")
        mesh.settles(GET, SERVED)
        yield mesh
    finally:
        assert tulle("down").code == 0


def address(mesh: Mesh, namespace: str, pod: str) -> str:
    return mesh.ok(f"kubectl get pod -n {namespace} {pod} -o jsonpath={{.status.podIP}}")


def test_each_node_has_proxies_of_its_own(nodes: Mesh) -> None:
    status = tulle("status")
    assert status.code == 0, status.output
    assert "node1, node2" in status.output
    for owner in ("ztunnel", "istio-cni-node"):
        label = "app=ztunnel" if owner == "ztunnel" else "k8s-app=istio-cni-node"
        where = nodes.ok(f"kubectl get pods -n istio-system -l {label} -o jsonpath={{.items[*].spec.nodeName}}")
        assert sorted(where.split()) == ["node1", "node2"]


def test_services_and_names_lead_to_the_other_node(nodes: Mesh) -> None:
    assert address(nodes, "here", "client").startswith("10.244.1.")
    assert address(nodes, "there", "web").startswith("10.244.2.")
    nodes.settles(PLAIN, SERVED)


def test_only_tls_1_3_on_port_15008_crosses_between_the_nodes(nodes: Mesh, tmp_path: Path) -> None:
    source, server = address(nodes, "here", "client"), address(nodes, "there", "web")
    file = tmp_path / "between.pcap"
    nodes.ok("kubectl delete pod -n istio-system -l app=ztunnel --timeout=120s")  # so that connections are opened anew
    nodes.ok("kubectl rollout status -n istio-system daemonset/ztunnel --timeout=120s")
    with capture.capturing("node2", file, f"tcp and host {source} and host {server}"):
        nodes.settles(GET, SERVED)
    found = capture.segments(file)
    assert found, "nothing was captured"
    assert {end[1] for s in found for end in (s.source, s.destination) if end[0] == server} == {15008}
    assert {version for s in found if (version := capture.negotiated(s.payload)) is not None} == {capture.TLS13}
    wire = b"".join(segment.payload for segment in found)
    for plain in (SECRET, "GET /hello", "Hello version", "CONNECT"):
        assert plain.encode() not in wire


def test_the_far_node_sees_the_identity_of_the_client(nodes: Mesh) -> None:
    nodes.ok(GET)
    server = address(nodes, "there", "web")

    def entries() -> list[dict[str, object]]:
        log = nodes.ok("kubectl logs -n istio-system -l app=ztunnel --tail=-1")
        found = [json.loads(line) for line in log.splitlines() if line.startswith("{") and '"direction"' in line]
        return [e for e in found if e["direction"] == "inbound" and e["dst.addr"] == f"{server}:15008"]

    until(lambda: nodes.run(GET), lambda _: bool(entries()), "an access log entry of the far side")
    assert {entry["src.identity"] for entry in entries()} == {"spiffe://cluster.local/ns/here/sa/default"}


def test_strict_refuses_plain_text_from_the_other_node(nodes: Mesh) -> None:
    assert nodes.apply(STRICT).code == 0
    nodes.settles(PLAIN, REFUSED)
    nodes.settles(GET, SERVED)
    nodes.ok("kubectl delete peerauthentication -n istio-system default")
    nodes.settles(PLAIN, SERVED)


def test_an_l4_policy_holds_for_the_other_node(nodes: Mesh) -> None:
    assert nodes.apply(ONLY.format(principal="cluster.local/ns/here/sa/somebody")).code == 0
    nodes.settles(GET, REFUSED)
    assert nodes.apply(ONLY.format(principal="cluster.local/ns/here/sa/default")).code == 0
    nodes.settles(GET, SERVED)
    nodes.settles(PLAIN, REFUSED)
    nodes.ok("kubectl delete authorizationpolicy -n there only")


def test_down_after_a_crash_takes_both_nodes_away() -> None:
    tulle("down")
    before = command("ip", "-br", "link").output, command("ip", "netns", "list").output
    assert tulle("up", "--nodes", "2", "--no-kubeconfig").code == 0
    pids = dict(supervisor.pids(STATE))
    assert {"node1", "node2"} <= set(pids)
    for pid in (pids.pop("supervisor"), *pids.values()):
        os.kill(pid, signal.SIGKILL)
    assert tulle("down").code == 0
    assert (command("ip", "-br", "link").output, command("ip", "netns", "list").output) == before
