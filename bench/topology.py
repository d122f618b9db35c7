"""The paths between a client and a server that the data plane's measurement compares, on one mesh of two nodes.

Every path starts and ends in pods of the same embedded cluster, so that bridge, Service addresses and connection tracking are the
same; they differ in what lies between. The servers are haproxy (it answers by itself, from one thread) and iperf3; the other way
of having mutual TLS, a pair of haproxy, runs beside pods outside the mesh.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from bench.mesh import BIN, Mesh, Pod, run
from tulle.kube.client import Client
from tulle.kube.resources import AUTHORIZATION_POLICIES

HTTP, HTTP2, BYTES = 8080, 8081, 5201
TUNNEL = {HTTP: 15443, HTTP2: 15444, BYTES: 15445}
_THREADS = 2
_AT_ONCE = 32


@dataclass(frozen=True)
class Route:
    """One path: the pod that the load starts in, and the address that it is sent to."""

    name: str
    about: str
    client: Pod
    target: str


@dataclass
class Topology:
    """The paths, and the processes that are no part of the mesh, by what they are for."""

    paths: list[Route] = field(default_factory=list)
    pids: dict[str, list[int]] = field(default_factory=dict)


def _pod(namespace: str, name: str, node: str) -> str:
    return f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  terminationGracePeriodSeconds: 0
  containers: [{{name: hold, image: busybox, command: [sleep, infinity]}}]
"""


def _service(namespace: str, name: str, http: bool) -> str:
    names = ("http", "http2", "tcp") if http else ("tcp-http", "tcp-http2", "tcp-bytes")
    ports = ", ".join(f"{{name: {n}, port: {p}}}" for n, p in zip(names, (HTTP, HTTP2, BYTES), strict=True))
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}}}
spec: {{selector: {{app: {name}}}, ports: [{ports}]}}
"""


def _namespace(name: str, captured: bool) -> str:
    labels = "{istio.io/dataplane-mode: ambient}" if captured else "{}"
    return f"apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {labels}}}\n"


@contextmanager
def paths(mesh: Mesh, policies: Sequence[int], *, two_nodes: bool = True, tunnel: bool = True) -> Iterator[Topology]:
    """Make pods, servers and waypoints on a running mesh; the servers end with the context.

    `policies`: for each number a path through a waypoint with so many policies.
    """
    made = Topology()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tulle-bench-")))
        plain = _place(mesh, "plain", captured=False, two_nodes=two_nodes)
        inside = _place(mesh, "inside", captured=True, two_nodes=two_nodes)
        for pods in (plain, inside):
            for name in pods.keys() - {"client"}:
                stack.enter_context(_serving(made, pods[name], folder))
        client, outside = inside["client"], plain["client"]
        made.paths.append(Route("direct", "no mesh", outside, _address(mesh, "plain", "near")))
        if tunnel:
            stack.enter_context(_tunnel(made, outside, plain["near"], folder))
            made.paths.append(Route("haproxy", "a pair of haproxy with mutual TLS", outside, "127.0.0.1"))
        made.paths.append(Route("l4", "Tulle, ztunnel only, same node", client, _address(mesh, "inside", "near")))
        if two_nodes:
            made.paths.append(Route("direct2", "no mesh, two nodes", outside, _address(mesh, "plain", "far")))
            about = "Tulle, ztunnel only, two nodes"
            made.paths.append(Route("l4-2", about, client, _address(mesh, "inside", "far")))
        for number in policies:
            namespace = f"waypoint-{number}"
            server = _waypoint(mesh, namespace, number)
            stack.enter_context(_serving(made, server, folder))
            about = f"Tulle, ztunnel and waypoint, {number or 'no'} policies"
            made.paths.append(Route(f"waypoint-{number}", about, client, _address(mesh, namespace, "near")))
        yield made


def _place(mesh: Mesh, namespace: str, *, captured: bool, two_nodes: bool) -> Mapping[str, Pod]:
    """A client and a near server on the first node, a far server on the second."""
    where = {"client": "node1", "near": "node1", **({"far": "node2"} if two_nodes else {})}
    mesh.apply(_namespace(namespace, captured))
    pods = [_pod(namespace, name, node) for name, node in where.items()]
    services = [_service(namespace, name, http=False) for name in where if name != "client"]
    mesh.apply("---".join((*pods, *services)))
    mesh.ready(namespace, "pod", "--all")
    return {name: mesh.pod(namespace, name) for name in where}


def _waypoint(mesh: Mesh, namespace: str, policies: int) -> Pod:
    mesh.apply(_namespace(namespace, captured=True))
    mesh.apply("---".join((_pod(namespace, "near", "node1"), _service(namespace, "near", http=True))))
    command = (str(BIN / "istioctl"), "waypoint", "apply", "-n", namespace, "--enroll-namespace", "--wait")
    run(command, mesh.environment)
    mesh.ready(namespace, "pod", "--all")
    if policies:
        asyncio.run(apply_policies(mesh, namespace, policies))
    return mesh.pod(namespace, "near")


async def apply_policies(mesh: Mesh, namespace: str, number: int) -> None:
    """So many ALLOW policies on the Service `near`; the last of them allows the client, and none of the others does."""
    gate = asyncio.Semaphore(_AT_ONCE)
    async with Client.from_kubeconfig(str(mesh.state / "kubeconfig")) as client:

        async def one(index: int) -> None:
            account = "default" if index == number - 1 else f"app-{index}"
            rule = {
                "from": [{"source": {"principals": [f"cluster.local/ns/inside/sa/{account}"]}}],
                "to": [{"operation": {"methods": ["GET"], "paths": [f"/v{index}/*", "/", "/ok"]}}],
            }
            # A rule about methods allows no bytes, so those are allowed by port.
            plain = {**rule, "to": [{"operation": {"ports": [str(BYTES)]}}]}
            spec = {"targetRefs": [{"kind": "Service", "group": "", "name": "near"}], "rules": [rule, plain]}
            body = {"metadata": {"name": f"p{index}", "namespace": namespace}, "spec": spec}
            async with gate:
                await client.create(AUTHORIZATION_POLICIES, body, namespace)

        await asyncio.gather(*map(one, range(number)))


def _address(mesh: Mesh, namespace: str, service: str) -> str:
    return str(mesh.get("service", "-n", namespace, service)["spec"]["clusterIP"])


_DEFAULTS = """
global
  nbthread {threads}
  maxconn 8000
