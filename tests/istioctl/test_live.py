"""istioctl against a running mesh: what is shown comes from the proxies themselves."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator

import pytest

from tests.e2e.mesh import STATE, Mesh
from tests.support.live_mesh import populate, running
from tulle.cli import lab
from tulle.cli.lesson import Outcome

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    with running(tmp_path_factory.mktemp("istioctl")) as made:
        populate(made)
        made.ok("kubectl apply -f global-pa.yaml")
        made.ok("istioctl waypoint apply -n hello --enroll-namespace --wait")
        made.settles("istioctl pc cluster deployment/waypoint.hello", Outcome(0, "5000"))
        yield made


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, header included."""
    return [re.split(r"\s{2,}|(?<=\S) (?=\S)", line.rstrip()) for line in text.splitlines()]


def test_workloads(mesh: Mesh) -> None:
    text = mesh.ok("istioctl zc w --workload-namespace hello")
    assert rows(text)[0] == ["NAMESPACE", "POD", "NAME", "ADDRESS", "NODE", "WAYPOINT", "PROTOCOL"]
    for version in ("v1", "v2"):
        assert re.search(rf"^hello +helloworld-{version}-\S+ +10\.244\.\S+ +node1 +None +HBONE$", text, re.M), text
    assert re.search(r"^hello +waypoint-\S+ +10\.244\.\S+ +node1 +None +TCP$", text, re.M), text
    address = mesh.ok("kubectl get pod -n test curl -o jsonpath={.status.podIP}")
    (found,) = json.loads(mesh.ok(f"istioctl ztunnel-config workloads --address {address} -o json"))
    assert (found["name"], found["namespace"]) == ("curl", "test")


def test_services(mesh: Mesh) -> None:
    text = mesh.ok("istioctl zc services --service-namespace hello --node node1")
    assert re.search(r"^hello +helloworld +10\.96\.\S+ +waypoint +2/2$", text, re.M), text
    assert re.search(r"^hello +waypoint +10\.96\.\S+ +None +1/1$", text, re.M), text


def test_policies_and_certificates(mesh: Mesh) -> None:
    policies = mesh.ok("istioctl zc policy")
    assert re.search(r"^istio-system +istio_converted_static_strict +Deny +WorkloadSelector$", policies, re.M), policies
    certificates = mesh.ok("istioctl zc cert")
    for identity in ("hello/sa/default", "test/sa/default"):
        for kind in ("Leaf", "Root"):
            wanted = rf"^spiffe://cluster\.local/ns/{identity} +{kind} +Available +true +[0-9a-f]+ +\S+Z +\S+Z$"
            assert re.search(wanted, certificates, re.M), certificates


def test_open_connections(mesh: Mesh) -> None:
    held = "kubectl exec -n test curl -- sh -c '(sleep 30) | curl -s -m 30 telnet://helloworld.hello:5000'"
    with subprocess.Popen(
        shlex.split(held), env=lab.environment(STATE / "kubeconfig"), stderr=subprocess.DEVNULL
    ) as process:
        try:
            shown = mesh.settles(
                "istioctl zc connections --workload-namespace test", Outcome(0, "curl.test Outbound")
            ).output
        finally:
            process.kill()
    ends = r"^curl\.test +Outbound +curl\.test:\d+ +waypoint-\S+\.hello:15008 +helloworld\.hello\.svc\.cluster\.local:5000 +HBONE$"
    assert re.search(ends, shown, re.M), shown


def test_everything_at_once(mesh: Mesh) -> None:
    titles = re.findall(r"^------ (.*) ------$", mesh.ok("istioctl zc all --with-headers"), re.M)
    assert titles == ["WORKLOAD INFO", "SERVICE INFO", "POLICY INFO", "SECRET INFO", "CONNECTIONS INFO"]
    dump = mesh.ok("istioctl zc all -o json")
    (mesh.folder / "dump.json").write_text(dump)
    assert mesh.ok("istioctl zc w --file dump.json") == mesh.ok("istioctl zc w")


