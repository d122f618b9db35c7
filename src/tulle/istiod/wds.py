"""Workloads and services as node proxies learn them: index states into `istio.workload.Address` (spec E1, E2).

Pure functions; `tulle.istiod.publish` keeps the resource maps up to date with them.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping

from google.protobuf import wrappers_pb2

from tulle.istiod.index import labels as names
from tulle.istiod.index.convert import CLUSTER_ID
from tulle.istiod.index.networks import NetworkGateway
from tulle.istiod.index.records import Resolution, ServiceKey, ServiceRecord
from tulle.istiod.index.state import ServiceState, WorkloadState
from tulle.istiod.index.waypoints import HBONE_PORT, Binding, InboundBinding, Waypoint
from tulle.xds.proto import workload_pb2 as pb

EXPLAIN_REFUSALS = "tulle.explainRefusals"
"""Extension of a Service whose HTTP clients are told in HTTP when the far side refuses their connection."""
KUBERNETES_SERVICE = "tulle.kubernetesService"
"""Extension of a Service that is one of the cluster's: its addresses are nobody else's, whatever somebody writes down."""
NETWORK = ""

_DEFAULT_TRUST_DOMAIN = "cluster.local"
_LB = pb.LoadBalancing
_SCOPES: Mapping[str, tuple[pb.LoadBalancing.Scope, ...]] = {
    "preferclose": (_LB.NETWORK, _LB.REGION, _LB.ZONE, _LB.SUBZONE),
    "prefersamezone": (_LB.NETWORK, _LB.REGION, _LB.ZONE, _LB.SUBZONE),
    "prefersamenode": (_LB.NETWORK, _LB.REGION, _LB.ZONE, _LB.SUBZONE, _LB.NODE),
}
"""`spec.trafficDistribution`, or the annotation, in lower case: where to look first; each falls back to farther endpoints."""
_FAMILIES = {frozenset({"IPv4"}): pb.IPFamilies.IPV4_ONLY, frozenset({"IPv6"}): pb.IPFamilies.IPV6_ONLY}


def service_name(key: ServiceKey) -> str:
    """The resource name of a service: `namespace/hostname`."""
    return f"{key[0]}/{key[1]}"


def address_aliases(addresses: Iterable[str], network: str = NETWORK) -> tuple[str, ...]:
    """Under which names a client that only knows an address asks for its owner: `network/ip`. A block of addresses has none."""
    single = (_single(address) for address in addresses)
    return tuple(f"{network}/{address}" for address in single if address)


def _single(address: str) -> str:
    """The usual form of an address; empty for a block of several. Every pod comes through here, hence nothing slower than this."""
    if "/" not in address:
        return socket.inet_ntop(_family(address), socket.inet_pton(_family(address), address))
    block = ipaddress.ip_network(address, strict=False)
    return str(block.network_address) if block.num_addresses == 1 else ""


def _packed(address: str) -> bytes:
    return socket.inet_pton(_family(address), address)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def service_address(state: ServiceState, explain_refusals: bool) -> pb.Address:
    """A service, with the waypoint it is bound to."""
    record = state.record
    service = pb.Service(
        name=record.name,
        namespace=record.namespace,
        hostname=record.hostname,
        addresses=[_network_address(address) for address in record.addresses],
        ports=[
            pb.Port(service_port=port.port, target_port=port.target, app_protocol=port.protocol.name)
            for port in record.ports
        ],
        subject_alt_names=record.subject_alt_names,
        load_balancing=_load_balancing(record),
        ip_families=_ip_families(record.ip_families),
        canonical=state.canonical,
        ingress_use_waypoint=state.binding.ingress,
        visibility=pb.ServiceVisibility.NAMESPACE if record.namespace_only else pb.ServiceVisibility.PUBLIC,
    )
    _set_waypoints(service, state.binding)
    if record.kind == "Service":
        service.extensions.add(name=KUBERNETES_SERVICE)
    if explain_refusals:
        service.extensions.add(name=EXPLAIN_REFUSALS)
    return pb.Address(service=service)


def workload_address(state: WorkloadState, policies: Iterable[str] | None = None) -> pb.Address:
    """A workload. `policies` takes the place of the state's own list while a waypoint is not yet known to enforce its part."""
    record = state.record
    workload = pb.Workload(
        uid=record.uid,
        name=record.name,
        namespace=record.namespace,
        addresses=[_packed(address) for address in record.addresses],
        hostname=record.hostname,
        network=record.network,
        tunnel_protocol=pb.TunnelProtocol.HBONE if record.hbone else pb.TunnelProtocol.NONE,
        native_tunnel=record.native_tunnel,
        trust_domain="" if state.trust_domain == _DEFAULT_TRUST_DOMAIN else state.trust_domain,
        service_account=record.service_account,
        node=record.node,
        canonical_name=_first(record.labels, names.CANONICAL_NAME) or record.workload_name,
        canonical_revision=_first(record.labels, names.CANONICAL_REVISION) or "latest",
        workload_type=record.workload_type.name,
        workload_name=record.workload_name,
        authorization_policies=state.policies if policies is None else policies,
        status=pb.WorkloadStatus.HEALTHY if record.ready else pb.WorkloadStatus.UNHEALTHY,
        cluster_id=CLUSTER_ID,
        network_mode=pb.NetworkMode.HOST_NETWORK if record.host_network else pb.NetworkMode.STANDARD,
    )
    for membership in state.services:
        ports = workload.services[service_name(membership.service)].ports
        for port in membership.ports:
            ports.add(
                service_port=port.service_port,
                target_port=port.target_port,
                app_protocol=port.protocol.name,
            )
    _set_details(workload, state)
    return pb.Address(workload=workload)