defaults
  timeout connect 5s
  timeout client 60s
  timeout server 60s
"""
_APP = """
frontend http
  mode http
  bind :{http}
  bind :{http2} proto h2
  http-request return status 200 content-type text/plain string ok
"""


@contextmanager
def _serving(made: Topology, pod: Pod, folder: Path) -> Iterator[None]:
    """An HTTP server and a byte sink in the pod's network."""
    config = folder / f"{pod.namespace}-{pod.name}.cfg"
    config.write_text(_DEFAULTS.format(threads=1) + _APP.format(http=HTTP, http2=HTTP2))
    with (
        _process(made, "server", pod, "haproxy", "-db", "-f", str(config)),
        _process(made, "server", pod, "iperf3", "-s"),
    ):
        yield


@contextmanager
def _tunnel(made: Topology, client: Pod, server: Pod, folder: Path) -> Iterator[None]:
    """haproxy on both sides, with mutual TLS 1.3 between them."""
    certificates(folder)
    tls = f"crt {folder}/peer.pem ca-file {folder}/ca.pem verify required ssl-min-ver TLSv1.3"
    head = _DEFAULTS.format(threads=_THREADS)
    near = "".join(
        f"listen l{port}\n  mode tcp\n  bind 127.0.0.1:{port}\n  server s {server.address}:{TUNNEL[port]} ssl {tls}\n"
        for port in TUNNEL
    )
    far = "".join(
        f"listen l{port}\n  mode tcp\n  bind :{TUNNEL[port]} ssl {tls}\n  server s 127.0.0.1:{port}\n"
        for port in TUNNEL
    )
    (folder / "near.cfg").write_text(head + near)
    (folder / "far.cfg").write_text(head + far)
    with (
        _process(made, "haproxy", server, "haproxy", "-db", "-f", f"{folder}/far.cfg"),
        _process(made, "haproxy", client, "haproxy", "-db", "-f", f"{folder}/near.cfg"),
    ):
        yield


@contextmanager
def _process(made: Topology, role: str, pod: Pod, *command: str) -> Iterator[None]:
    process = subprocess.Popen(
        pod.command(*command), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    made.pids.setdefault(role, []).append(process.pid)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def certificates(folder: Path) -> None:
    """A CA (`ca.pem`) and a peer of it with its key (`peer.pem`), on P-256 as the mesh's."""
    now = datetime.datetime.now(datetime.UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name, name = (x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("bench ca", "peer"))

    def issue(subject: x509.Name, public: ec.EllipticCurvePublicKey, *, authority: bool) -> x509.Certificate:
        builder = x509.CertificateBuilder(ca_name, subject, public, x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        return builder.sign(ca_key, hashes.SHA256())

    ca = issue(ca_name, ca_key.public_key(), authority=True)
    peer = issue(name, key.public_key(), authority=False)
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "ca.pem").write_bytes(ca.public_bytes(pem))
    (folder / "peer.pem").write_bytes(peer.public_bytes(pem) + secret)


def replace_ztunnel(mesh: Mesh, binary: Path, nodes: int) -> None:
    """Run another program as the mesh's ztunnel: the same DaemonSet, token and istiod. Raises MeshError when it is not ready."""
    for index in range(1, nodes + 1):
        place = mesh.state / "nodes" / f"node{index}" / "fs" / "opt" / "bench"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy2(binary, place / "ztunnel")
    container = "/spec/template/spec/containers/0"
    settings = {
        "CLUSTER_ID": "Kubernetes",
        "INPOD_ENABLED": "true",
        "ISTIO_META_DNS_PROXY_ADDR": "127.0.0.1:15053",
        "RUST_LOG": "warn",
        "XDS_ROOT_CA": "/var/run/secrets/istio/root-cert.pem",
        "CA_ROOT_CA": "/var/run/secrets/istio/root-cert.pem",
    }
    patch = [
        {"op": "replace", "path": f"{container}/command", "value": ["/opt/bench/ztunnel", "proxy", "ztunnel"]},
        {"op": "add", "path": f"{container}/volumeMounts/-", "value": {"name": "bench", "mountPath": "/opt/bench"}},
        {
            "op": "add",
            "path": "/spec/template/spec/volumes/-",
            "value": {"name": "bench", "hostPath": {"path": "/opt/bench"}},
        },
        *({"op": "add", "path": f"{container}/env/-", "value": {"name": k, "value": v}} for k, v in settings.items()),
    ]
    mesh.kubectl("patch", "-n", "istio-system", "daemonset", "ztunnel", "--type=json", "-p", json.dumps(patch))
    mesh.kubectl("rollout", "status", "-n", "istio-system", "daemonset/ztunnel", "--timeout=60s")
