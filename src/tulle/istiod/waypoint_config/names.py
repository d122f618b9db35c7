"""Names of the waypoint's Envoy resources. They carry the object they came from, so that a config dump or a log line names it."""

from __future__ import annotations

from tulle.istiod.waypoint_config.view import TargetView

LISTENER_TYPE = "type.googleapis.com/envoy.config.listener.v3.Listener"
ROUTE_TYPE = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
CLUSTER_TYPE = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
ENDPOINT_TYPE = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"

CONNECT_TERMINATE = "connect_terminate"
"""The HBONE listener on port 15008, and the route configuration that says which authorities this waypoint serves."""
MAIN_INTERNAL = "main_internal"
"""The internal listener where requests are seen in plain and policy is decided."""
CONNECT_ORIGINATE = "connect_originate"
"""The internal listener and the cluster that carry a request onward over HBONE."""
PEER_PRINCIPAL = "tulle.peer_principal"
"""Filter state key of the original client's SPIFFE URI, handed from the HBONE stream to the request inside it."""
ROOT_CA = "ROOTCA"
"""SDS name of the trust bundle."""


def target_port(target: TargetView, port: int) -> str:
    """The name shared by the filter chain, route configuration, cluster and endpoints of one port of a target."""
    return f"{target.kind}/{target.namespace}/{target.name}|{port}"