def _set_details(workload: pb.Workload, state: WorkloadState) -> None:
    if state.binding.waypoint is not None:
        workload.waypoint.CopyFrom(gateway_address(state.binding.waypoint))
    if any(state.locality):
        region, zone, subzone = state.locality
        workload.locality.CopyFrom(pb.Locality(region=region, zone=zone, subzone=subzone))
    if state.record.capacity is not None:
        workload.capacity.CopyFrom(wrappers_pb2.UInt32Value(value=state.record.capacity))
    if state.network_gateway is not None:
        workload.network_gateway.CopyFrom(_network_gateway(state.network_gateway, state.record.network))
    if state.inbound is not None:
        workload.application_tunnel.CopyFrom(_application_tunnel(state.inbound))


def _network_gateway(gateway: NetworkGateway, network: str) -> pb.GatewayAddress:
    if gateway.is_hostname:
        hostname = pb.NamespacedHostname(namespace=gateway.namespace, hostname=gateway.address)
        return pb.GatewayAddress(hostname=hostname, hbone_mtls_port=gateway.port)
    address = pb.NetworkAddress(network=network, address=_packed(gateway.address))
    return pb.GatewayAddress(address=address, hbone_mtls_port=gateway.port)


def _application_tunnel(inbound: InboundBinding) -> pb.ApplicationTunnel:
    tunnel = pb.ApplicationTunnel
    protocol = tunnel.PROXY if inbound.protocol == "PROXY" else tunnel.NONE
    return tunnel(protocol=protocol, port=inbound.port)


def gateway_address(waypoint: Waypoint) -> pb.GatewayAddress:
    """Where a waypoint is reached: its hostname if its status has one, else its address (spec A4)."""
    if waypoint.hostname:
        hostname = pb.NamespacedHostname(namespace=waypoint.namespace, hostname=waypoint.hostname)
        return pb.GatewayAddress(hostname=hostname, hbone_mtls_port=HBONE_PORT)
    address = _network_address(waypoint.address)
    return pb.GatewayAddress(address=address, hbone_mtls_port=HBONE_PORT)


def _set_waypoints(service: pb.Service, binding: Binding) -> None:
    if binding.waypoint is None:
        return
    service.waypoint.CopyFrom(gateway_address(binding.waypoint))
    if binding.canary is not None:
        primary = pb.WeightedWaypoint(destination=service.waypoint, weight=100 - binding.canary.weight)
        destination = gateway_address(binding.canary.waypoint)
        service.weighted_waypoints.extend(
            (primary, pb.WeightedWaypoint(destination=destination, weight=binding.canary.weight))
        )


def _load_balancing(record: ServiceRecord) -> pb.LoadBalancing | None:
    """None means any healthy endpoint with equal chance."""
    health = _LB.ALLOW_ALL if record.publish_not_ready else _LB.ONLY_HEALTHY
    if record.resolution is Resolution.PASSTHROUGH:
        return _LB(mode=_LB.PASSTHROUGH)
    if record.node_local:
        return _LB(routing_preference=[_LB.NODE], mode=_LB.STRICT, health_policy=health)
    scopes = _SCOPES.get(record.traffic_distribution.lower())
    if scopes:
        return _LB(routing_preference=scopes, mode=_LB.FAILOVER, health_policy=health)
    return _LB(health_policy=health) if record.publish_not_ready else None


def _ip_families(families: tuple[str, ...]) -> pb.IPFamilies:
    if not families:
        return pb.IPFamilies.AUTOMATIC
    return _FAMILIES.get(frozenset(families), pb.IPFamilies.DUAL)


def _network_address(address: str) -> pb.NetworkAddress:
    """A plain address, or a CIDR block with its length."""
    if "/" not in address:
        return pb.NetworkAddress(network=NETWORK, address=_packed(address))
    network = ipaddress.ip_network(address, strict=False)
    result = pb.NetworkAddress(network=NETWORK, address=network.network_address.packed)
    result.length = network.prefixlen
    return result


def _first(labels: Mapping[str, str], keys: Iterable[str]) -> str:
    return next((labels[key] for key in keys if labels.get(key)), "")
