"""What stands behind a waypoint Gateway: its ServiceAccount, Deployment, Service and disruption budget (spec A5).

Pure rendering. All four carry the Gateway's own name, so the waypoint's identity is `<trust domain>/ns/<namespace>/sa/<gateway name>`, and
an ownerReference, so that they go when it goes. No autoscaler is made: one replica is what a node-local waypoint needs, and whoever wants
more sets one up for the Deployment, whose `replicas` field is therefore left alone once it exists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tulle.istiod.index import labels as names
from tulle.istiod.index.waypoints import HBONE_PORT
from tulle.kube.objects import Gateway
from tulle.kube.resources import (
    DEPLOYMENTS,
    GATEWAYS,
    POD_DISRUPTION_BUDGETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    Resource,
)

STATUS_PORT = 15021
MANAGED = "istio.io-mesh-controller"
_RESERVED_PREFIXES = (
    "kubernetes.io/",
    "k8s.io/",
    "kubectl.kubernetes.io/",
    "gateway.istio.io/",
    "istio.io/rev-internal",
)
_READY_PATH = "/healthz/ready"


@dataclass(frozen=True)
class WaypointImage:
    """How waypoint pods are started. `istiod` is the host:port of ADS and CA, `command` runs the waypoint."""

    image: str
    istiod: str
    trust_domain: str
    command: tuple[str, ...] = ("python", "-m", "tulle.waypoint")
    pull_policy: str = "IfNotPresent"


@dataclass(frozen=True)
class Rendered:
    """One object to apply."""

    resource: Resource[Any]
    manifest: Mapping[str, Any]


def render(gateway: Gateway, waypoint: WaypointImage) -> tuple[Rendered, ...]:
    """The objects of one waypoint, in the order in which to apply them."""
    account = gateway.metadata.annotations.get(names.GATEWAY_SERVICE_ACCOUNT)
    meta = _metadata(gateway)
    rendered = [] if account else [Rendered(SERVICE_ACCOUNTS, _object(SERVICE_ACCOUNTS, meta))]
    rendered += [
        Rendered(
            DEPLOYMENTS, _object(DEPLOYMENTS, meta, _deployment(gateway, waypoint, account or gateway.metadata.name))
        ),
        Rendered(SERVICES, _object(SERVICES, _service_metadata(meta), _service(gateway))),
        Rendered(POD_DISRUPTION_BUDGETS, _object(POD_DISRUPTION_BUDGETS, meta, _budget(gateway))),
    ]
    return tuple(rendered)


def selector(gateway: Gateway) -> dict[str, str]:
    """The label that all of a Gateway's pods carry."""
    return {names.GATEWAY_NAME: gateway.metadata.name}


def _object(resource: Resource[Any], meta: Mapping[str, Any], spec: Mapping[str, Any] | None = None) -> dict[str, Any]:
    identity = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": meta}
    return identity if spec is None else {**identity, "spec": spec}


def _metadata(gateway: Gateway) -> dict[str, Any]:
    """Labels and annotations for infrastructure are those under `spec.infrastructure`, else the Gateway's own (Gateway API)."""
    infrastructure = gateway.spec.infrastructure
    labels = infrastructure.get("labels") or _inherited(gateway.metadata.labels)
    annotations = infrastructure.get("annotations") or _inherited(gateway.metadata.annotations)
    owner = {
        "apiVersion": GATEWAYS.api_version,
        "kind": GATEWAYS.kind,
        "name": gateway.metadata.name,
        "uid": gateway.metadata.uid,
    }
    return {
        "name": gateway.metadata.name,
        "namespace": gateway.metadata.namespace,
        "labels": {
            **labels,
            names.GATEWAY_MANAGED: MANAGED,
            names.GATEWAY_NAME: gateway.metadata.name,
            "gateway.networking.k8s.io/gateway-class-name": gateway.spec.gateway_class_name,
        },
        "annotations": dict(annotations),
        "ownerReferences": [owner],
    }


def _inherited(values: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in values.items() if not key.startswith(_RESERVED_PREFIXES)}


def _service_metadata(meta: Mapping[str, Any]) -> dict[str, Any]:
    annotations = {**meta["annotations"], "networking.istio.io/traffic-distribution": "PreferClose"}
    return {**meta, "annotations": annotations}


