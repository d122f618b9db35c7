"""The cluster that cases are drawn in: every sort of client, of server and of way between them, once.

Namespace `canary` holds what tells when a round's objects are in force everywhere: a pod and two Services, one at each waypoint, whose
policies let through what names the round and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

AMBIENT = {"istio.io/dataplane-mode": "ambient"}
HTTP, OPAQUE, UNNAMED, UNDECLARED = 8080, 9090, 7070, 6060
"""Ports of every server pod; its Services declare them http, tcp, without saying what they carry, and not at all."""
AUTHORIZERS = {"yes": (9201, 200), "no": (9202, 403)}
"""External authorizers, by what they answer: port and status."""
ROUNDS = 500
FIRST_ROUND_PORT = 20000
"""The canary answers on one port for each of so many rounds."""
CLIENTS = ("one/alice", "one/default", "two/default", "legacy/default")
PLAIN = "legacy/default"
_LABEL = "istio.io/use-waypoint"


def providers() -> list[dict[str, Any]]:
    """The authorizers as the mesh configuration has them."""
    host = "authorizer.legacy.svc.cluster.local"
    return [
        {"name": name, "envoyExtAuthzHttp": {"service": host, "port": port, "timeout": "5s"}}
        for name, (port, _) in AUTHORIZERS.items()
    ]


def manifests() -> str:
    """Everything, as YAML."""
    return yaml.safe_dump_all(_objects(), sort_keys=False)


def _objects() -> Iterator[dict[str, Any]]:
    for name in ("app", "one", "two", "canary"):
        yield _object("Namespace", name, labels=AMBIENT)
    yield _object("Namespace", "lab", labels={**AMBIENT, "istio.io/waypoint": "enabled"})
    yield _object("Namespace", "legacy")
    yield _object("ServiceAccount", "alice", "one")
    for client in CLIENTS:
        namespace, account = client.split("/")
        idle = {"image": "curlimages/curl", "command": ["sleep", "infinity"]}
        yield _pod(f"curl-{account}", namespace, {"app": "curl"}, idle, account)
    yield from _server("web", "app", {_LABEL: "waypoint"})
    yield from _server("plain", "app", {})
    yield from _server("bound", "app", {}, pod_labels={_LABEL: "waypoint"})
    yield from _server("web", "lab", {})
    yield from _server("old", "legacy", {})
    verdicts = [f"{port}={status}" for port, status in AUTHORIZERS.values()]
    yield _serving("authorizer", "legacy", {"app": "authorizer"}, verdicts)
    yield {
        **_object("Service", "authorizer", "legacy"),
        "spec": {
            "selector": {"app": "authorizer"},
            "ports": [{"name": f"http-{name}", "port": port} for name, (port, _) in AUTHORIZERS.items()],
        },
    }
    yield _service("headless", "app", "web", {}, clusterIP="None")
    yield _service("empty", "app", "nothing", {})
    yield _gateway("app", "all")
    yield _gateway("lab", "service")
    ports = [FIRST_ROUND_PORT + number for number in range(ROUNDS)]
    yield _serving("canary", "canary", {"app": "canary"}, [HTTP, *ports])
    for home in ("app", "lab"):
        labels = {_LABEL: "waypoint", "istio.io/use-waypoint-namespace": home}
        yield _service(f"at-{home}", "canary", "canary", labels)


def _object(kind: str, name: str, namespace: str = "", **meta: Any) -> dict[str, Any]:
    versions = {"Gateway": "gateway.networking.k8s.io/v1"}
    place = {"namespace": namespace} if namespace else {}
    return {"apiVersion": versions.get(kind, "v1"), "kind": kind, "metadata": {"name": name, **place, **meta}}


def _pod(
    name: str, namespace: str, labels: Mapping[str, str], container: Mapping[str, Any], account: str = "default"
) -> dict[str, Any]:
    spec = {
        "serviceAccountName": account,
        "terminationGracePeriodSeconds": 0,
        "restartPolicy": "Never",
        "containers": [{"name": "main", **container}],
    }
    return {**_object("Pod", name, namespace, labels=dict(labels)), "spec": spec}


def _serving(name: str, namespace: str, labels: Mapping[str, str], ports: Sequence[int | str]) -> dict[str, Any]:
    program = Path(__file__).with_name("app.py").read_text(encoding="utf-8")
    command = ["python", "-S", "-c", program, *map(str, ports)]
    return _pod(name, namespace, labels, {"image": "mccutchen/go-httpbin", "command": command})


def _server(
    name: str, namespace: str, labels: Mapping[str, str], pod_labels: Mapping[str, str] | None = None
) -> Iterator[dict[str, Any]]:
    own = {"app": name, "tier": "back" if name == "plain" else "front", **(pod_labels or {})}
    yield _serving(name, namespace, own, [HTTP, OPAQUE, UNNAMED, UNDECLARED])
    yield _service(name, namespace, name, labels)


def _service(name: str, namespace: str, app: str, labels: Mapping[str, str], **more: Any) -> dict[str, Any]:
    ports = [("http", 80, HTTP), ("tcp", 9000, OPAQUE), ("misc", 7000, UNNAMED)]
    spec = {
        "selector": {"app": app},
        "ports": [{"name": one, "port": port, "targetPort": target} for one, port, target in ports],
        **more,
    }
    return {**_object("Service", name, namespace, labels=dict(labels)), "spec": spec}


def _gateway(namespace: str, serves: str) -> dict[str, Any]:
    listener = {
        "name": "mesh",
        "port": 15008,
        "protocol": "HBONE",
        "allowedRoutes": {"namespaces": {"from": "All"}},
    }
    spec = {"gatewayClassName": "istio-waypoint", "listeners": [listener]}
    return {**_object("Gateway", "waypoint", namespace, labels={"istio.io/waypoint-for": serves}), "spec": spec}


@dataclass(frozen=True)
class Canary:
    """What a client asks to learn that a round's objects are in force, and the objects that make it so."""

    round: int

    @property
    def port(self) -> int:
        return FIRST_ROUND_PORT + self.round

    @property
    def alias(self) -> str:
        """A trust domain alias of this round's mesh configuration, which waypoints expand principals to."""
        return f"round-{self.round}.example"

    def policies(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Kind, name and spec of the objects in namespace `canary`."""
        selector = {"matchLabels": {"app": "canary"}}
        ports = {"rules": [{"to": [{"operation": {"ports": [str(self.port), str(HTTP)]}}]}]}
        yield "AuthorizationPolicy", "ports", {"selector": selector, **ports}
        modes = {self.port: {"mode": "PERMISSIVE"}}
        yield (
            "PeerAuthentication",
            "ports",
            {"selector": selector, "mtls": {"mode": "STRICT"}, "portLevelMtls": modes},
        )
        principals = [f"{self.alias}/ns/{one.split('/')[0]}/sa/{one.split('/')[1]}" for one in CLIENTS]
        rule = {"from": [{"source": {"principals": principals}}], "to": [{"operation": {"paths": [f"/{self.round}"]}}]}
        targets = [{"group": "", "kind": "Service", "name": f"at-{home}"} for home in ("app", "lab")]
        yield "AuthorizationPolicy", "round", {"targetRefs": targets, "rules": [rule]}

    def urls(self, client: str, pod_address: str) -> list[str]:
        """Both waypoints for clients of the mesh; ztunnel for all, which for a client outside depends on STRICT too."""
        at_pod = f"http://{pod_address}:{self.port}/"
        return (
            [at_pod]
            if client == PLAIN
            else [at_pod, *(f"http://at-{home}.canary/{self.round}" for home in ("app", "lab"))]
        )
