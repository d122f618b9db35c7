"""The small world that these tests speak of: Service helloworld in namespace hello, its pods, and a waypoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tulle.security.decision import HttpRequest, Request
from tulle.security.identity import Identity
from tulle.security.model import AuthorizationPolicy, PeerAuthentication
from tulle.security.parse import parse_authorization_policy, parse_peer_authentication
from tulle.security.views import ServiceView, WaypointView, WorkloadView

TRUST_DOMAIN = "cluster.local"


def waypoint(trust_domain: str = TRUST_DOMAIN, name: str = "waypoint") -> WaypointView:
    """A ready waypoint of namespace hello."""
    return WaypointView("hello", name, "istio-waypoint", Identity(trust_domain, "hello", name))


WAYPOINT = waypoint()
LABELS = {"app": "helloworld", "version": "v1"}
POD_IP, CLIENT_IP, WAYPOINT_IP, SERVICE_IP = "10.244.0.5", "10.244.0.9", "10.244.0.7", "10.96.0.30"


def manifest(
    kind: str, name: str, spec: Mapping[str, Any] | None, namespace: str = "hello", **metadata: Any
) -> dict[str, Any]:
    """A manifest of a security.istio.io kind."""
    found: dict[str, Any] = {
        "apiVersion": "security.istio.io/v1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace, **metadata},
    }
    if spec is not None:
        found["spec"] = dict(spec)
    return found


def policy(
    spec: Mapping[str, Any], name: str = "policy", namespace: str = "hello", **metadata: Any
) -> AuthorizationPolicy:
    """A parsed AuthorizationPolicy."""
    return parse_authorization_policy(manifest("AuthorizationPolicy", name, spec, namespace, **metadata))


def peer_authentication(
    spec: Mapping[str, Any], name: str = "default", namespace: str = "hello", **metadata: Any
) -> PeerAuthentication:
    """A parsed PeerAuthentication."""
    return parse_peer_authentication(manifest("PeerAuthentication", name, spec, namespace, **metadata))


def renamed(policy: AuthorizationPolicy, name: str) -> AuthorizationPolicy:
    """The same policy under another name."""
    return replace(policy, meta=replace(policy.meta, name=name))


def workload(
    namespace: str = "hello", labels: Mapping[str, str] | None = None, waypoints: tuple[WaypointView, ...] = (WAYPOINT,)
) -> WorkloadView:
    """A pod of helloworld."""
    return WorkloadView(namespace, "helloworld-v1", LABELS if labels is None else labels, "default", waypoints)


def service(*workloads: WorkloadView, ports: tuple[tuple[int, int], ...] = ((5000, 5000),)) -> ServiceView:
    """The Service helloworld with the given endpoints."""
    return ServiceView("hello", "helloworld", workloads, ports)


def client(text: str) -> Identity | None:
    """``plaintext``, ``ns/sa`` in the mesh's trust domain, or ``td/ns/sa``."""
    if text == "plaintext":
        return None
    parts = text.split("/")
    return Identity(*parts) if len(parts) == 3 else Identity(TRUST_DOMAIN, *parts)


def http(text: str, headers: Mapping[str, Any] | None = None, **rest: Any) -> HttpRequest:
    """``METHOD /path [host]``; a header's value may be a list."""
    method, path, *host = text.split(" ")
    pairs = []
    for name, value in (headers or {}).items():
        pairs += [(name, item) for item in (value if isinstance(value, list) else [value])]
    return HttpRequest(method, path, host[0] if host else "helloworld:5000", tuple(pairs), **rest)


def request(
    peer: str,
    target: WorkloadView | None = None,
    *,
    port: int = 5000,
    via: WaypointView | None = None,
    to: ServiceView | None = None,
    service_port: int = 5000,
    source_ip: str = CLIENT_IP,
    call: HttpRequest | None = None,
    http_declared: bool = False,
    sni: str = "",
) -> Request:
    """A request of ``peer`` to a pod, by default directly."""
    return Request(
        client(peer),
        target or workload(),
        port,
        source_ip,
        POD_IP,
        to,
        service_port if to is not None else 0,
        SERVICE_IP if to is not None else "",
        via,
        WAYPOINT_IP if via is not None else "",
        call,
        http_declared,
        sni,
    )