def _service(gateway: Gateway) -> dict[str, Any]:
    ports = [("status-port", STATUS_PORT, ""), ("mesh", HBONE_PORT, "all")]
    return {
        "type": "ClusterIP",
        "selector": selector(gateway),
        "trafficDistribution": "PreferClose",
        "ports": [
            {"name": name, "port": port, "protocol": "TCP", **({"appProtocol": app} if app else {})}
            for name, port, app in ports
        ],
    }


def _budget(gateway: Gateway) -> dict[str, Any]:
    return {"maxUnavailable": 1, "selector": {"matchLabels": selector(gateway)}}


def _deployment(gateway: Gateway, waypoint: WaypointImage, account: str) -> dict[str, Any]:
    meta = _metadata(gateway)
    pod_labels = {
        **meta["labels"],
        names.DATAPLANE_MODE: "none",
        "sidecar.istio.io/inject": "false",
        "service.istio.io/canonical-name": gateway.metadata.name,
        "service.istio.io/canonical-revision": "latest",
    }
    pod_annotations = {
        **meta["annotations"],
        "prometheus.io/path": "/stats/prometheus",
        "prometheus.io/port": "15020",
        "prometheus.io/scrape": "true",
    }
    return {
        "selector": {"matchLabels": selector(gateway)},
        "template": {
            "metadata": {"labels": pod_labels, "annotations": pod_annotations},
            "spec": {
                "serviceAccountName": account,
                "containers": [_container(gateway, waypoint, account)],
                "volumes": _volumes(),
            },
        },
    }


def _container(gateway: Gateway, waypoint: WaypointImage, account: str) -> dict[str, Any]:
    ports = (("metrics", 15020), ("status-port", STATUS_PORT), ("mesh", HBONE_PORT))
    return {
        "name": "istio-proxy",
        "image": waypoint.image,
        "imagePullPolicy": waypoint.pull_policy,
        "command": list(waypoint.command),
        "ports": [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in ports],
        "env": _environment(gateway, waypoint, account),
        "readinessProbe": {
            "httpGet": {"path": _READY_PATH, "port": STATUS_PORT},
            "periodSeconds": 1,
            "timeoutSeconds": 1,
            "failureThreshold": 4,
        },
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"cpu": "2", "memory": "1Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "privileged": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
            "runAsNonRoot": True,
            "runAsUser": 1337,
            "runAsGroup": 1337,
        },
        "volumeMounts": [
            {"name": "istio-token", "mountPath": "/var/run/secrets/tokens"},
            {"name": "istiod-ca-cert", "mountPath": "/var/run/secrets/istio"},
            {"name": "istio-ca-crl", "mountPath": "/var/run/secrets/istio-crl"},
            {"name": "istio-data", "mountPath": "/var/lib/istio/data"},
            {"name": "istio-envoy", "mountPath": "/etc/istio/proxy"},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod
        ],
    }


def _environment(gateway: Gateway, waypoint: WaypointImage, account: str) -> list[dict[str, Any]]:
    fixed = {
        "SERVICE_ACCOUNT": account,
        "GATEWAY_NAME": gateway.metadata.name,
        "XDS_ADDRESS": f"https://{waypoint.istiod}",
        "CA_ADDRESS": f"https://{waypoint.istiod}",
        "TRUST_DOMAIN": waypoint.trust_domain,
        "CRL_PATH": "/var/run/secrets/istio-crl/ca-crl.pem",
        "ISTIO_META_CLUSTER_ID": "Kubernetes",
    }
    fields: Sequence[tuple[str, str]] = (
        ("POD_NAME", "metadata.name"),
        ("POD_NAMESPACE", "metadata.namespace"),
        ("INSTANCE_IP", "status.podIP"),
        ("NODE_NAME", "spec.nodeName"),
    )
    return [{"name": name, "value": value} for name, value in fixed.items()] + [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields
    ]


def _volumes() -> list[dict[str, Any]]:
    token = {"serviceAccountToken": {"audience": "istio-ca", "expirationSeconds": 43200, "path": "istio-token"}}
    return [
        {"name": "istio-token", "projected": {"sources": [token]}},
        {"name": "istiod-ca-cert", "configMap": {"name": "istio-ca-root-cert"}},
        {"name": "istio-ca-crl", "configMap": {"name": "istio-ca-crl", "optional": True}},
        {"name": "istio-data", "emptyDir": {}},
        {"name": "istio-envoy", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
    ]