def test_a_named_pod(mesh: Mesh) -> None:
    name = mesh.ok("kubectl get pod -n istio-system -l app=ztunnel -o jsonpath={.items[0].metadata.name}")
    for reference in (name, f"{name}.istio-system", f"pod/{name}", "daemonset/ztunnel", "ds/ztunnel.istio-system"):
        assert "helloworld" in mesh.ok(f"istioctl zc s {reference}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("zc w nobody", "pod istio-system/nobody does not exist; name it as NAME.NAMESPACE, or add -n"),
        ("zc w curl.test", "pod test/curl is no ztunnel pod"),
        ("zc w --node other", "no ztunnel pod runs in namespace istio-system on node other"),
        ("zc w -i nowhere", "no ztunnel pod runs in namespace nowhere; -i names another namespace"),
        ("zc w --proxy-admin-port 1", "failed to connect to localhost:1 inside the pod: Connection refused"),
        ("pc l daemonset/ztunnel.istio-system", "is a ztunnel, which has istioctl ztunnel-config all"),
        ("pc l thing/x", "'thing' is not a type of which pods can be found"),
        ("ps nobody", "no proxy 'nobody' is connected to istiod"),
        ("x describe pod nobody.test", "pod test/nobody does not exist"),
    ],
)
def test_refusals(mesh: Mesh, line: str, message: str) -> None:
    result = mesh.run(f"istioctl {line}")
    assert result.code == 1
    assert message in result.output


def test_proxy_status(mesh: Mesh) -> None:
    text = mesh.settles("istioctl proxy-status", Outcome(0, "(CDS,LDS,EDS,RDS")).output
    assert re.search(r"^ztunnel-\S+\.istio-system +Kubernetes +istiod-\S+ +\S+ +2 \(WADS,WDS\)$", text, re.M), text
    assert re.search(r"^waypoint-\S+\.hello +Kubernetes +istiod-\S+ +\S+ +\d \(CDS,LDS,EDS,RDS", text, re.M), text
    verbose = mesh.ok("istioctl ps -v 1")
    header, *proxies = verbose.splitlines()
    assert header.split()[:6] == ["NAME", "CLUSTER", "CDS", "LDS", "EDS", "RDS"]
    assert all("SYNCED" in line for line in proxies)
    waypoint = proxies[0].split()[0] if proxies[0].startswith("waypoint") else proxies[1].split()[0]
    compared = mesh.settles(f"istioctl ps {waypoint}", Outcome(0, "Clusters Match")).output
    assert "Listeners Match" in compared
    assert "Routes Match (RDS last loaded at 2" in compared
    (only,) = json.loads(mesh.ok(f"istioctl ps {waypoint} -o json"))
    assert (only["proxy"], only["cluster_sent"]) == (waypoint, only["cluster_acked"])


def test_proxy_config(mesh: Mesh) -> None:
    waypoint = "deployment/waypoint.hello"
    listeners = mesh.ok(f"istioctl pc listener {waypoint}")
    assert re.search(r"^connect_terminate +0\.0\.0\.0 +15008 +ALL +Route: connect_terminate$", listeners, re.M), (
        listeners
    )
    vip = mesh.ok("kubectl get svc -n hello helloworld -o jsonpath={.spec.clusterIP}")
    assert f"Addr: {vip}:5000" in listeners
    assert re.search(r" 5000 +- +\S+ +EDS", mesh.ok(f"istioctl pc cluster {waypoint}"))
    pods = mesh.ok("kubectl get pod -n hello -l app=helloworld -o jsonpath={.items[*].status.podIP}").split()
    endpoints = mesh.ok(f"istioctl pc endpoint {waypoint}")
    assert all(re.search(rf"{re.escape(address)}:5000 +HEALTHY", endpoints) for address in pods), endpoints
    assert "connect_terminate" in mesh.ok(f"istioctl pc route -n hello {waypoint.removesuffix('.hello')}")
    secrets = mesh.ok(f"istioctl pc secret {waypoint}")
    wanted = r"^spiffe://cluster\.local/ns/hello/sa/waypoint +Cert Chain +ACTIVE +true "
    assert re.search(wanted, secrets, re.M), secrets
    everything = mesh.ok(f"istioctl pc all {waypoint} -o json")
    assert "PRIVATE KEY" not in everything
    assert "waypoint" in json.loads(everything)["configs"][0]["bootstrap"]["node"]["id"]
    assert "JwtAuthentication" in mesh.ok(f"istioctl pc ecds {waypoint}")
    levels = mesh.ok(f"istioctl pc log {waypoint} --level rbac:debug")
    assert re.search(r"^ *rbac: debug$", levels, re.M), levels


