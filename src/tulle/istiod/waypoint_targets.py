"""What one waypoint must know of one of its targets: addresses, ports, endpoints and the policies that it enforces there.

Pure: the index and the policy engine in, a frozen `TargetView` out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tulle.istiod.index.mesh import MeshIndex
from tulle.istiod.index.records import Protocol, ServiceKey
from tulle.istiod.index.state import ServiceState, ServiceTarget, Target, WorkloadState
from tulle.istiod.index.waypoints import Waypoint
from tulle.istiod.waypoint_config import names
from tulle.istiod.waypoint_config.view import AppProtocol, EndpointView, PolicyRules, PortView, TargetView
from tulle.security.envoy_rbac import Filters, Inputs, http_filters, tcp_filters
from tulle.security.identity import Identity
from tulle.security.mesh import MeshSettings
from tulle.security.model import AuthorizationPolicy

_INPUTS = Inputs(principal_key=names.PEER_PRINCIPAL)


def target_view(index: MeshIndex, waypoint: Waypoint, target: Target) -> TargetView | None:
    """The view of a target, or None when it is gone or has no address that a client could dial."""
    if isinstance(target, ServiceTarget):
        service = index.services.get(target.key)
        return _service(index, waypoint, target.key, service) if service and service.record.addresses else None
    workload = index.workloads.get(target.uid)
    return _workload(index, waypoint, workload) if workload and workload.record.addresses else None


def _service(index: MeshIndex, waypoint: Waypoint, key: ServiceKey, state: ServiceState) -> TargetView:
    record = state.record
    endpoints: dict[int, list[EndpointView]] = {port.port: [] for port in record.ports}
    for uid in sorted(index.tables.members_of(key)):
        member = index.workloads.get(uid)
        if member is None or not (member.record.ready or record.publish_not_ready):
            continue
        ports = next((one.ports for one in member.services if one.service == key), ())
        for port in ports:
            endpoints[port.service_port] += _endpoint(member, port.target_port)
    policies = index.policy_set.for_service(index.service_view(key), index.waypoint_view(waypoint))
    return TargetView(
        kind=record.kind,
        namespace=record.namespace,
        name=record.name if record.kind == "Service" else record.hostname,
        hostname=record.hostname,
        addresses=record.addresses,
        ports=tuple(
            PortView(port.port, _protocol(port.protocol), tuple(endpoints[port.port])) for port in record.ports
        ),
        rules=rules_of(policies, index.settings),
    )


def _workload(index: MeshIndex, waypoint: Waypoint, state: WorkloadState) -> TargetView:
    record = state.record
    known = {port.target_port: port.protocol for one in state.services for port in one.ports}
    view = index.view(record, state.services, state.binding)
    return TargetView(
        kind=record.kind,
        namespace=record.namespace,
        name=record.name,
        hostname=record.hostname,
        addresses=record.addresses,
        ports=tuple(
            PortView(port, _protocol(protocol), tuple(_endpoint(state, port)))
            for port, protocol in sorted(known.items())
        ),
        rules=rules_of(index.policy_set.for_pod_ip(view, index.waypoint_view(waypoint)), index.settings),
    )


def _endpoint(state: WorkloadState, port: int) -> Iterable[EndpointView]:
    """A workload that is only known by a host name has no address for the waypoint to dial."""
    record = state.record
    if not record.addresses:
        return []
    identity = Identity(state.trust_domain, record.namespace, record.service_account or "default")
    return [EndpointView(record.addresses[0], port, identity.spiffe, record.hbone, record.uid)]


def _protocol(protocol: Protocol) -> AppProtocol:
    """A port that does not say that it is HTTP is passed on as bytes; HTTP rules then cannot match, which denies."""
    return "HTTP" if protocol.http else "TCP"


def rules_of(policies: Iterable[AuthorizationPolicy], settings: MeshSettings) -> PolicyRules:
    """What a waypoint enforces of policies, for its HTTP and for its opaque ports."""
    found = tuple(policies)
    http, tcp = http_filters(found, settings, _INPUTS), tcp_filters(found, settings, _INPUTS)
    return PolicyRules(_deny(http), _rules(http.allow), _deny(tcp), _rules(tcp.allow))


def _deny(filters: Filters) -> Mapping[str, Any] | None:
    """CUSTOM and DENY together: both deny what they match, and either is enough (spec C4)."""
    found = [rules for rules in (_rules(filters.custom), _rules(filters.deny)) if rules is not None]
    if not found:
        return None
    merged = {name: policy for rules in found for name, policy in rules["policies"].items()}
    return {"action": "DENY", "policies": merged}


def _rules(config: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The enforced rules of an RBAC filter; a dry run has only shadow rules and enforces nothing."""
    return config.get("rules") if config else None
