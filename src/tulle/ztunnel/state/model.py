"""Workloads and services, read from `istio.workload` (spec E2) into frozen values.

Only what the data path uses is kept.  Names of the wire are kept too, so that a dump reads like the specification.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import Any

from tulle.ztunnel.policy.terms import Address

DEFAULT_TRUST_DOMAIN = "cluster.local"
DEFAULT_SERVICE_ACCOUNT = "default"
EXPLAIN_REFUSALS = "tulle.explainRefusals"
KUBERNETES_SERVICE = "tulle.kubernetesService"

#: istio.workload.AppProtocol values whose payload is HTTP: HTTP11, HTTP2, GRPC.
HTTP_PROTOCOLS = frozenset({1, 2, 3})
#: istio.workload.IPFamilies values that leave one IP version out: IPV4_ONLY, IPV6_ONLY.
_IP_VERSIONS = {1: (4,), 2: (6,)}

#: istio.workload.WorkloadType.
WORKLOAD_TYPES = {0: "deployment", 1: "cronjob", 2: "pod", 3: "job"}


class UnreadableError(ValueError):
    """A resource that cannot be used; the message names it, the field and the value."""


class Mode(Enum):
    """How a service's traffic is spread (LoadBalancing.Mode)."""

    UNSPECIFIED = 0
    STRICT = 1
    FAILOVER = 2
    PASSTHROUGH = 3


@dataclass(frozen=True)
class NetworkAddress:
    """An address within one network; "" is the mesh's own."""

    network: str
    address: Address

    def __str__(self) -> str:
        return f"{self.network}/{self.address}"


@dataclass(frozen=True)
class GatewayRef:
    """Where a waypoint is: by service (`ns/hostname`) or by address; `port` takes HBONE."""

    service: str | None
    address: NetworkAddress | None
    port: int


@dataclass(frozen=True)
class Port:
    """A service port; `target_port` 0 means each endpoint says its own."""

    service_port: int
    target_port: int
    app_protocol: int = 0

    @property
    def is_http(self) -> bool:
        return self.app_protocol in HTTP_PROTOCOLS


@dataclass(frozen=True)
class AppTunnel:
    """An app that takes everything that is tunnelled to it on one port (0: each on the port that was asked for).

    `proxy`: after a PROXY header that says from whom, and to whom.
    """

    proxy: bool
    port: int


@dataclass(frozen=True)
class Locality:
    region: str = ""
    zone: str = ""
    subzone: str = ""


@dataclass(frozen=True)
class Workload:
    """One endpoint of the mesh, usually a pod."""

    uid: str
    name: str
    namespace: str
    addresses: tuple[Address, ...] = ()
    network: str = ""
    hbone: bool = False
    trust_domain: str = DEFAULT_TRUST_DOMAIN
    service_account: str = DEFAULT_SERVICE_ACCOUNT
    waypoint: GatewayRef | None = None
    node: str = ""
    authorization_policies: tuple[str, ...] = ()
    healthy: bool = True
    cluster_id: str = ""
    services: tuple[tuple[str, tuple[Port, ...]], ...] = ()
    locality: Locality = Locality()
    host_network: bool = False
    capacity: int = 1
    native_tunnel: bool = False
    tunnel: AppTunnel | None = None
    workload_name: str = ""
    workload_type: str = "deployment"
    hostname: str = ""
    canonical_name: str = ""
    canonical_revision: str = ""
    network_gateway: GatewayRef | None = None

    @property
    def identity(self) -> str:
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    @property
    def is_pod(self) -> bool:
        """Whether it has its address from the cluster, and not from what somebody wrote down."""
        return "//Pod/" in self.uid

    def ports_of(self, service: str) -> tuple[Port, ...] | None:
        """The port mapping of this endpoint for a service, None if it is not an endpoint of it."""
        for key, ports in self.services:
            if key == service:
                return ports
        return None


@dataclass(frozen=True)
class Service:
    """One service; `waypoints` are alternatives with weights."""

    namespace: str
    name: str
    hostname: str
    addresses: tuple[NetworkAddress, ...] = ()
    ports: tuple[Port, ...] = ()
    subject_alt_names: tuple[str, ...] = ()
    waypoints: tuple[tuple[GatewayRef, int], ...] = ()
    mode: Mode = Mode.UNSPECIFIED
    routing_preference: tuple[int, ...] = ()
    all_endpoints: bool = False
    private: bool = False
    canonical: bool = False
    ip_versions: tuple[int, ...] = (4, 6)
    explain_refusals: bool = False
    kubernetes: bool = False
    """Whether it is a Service of the cluster, which gave it its addresses."""

    @property
    def key(self) -> str:
        return f"{self.namespace}/{self.hostname}"

    def targets(self, own: Iterable[Port]) -> dict[int, int]:
        """The port behind each service port at an endpoint that has `own` for its ports; those without one are left out."""
        of_endpoint = {port.service_port: port.target_port for port in own}
        found = {port.service_port: of_endpoint.get(port.service_port) or port.target_port for port in self.ports}
        return {port: target for port, target in found.items() if target}

    def port(self, service_port: int) -> Port | None:
        for port in self.ports:
            if port.service_port == service_port:
                return port
        return None