OUTSIDE = """
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: hello}
spec:
  hosts: [api.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]
  resolution: DNS
  endpoints: [{address: istiod.istio-system.svc.cluster.local, ports: {http: 15014, tls: 15014}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: api, namespace: hello}
spec:
  targetRefs: [{group: networking.istio.io, kind: ServiceEntry, name: api}]
  rules:
  - from: [{source: {principals: [cluster.local/ns/test/sa/default]}}]
    to: [{operation: {methods: [GET], paths: [/version]}}]
  - from: [{source: {principals: [cluster.local/ns/test/sa/default]}}]
    to: [{operation: {ports: ["443"]}}]
"""


def test_a_host_outside_of_the_mesh_through_the_waypoint(mesh: Mesh) -> None:
    """Captured pod, ztunnel's DNS proxy, ztunnel, waypoint, and in plaintext to where a name leads that the waypoint looks up."""
    assert mesh.apply(OUTSIDE).code == 0
    curl = "kubectl exec -n test curl -- curl -s -o /dev/null -o /dev/null -w %{http_code}"
    try:
        mesh.settles(f"{curl} http://api.example.com/version", Outcome(0, "200"))
        assert mesh.ok(f"{curl} -X DELETE http://api.example.com/version") == "403"
        read, passed_on = "http://api.example.com/metrics", "http://api.example.com:443/metrics"
        assert mesh.ok(f"{curl} {read} {passed_on}") == "403200", "bytes on port 443 are not read"
        clusters = mesh.ok("istioctl pc cluster deployment/waypoint.hello --fqdn ServiceEntry/hello/api.example.com")
        assert re.findall(r" (\d+) +- +- +(\S+) *$", clusters, re.M) == [("443", "STRICT_DNS"), ("80", "STRICT_DNS")]
        istiod = mesh.ok("kubectl get service -n istio-system istiod -o jsonpath={.spec.clusterIP}")
        endpoints = mesh.ok("istioctl pc endpoint deployment/waypoint.hello")
        assert re.search(rf"^{istiod}:15014 +HEALTHY +OK +ServiceEntry/hello/api.example.com.80$", endpoints, re.M)
        found = json.loads(mesh.ok("tulle explain -o json -n test pod/curl GET http://api.example.com/version"))
        assert found["sees"]["code"] == "200"
        nowhere = """[{"op": "replace", "path": "/spec/endpoints", "value": [{"address": "nowhere.hello.svc.cluster.local"}]}]"""
        mesh.ok(f"kubectl patch serviceentry -n hello api --type=json -p '{nowhere}'")
        mesh.settles(f"{curl} http://api.example.com/version", Outcome(0, "503"))
        named = Outcome(0, '"upstream_names":"nowhere.hello.svc.cluster.local:80"')
        assert (
            '"response_flags":"UH"' in mesh.settles("kubectl logs -n hello deployment/waypoint --tail=5", named).output
        )
    finally:
        mesh.ok("kubectl delete -n hello serviceentry/api authorizationpolicy/api --wait=false")


def test_describe(mesh: Mesh) -> None:
    pod = mesh.ok("kubectl get pod -n hello -l version=v1 -o jsonpath={.items[0].metadata.name}")
    text = mesh.ok(f"istioctl x describe pod {pod}.hello")
    for line in (
        f"Pod: {pod}",
        "   Captured by the ztunnel of node node1, as cluster.local/ns/hello/sa/default",
        "Service: helloworld",
        "   Port: http 5000/HTTP targets pod port 5000",
        "   Waypoint: hello/waypoint",
        "   Workload mTLS mode: STRICT",
        "   default.istio-system",
    ):
        assert line in text.splitlines(), text
    service = mesh.ok("istioctl experimental describe service helloworld -n hello")
    assert "   Endpoints: 2, of which 2 healthy and 2 captured" in service.splitlines()


def test_version(mesh: Mesh) -> None:
    assert [line.split(":")[0] for line in mesh.ok("istioctl version").splitlines()] == [
        "client version",
        "control plane version",
        "data plane version",
    ]
    assert mesh.ok("istioctl version --remote=false").startswith("client version: ")
    assert len(mesh.ok("istioctl version --remote=false").splitlines()) == 1


def test_the_istiod_page_is_for_the_loopback_only(mesh: Mesh) -> None:
    address = mesh.ok("kubectl get pod -n istio-system -l app=istiod -o jsonpath={.items[0].status.podIP}")
    answer = mesh.ok(f"kubectl exec -n test curl -- curl -s -o /dev/null -w %{{http_code}} {address}:15014/debug/syncz")
    assert answer.strip() == "403"
