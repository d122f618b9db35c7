"""Which objects a policy attaches to (C5, C6).

Selectors speak of pods and are ztunnel's matter; targetRefs speak of Gateways, Services and classes and are a waypoint's. A
policy is one or the other, never both.
"""

from __future__ import annotations

from collections.abc import Mapping

from .model import AuthorizationPolicy, Labels, RequestAuthentication, TargetRef, labels_match
from .views import ServiceView, WaypointView

GATEWAY_GROUP = "gateway.networking.k8s.io"
SERVICE_ENTRY_GROUP = "networking.istio.io"
WAYPOINT_CLASS = "istio-waypoint"


def selects(
    policy_namespace: str, selector: Labels | None, namespace: str, labels: Mapping[str, str], root_namespace: str
) -> bool:
    """Whether a policy without targetRefs applies to a workload of ``namespace``.

    One of the root namespace applies to every namespace. An empty selector attaches to nothing, as upstream.
    """
    if policy_namespace not in (namespace, root_namespace):
        return False
    return selector is None or (bool(selector) and labels_match(selector, labels))


def attaches_at_waypoint(
    policy: AuthorizationPolicy | RequestAuthentication,
    waypoint: WaypointView,
    service: ServiceView | None,
    root_namespace: str,
) -> bool:
    """Whether one of the policy's targetRefs covers traffic through ``waypoint`` to ``service`` (None: to a pod)."""
    namespace = policy.meta.namespace
    return any(_covers(ref, namespace, waypoint, service, root_namespace) for ref in policy.target_refs)


def _covers(
    ref: TargetRef, namespace: str, waypoint: WaypointView, service: ServiceView | None, root_namespace: str
) -> bool:
    match (ref.group, ref.kind):
        case (group, "Gateway") if group == GATEWAY_GROUP:
            return (namespace, ref.name) == (waypoint.namespace, waypoint.name)
        case (group, "GatewayClass") if group == GATEWAY_GROUP:
            return namespace == root_namespace and ref.name == WAYPOINT_CLASS == waypoint.gateway_class
        case ("", "Service"):
            kind = "Service"
        case (group, "ServiceEntry") if group == SERVICE_ENTRY_GROUP:
            kind = "ServiceEntry"
        case _:
            return False
    return service is not None and (kind, namespace, ref.name) == (service.kind, service.namespace, service.name)
