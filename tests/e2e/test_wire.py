"""What crosses the wire between two captured pods: TLS 1.3 on port 15008 between SPIFFE identities, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e import capture
from tests.e2e.mesh import NODE_NETNS as NODE
from tests.e2e.mesh import Mesh, command
from tulle.cli.lesson import FROM_TEST, OK, Outcome

SECRET = "a-secret-of-the-request"
GET = f"kubectl exec -n test curl -- curl -s -H x-secret:{SECRET} http://helloworld.hello:5000/hello?{SECRET}"

HOST, ADDRESS = "hello.example.com", "240.240.1.2"
ENTRY = f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: hello, namespace: hello}}
spec:
  hosts: [{HOST}]
  addresses: [{ADDRESS}]
  ports: [{{number: 80, name: http}}]
  resolution: DNS
  endpoints: [{{address: helloworld.hello.svc.cluster.local, ports: {{http: 5000}}}}]
"""


@pytest.fixture(scope="module")
def lesson(mesh: Mesh) -> Mesh:
    mesh.ok("kubectl create namespace test && kubectl create namespace hello")
    mesh.ok("kubectl label namespace test hello istio.io/dataplane-mode=ambient")
    mesh.ok("kubectl run curl --image=curlimages/curl -n test --restart=Never --command -- sleep infinity")
    mesh.ok("kubectl apply -f helloworld.yaml -n hello")
    mesh.ok("kubectl wait -n hello deployment --all --for=condition=Available --timeout=120s")
    mesh.ok("kubectl wait -n test pod/curl --for=condition=Ready --timeout=120s")
    mesh.settles(FROM_TEST, OK)
    return mesh


def test_only_tls_1_3_on_port_15008_crosses_the_bridge(lesson: Mesh, tmp_path: Path) -> None:
    client = lesson.ok("kubectl get pod -n test curl -o jsonpath={.status.podIP}")
    servers = lesson.ok("kubectl get pod -n hello -l app=helloworld -o jsonpath={.items[*].status.podIP}").split()
    file = tmp_path / "bridge.pcap"
    between = f"tcp and host {client} and (host {servers[0]} or host {servers[1]})"
    lesson.ok("kubectl delete pod -n istio-system -l app=ztunnel --timeout=120s")  # so that connections are opened anew
    lesson.ok("kubectl rollout status -n istio-system daemonset/ztunnel --timeout=120s")
    with capture.capturing("tulle-br0", file, between):
        lesson.settles(GET, Outcome(0, "Hello version"))
        for _ in range(5):
            assert "Hello version" in lesson.ok(GET)

    found = capture.segments(file)
    assert found, "nothing was captured"
    ports = {end[1] for segment in found for end in (segment.source, segment.destination) if end[0] in servers}
    assert ports == {15008}
    versions = {version for s in found if (version := capture.negotiated(s.payload)) is not None}
    assert versions == {capture.TLS13}
    wire = b"".join(segment.payload for segment in found)
    for plain in (SECRET, "GET /hello", "Hello version", "helloworld.hello", "CONNECT"):
        assert plain.encode() not in wire


def test_both_sides_are_known_by_their_spiffe_identity(lesson: Mesh) -> None:
    lesson.ok(GET)
    log = lesson.settles("kubectl logs -n istio-system -l app=ztunnel --tail=-1", Outcome(0, '"inbound"')).output
    entries = [json.loads(line) for line in log.splitlines() if line.startswith("{") and '"src.identity"' in line]
    inbound = [entry for entry in entries if entry.get("direction") == "inbound"]
    assert inbound, log[-2000:]
    assert {entry["src.identity"] for entry in inbound} == {"spiffe://cluster.local/ns/test/sa/default"}
    assert {entry["dst.identity"] for entry in inbound} == {"spiffe://cluster.local/ns/hello/sa/default"}


def test_a_host_of_a_service_entry_is_known_to_captured_pods_only(lesson: Mesh) -> None:
    (lesson.folder / "entry.yaml").write_text(ENTRY)
    lesson.ok("kubectl apply -f entry.yaml")
    lesson.settles(f"kubectl exec -n test curl -- curl -s http://{HOST}/hello", Outcome(0, "Hello version"))
    lesson.ok("kubectl run outside --image=curlimages/curl --restart=Never --command -- sleep infinity")
    lesson.settles(f"kubectl exec -n test curl -- nslookup {HOST}", Outcome(0, ADDRESS))
    lesson.ok("kubectl wait pod/outside --for=condition=Ready --timeout=120s")
    assert ADDRESS not in lesson.run(f"kubectl exec outside -- timeout 2 nslookup {HOST}").output


def test_the_server_presents_its_svid_and_asks_for_one(lesson: Mesh) -> None:
    pod = lesson.ok("kubectl get pod -n hello -l version=v1 -o jsonpath={.items[0].status.podIP}")
    openssl = f"openssl s_client -connect {pod}:15008 -alpn h2 -tls1_3 -showcerts </dev/null"
    seen = command(
        "ip", "netns", "exec", NODE, "bash", "-c", f"{openssl} 2>&1; {openssl} 2>/dev/null | openssl x509 -noout -text"
    )
    assert "URI:spiffe://cluster.local/ns/hello/sa/default" in seen.output
    assert (
        "certificate required" in seen.output
        or "tlsv13 alert" in seen.output
        or "Acceptable client certificate" in seen.output
    )
    older = command(
        "ip", "netns", "exec", NODE, "bash", "-c", f"openssl s_client -connect {pod}:15008 -tls1_2 </dev/null 2>&1"
    )
    assert older.code != 0
