"""The small mesh that these tests ask about, as the YAML that a user would have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tulle.cli.explain import documents
from tulle.cli.explain.documents import Document
from tulle.cli.explain.report import Report, explain
from tulle.cli.explain.route import Ask
from tulle.cli.explain.world import World, offline

BASE = """
apiVersion: v1
kind: Namespace
metadata: {name: hello, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Namespace
metadata: {name: test, labels: {istio.io/dataplane-mode: ambient}}
---
apiVersion: v1
kind: Namespace
metadata: {name: legacy}
---
apiVersion: v1
kind: Pod
metadata: {name: curl, namespace: test, labels: {app: curl}}
spec: {containers: [{name: curl}]}
---
apiVersion: v1
kind: Pod
metadata: {name: curl, namespace: legacy, labels: {app: curl}}
spec: {containers: [{name: curl}]}
---
apiVersion: v1
kind: Service
metadata: {name: helloworld, namespace: hello}
spec:
  selector: {app: helloworld}
  ports: [{name: http, port: 5000, targetPort: 8080}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: helloworld, namespace: hello}
spec:
  template:
    metadata: {labels: {app: helloworld}}
    spec: {containers: [{name: helloworld, ports: [{containerPort: 8080}], readinessProbe: {tcpSocket: {port: 8080}}}]}
"""
STRICT = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
"""
WAYPOINT = """
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: waypoint, namespace: hello}
spec:
  gatewayClassName: istio-waypoint
  listeners: [{name: mesh, port: 15008, protocol: HBONE}]
"""
ENROLLED = (
    WAYPOINT
    + """
---
apiVersion: v1
kind: Namespace
metadata: {name: hello, labels: {istio.io/dataplane-mode: ambient, istio.io/use-waypoint: waypoint}}
"""
)
TEST = "cluster.local/ns/test/sa/default"
WAYPOINT_PRINCIPAL = "cluster.local/ns/hello/sa/waypoint"
URL = "http://helloworld.hello:5000/hello"


def policy(name: str, spec: dict[str, Any], namespace: str = "hello") -> str:
    """An AuthorizationPolicy as YAML."""
    return yaml.safe_dump(
        {
            "apiVersion": "security.istio.io/v1",
            "kind": "AuthorizationPolicy",
            "metadata": {"name": name, "namespace": namespace},
            "spec": spec,
        }
    )


def rule(principals: Sequence[str] = (), namespaces: Sequence[str] = (), methods: Sequence[str] = ()) -> dict[str, Any]:
    """A rule from those clients to those methods."""
    source: dict[str, Any] = {}
    if principals:
        source["principals"] = list(principals)
    if namespaces:
        source["namespaces"] = list(namespaces)
    found: dict[str, Any] = {"from": [{"source": source}]} if source else {}
    return found | ({"to": [{"operation": {"methods": list(methods)}}]} if methods else {})


SELECTOR = {"matchLabels": {"app": "helloworld"}}
TARGET = [{"group": "", "kind": "Service", "name": "helloworld"}]


def selecting(name: str, *rules: dict[str, Any], action: str = "ALLOW") -> str:
    """A policy for the pods."""
    return policy(name, {"selector": SELECTOR, "action": action, "rules": list(rules)})


def targeting(name: str, *rules: dict[str, Any], action: str = "ALLOW") -> str:
    """A policy for the Service."""
    return policy(name, {"targetRefs": TARGET, "action": action, "rules": list(rules)})


def read(*texts: str) -> tuple[Document, ...]:
    """Documents of YAML texts; a later object replaces an earlier one of the same name."""
    found = {}
    for text in texts:
        found.update({one.key: one for one in documents.load(("-",), text)})
    return tuple(found.values())


def scene(*texts: str, profile: str = "istio") -> World:
    """The base mesh and more."""
    return offline(read(BASE, *texts), profile)


def ask(
    world: World, client: str = "pod/curl", method: str = "GET", url: str = URL, namespace: str = "test", **more: Any
) -> Report:
    """Explain one request."""
    return explain(world, Ask(client, namespace, method, url, **more))


def ids(report: Report) -> set[str]:
    return {finding.id for finding in report.findings}


def commands(report: Report) -> str:
    """The commands of the smallest change."""
    assert report.change is not None, report.last
    return "\n".join(report.change.commands)


def written(folder: Path, *texts: str) -> str:
    """The base mesh and more as files; the folder's name."""
    for number, document in enumerate(read(BASE, *texts)):
        (folder / f"{number:02}.yaml").write_text(yaml.safe_dump(dict(document.manifest)))
    return str(folder)


def namespace(labels: str) -> str:
    """Namespace hello with more labels."""
    return f"{{kind: Namespace, metadata: {{name: hello, labels: {{istio.io/dataplane-mode: ambient, {labels}}}}}}}"