def _address(raw: bytes, where: str) -> Address:
    try:
        return ip_address(raw)
    except ValueError as error:
        raise UnreadableError(f"{where}: address {raw.hex()!r} has {len(raw)} bytes; accepted are 4 or 16") from error


def _is_single(entry: Any) -> bool:
    return bool(entry.length == 8 * len(entry.address))


def _network_address(message: Any, where: str) -> NetworkAddress:
    return NetworkAddress(message.network, _address(message.address, where))


def _gateway(message: Any, where: str) -> GatewayRef:
    port = message.hbone_mtls_port or 15008
    kind = message.WhichOneof("destination")
    if kind == "hostname":
        return GatewayRef(f"{message.hostname.namespace}/{message.hostname.hostname}", None, port)
    if kind == "address":
        return GatewayRef(None, _network_address(message.address, where), port)
    raise UnreadableError(f"{where}: a gateway address with neither hostname nor address")


def _ports(messages: Any) -> tuple[Port, ...]:
    return tuple(Port(port.service_port, port.target_port, port.app_protocol) for port in messages)


def _app_tunnel(message: Any, where: str) -> AppTunnel | None:
    tunnel = message.application_tunnel
    if not message.HasField("application_tunnel") or (tunnel.protocol == 0 and tunnel.port == 0):
        return None
    if tunnel.protocol not in (0, 1) or tunnel.port > 65535:
        raise UnreadableError(
            f"{where}: application_tunnel protocol {tunnel.protocol}, port {tunnel.port}; accepted are NONE and PROXY "
            "with a port up to 65535"
        )
    return AppTunnel(tunnel.protocol == 1, tunnel.port)


def workload_from(message: Any) -> Workload:
    """Raises UnreadableError."""
    where = f"Workload/{message.uid}"
    if not message.uid:
        raise UnreadableError(f"Workload {message.namespace}/{message.name}: uid is empty")
    services = tuple(sorted((key, _ports(ports.ports)) for key, ports in message.services.items()))
    return Workload(
        uid=message.uid,
        name=message.name,
        namespace=message.namespace,
        addresses=tuple(_address(raw, where) for raw in message.addresses),
        network=message.network,
        hbone=message.tunnel_protocol == 1,
        trust_domain=message.trust_domain or DEFAULT_TRUST_DOMAIN,
        service_account=message.service_account or DEFAULT_SERVICE_ACCOUNT,
        waypoint=_gateway(message.waypoint, where) if message.HasField("waypoint") else None,
        node=message.node,
        authorization_policies=tuple(message.authorization_policies),
        healthy=message.status == 0,
        cluster_id=message.cluster_id,
        services=services,
        locality=Locality(message.locality.region, message.locality.zone, message.locality.subzone),
        host_network=message.network_mode == 1,
        capacity=message.capacity.value if message.HasField("capacity") else 1,
        native_tunnel=message.native_tunnel,
        tunnel=_app_tunnel(message, where),
        workload_name=message.workload_name,
        workload_type=WORKLOAD_TYPES.get(message.workload_type, str(message.workload_type)),
        hostname=message.hostname,
        canonical_name=message.canonical_name,
        canonical_revision=message.canonical_revision,
        network_gateway=_gateway(message.network_gateway, where) if message.HasField("network_gateway") else None,
    )


def service_from(message: Any) -> Service:
    """Raises UnreadableError."""
    where = f"Service/{message.namespace}/{message.hostname}"
    if not message.hostname:
        raise UnreadableError(f"Service {message.namespace}/{message.name}: hostname is empty")
    # A block of addresses is no address to dial, nor to answer a question with.
    single = (entry for entry in message.addresses if not entry.HasField("length") or _is_single(entry))
    if message.weighted_waypoints:
        waypoints = tuple(
            (_gateway(entry.destination, where), entry.weight) for entry in message.weighted_waypoints if entry.weight
        )
    else:
        waypoints = ((_gateway(message.waypoint, where), 1),) if message.HasField("waypoint") else ()
    balancing = message.load_balancing
    extensions = {extension.name for extension in message.extensions}
    return Service(
        namespace=message.namespace,
        name=message.name,
        hostname=message.hostname,
        addresses=tuple(_network_address(entry, where) for entry in single),
        ports=_ports(message.ports),
        subject_alt_names=tuple(message.subject_alt_names),
        waypoints=waypoints,
        mode=Mode(balancing.mode) if balancing.mode in {0, 1, 2, 3} else Mode.UNSPECIFIED,
        routing_preference=tuple(balancing.routing_preference),
        all_endpoints=balancing.health_policy == 1,
        private=message.visibility == 1,
        canonical=message.canonical,
        ip_versions=_IP_VERSIONS.get(message.ip_families, (4, 6)),
        explain_refusals=EXPLAIN_REFUSALS in extensions,
        kubernetes=KUBERNETES_SERVICE in extensions,
    )
