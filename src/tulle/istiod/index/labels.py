"""Names of the labels and annotations that steer the mesh (spec A1, A2, A4), and how their values read."""

from __future__ import annotations

USE_WAYPOINT = "istio.io/use-waypoint"
USE_WAYPOINT_NAMESPACE = "istio.io/use-waypoint-namespace"
USE_WAYPOINT_CANARY = "istio.io/use-waypoint-canary"
USE_WAYPOINT_CANARY_NAMESPACE = "istio.io/use-waypoint-canary-namespace"
CANARY_WEIGHT = "istio.io/use-waypoint-canary-weight"
WAYPOINT_FOR = "istio.io/waypoint-for"
INGRESS_USE_WAYPOINT = "istio.io/ingress-use-waypoint"
INBOUND_BINDING = "ambient.istio.io/waypoint-inbound-binding"
WAYPOINT_ALIAS = "istio.io/waypoint"
"""Means something on a namespace only under `tulle.waypointLabelAlias` (value `enabled`)."""

GATEWAY_NAME = "gateway.networking.k8s.io/gateway-name"
GATEWAY_MANAGED = "gateway.istio.io/managed"
GATEWAY_SERVICE_ACCOUNT = "gateway.istio.io/service-account"

DATAPLANE_MODE = "istio.io/dataplane-mode"
REDIRECTION = "ambient.istio.io/redirection"
NETWORK = "topology.istio.io/network"
REMOTE_GATEWAY = "istio-remote"
NETWORK_GATEWAYS = frozenset({"istio-east-west", REMOTE_GATEWAY})
"""Classes of Gateways that lead into the network of their label `topology.istio.io/network`."""
TUNNEL = "networking.istio.io/tunnel"
ALLOCATE_ADDRESS = "networking.istio.io/enable-autoallocate-ip"
"""Label of a ServiceEntry; `false`: its hosts get no addresses of istiod's."""
LOCALITY = "istio-locality"
"""Label of a pod that says where it is, instead of its node: `region.zone.subzone`."""
TRAFFIC_DISTRIBUTION = "networking.istio.io/traffic-distribution"
"""Annotation of a Service or ServiceEntry; goes before `spec.trafficDistribution`."""

CANONICAL_NAME = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
CANONICAL_REVISION = ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")

MESH_CONTROLLER = "istio.io/mesh-controller"
WAYPOINT_CLASS = "istio-waypoint"
MANAGED_BY_MESH = frozenset({"istio.io-mesh-controller", "istio.io-eastwest-controller"})
"""Values of `gateway.istio.io/managed` whose Services never get a waypoint of their own (spec A4.6)."""

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})


def parse_bool(value: str | None) -> bool:
    """Go's ParseBool; anything it would refuse counts as false (spec A4)."""
    return value in _TRUE
