"""Names of the waypoint's Envoy resources. They carry the object they came from, so that a config dump or a log line names it."""

from __future__ import annotations

from tulle.istiod.waypoint_config.view import ANY_PORT, TargetView

LISTENER_TYPE = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTE_TYPE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
CLUSTER_TYPE = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINT_TYPE = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
EXTENSION_TYPE = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"

CONNECT_TERMINATE = "connect_terminate"
"""The HBONE listener on port 15008, and the route configuration that says which authorities this waypoint serves."""
MAIN_INTERNAL = "main_internal"
"""The internal listener where requests are seen in plain and policy is decided."""
MAIN_PODS = "main_pods"
"""The internal listener where requests to pods' own addresses are seen in plain, on any port."""
CONNECT_ORIGINATE = "connect_originate"
"""The internal listener and the cluster that carry a request onward over HBONE."""
PEER_PRINCIPAL = "tulle.peer_principal"
"""Filter state key of the original client's SPIFFE URI, handed from the HBONE stream to the request inside it."""
PEER_ADDRESS = "tulle.peer_address"
"""Filter state key of the original client's address: behind the HBONE stream the connection itself has none."""

CUSTOM_FILTER = "tulle.rbac.custom"
AUDIT_FILTER = "tulle.rbac.audit"
DENY_FILTER = "tulle.rbac.deny"
ALLOW_FILTER = "tulle.rbac.allow"
"""The filters of policies in HTTP chains; each route says what they hold."""

CUSTOM_PREFIX = "tulle_custom_"
AUDIT_PREFIX = "tulle_audit_"
DRY_DENY_PREFIX = "tulle_dry_run_deny_"
DRY_ALLOW_PREFIX = "tulle_dry_run_allow_"
"""Prefixes of what rules that only look leave in a request's metadata."""
MATCHED_POLICY = "shadow_effective_policy_id"
RESULT = "shadow_engine_result"
"""What they leave: the name of the policy that matched, and whether the request would have been allowed or denied."""
HTTP_RBAC = "envoy.filters.http.rbac"
TCP_RBAC = "envoy.filters.network.rbac"
"""Where in the metadata."""


def target(view: TargetView) -> str:
    """The object behind a target."""
    return f"{view.kind}/{view.namespace}/{view.name}"


def target_port(view: TargetView, port: int) -> str:
    """The name shared by the filter chain, route configuration, cluster and endpoints of one port of a target."""
    return f"{target(view)}|{'*' if port == ANY_PORT else port}"


def tokens(view: TargetView) -> str:
    """The filter that verifies tokens in requests to a target."""
    return f"{target(view)}|tokens"


def custom(view: TargetView) -> str:
    """The filter that settles requests which CUSTOM policies of a target match."""
    return f"{target(view)}|custom"


def authorizer(provider: str) -> str:
    """The cluster of an extension provider."""
    return f"ExtensionProvider/{provider}"
