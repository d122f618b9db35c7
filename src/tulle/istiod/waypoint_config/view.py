"""The frozen input of the waypoint configuration: everything a waypoint must know, and nothing of where it was learnt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

AppProtocol = Literal["HTTP", "TCP"]
"""How a waypoint reads a port: HTTP (HTTP/1.1, HTTP/2, gRPC alike, in the client's own version) or opaque TCP."""


@dataclass(frozen=True)
class EndpointView:
    """One place to send requests to: a pod (or external endpoint) and the port that its Service port means there.

    `identity` is the SPIFFE URI that the endpoint must present over HBONE; it is ignored when `hbone` is false.
    """

    address: str
    port: int
    identity: str
    hbone: bool
    uid: str = ""


@dataclass(frozen=True)
class PolicyRules:
    """What is decided before a request goes on, as protobuf-JSON of Envoy's RBAC configurations.

    `http_deny`/`http_allow` are `envoy.config.rbac.v3.RBAC` objects for HTTP ports, `tcp_deny`/`tcp_allow` the ones for opaque ports.
    None means that no policy of that action is in scope.
    """

    http_deny: Mapping[str, Any] | None = None
    http_allow: Mapping[str, Any] | None = None
    tcp_deny: Mapping[str, Any] | None = None
    tcp_allow: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class PortView:
    """A port of a target as clients dial it, and the endpoints behind it (only those that may be used now)."""

    port: int
    protocol: AppProtocol
    endpoints: tuple[EndpointView, ...]


@dataclass(frozen=True)
class TargetView:
    """What clients address through the waypoint: a Service by its VIPs, or a workload by its own addresses.

    `kind` is "Service", "ServiceEntry" or "Pod"; with the namespace and name it is the object that resources and logs name.
    """

    kind: str
    namespace: str
    name: str
    hostname: str
    addresses: tuple[str, ...]
    ports: tuple[PortView, ...]
    rules: PolicyRules = field(default_factory=PolicyRules)


@dataclass(frozen=True)
class WaypointConfigView:
    """All that one waypoint serves. `identity` is the waypoint's own SPIFFE URI, presented to endpoints."""

    namespace: str
    name: str
    identity: str
    trust_domain: str
    targets: tuple[TargetView, ...]
    path_normalization: str = "BASE"
