"""What one waypoint must know of one of its targets: addresses, ports, endpoints and what it enforces there.

Pure: the index, the policy engine and the known keys of token issuers in, a frozen `TargetView` out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Any

from tulle.istiod.index.mesh import MeshIndex
from tulle.istiod.index.records import Protocol, Resolution, ServiceKey, ServicePort, ServiceRecord
from tulle.istiod.index.state import ServiceState, ServiceTarget, Target, WorkloadState
from tulle.istiod.index.waypoints import Waypoint
from tulle.istiod.waypoint_config import names
from tulle.istiod.waypoint_config.view import (
    ANY_PORT,
    ActionRules,
    AppProtocol,
    AuthorizerView,
    EndpointView,
    PolicyRules,
    PortView,
    Rules,
    TargetView,
    TokenView,
)
from tulle.security.envoy_rbac import Filters, Inputs, http_filters, tcp_filters
from tulle.security.identity import Identity
from tulle.security.mesh import ExtensionProvider, MeshSettings
from tulle.security.model import Action, AuthorizationPolicy, JwtRule, RequestAuthentication

Keys = Callable[[JwtRule], str]
"""The keys of a rule's issuer as a JSON Web Key Set, "" while there are none."""

_HOST_NAME = re.compile(r"(?=.{1,254}$)(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
INPUTS = Inputs(principal_key=names.PEER_PRINCIPAL, source_ip_key=names.PEER_ADDRESS)
"""Where a waypoint's filters find who the client is and where it is."""
_ALONE = frozenset({"Pod", "WorkloadEntry"})
"""Kinds of objects that stand for one workload each; one of another kind may stand for several, and for a service too."""


def target_view(index: MeshIndex, waypoint: Waypoint, target: Target, keys: Keys) -> TargetView | None:
    """The view of a target, or None when it is gone or has no address that a client could dial."""
    if isinstance(target, ServiceTarget):
        service = index.services.get(target.key)
        return _service(index, waypoint, target.key, service, keys) if service and _dialled(service.record) else None
    workload = index.workloads.get(target.uid)
    return _workload(index, waypoint, workload, keys) if workload and workload.record.addresses else None


def _service(index: MeshIndex, waypoint: Waypoint, key: ServiceKey, state: ServiceState, keys: Keys) -> TargetView:
    record = state.record
    endpoints = service_endpoints(index, key)
    service, view = index.service_view(key), index.waypoint_view(waypoint)
    policies = index.policy_set.for_service(service, view)
    return TargetView(
        kind=record.kind,
        namespace=record.namespace,
        name=record.name if record.kind == "Service" else record.hostname,
        hostname=record.hostname,
        addresses=_dialled(record),
        ports=tuple(_port(index, record, port, endpoints[port.port]) for port in record.ports),
        rules=rules_of(policies, index.settings, index.tokens_for(service, record.namespace, view), keys),
    )


def _dialled(record: ServiceRecord) -> tuple[str, ...]:
    """What the waypoint can be asked for by. Not for a block of addresses: Envoy would refuse its listener for all targets."""
    return tuple(address for address in record.addresses if "/" not in address)


def service_endpoints(index: MeshIndex, key: ServiceKey) -> dict[int, tuple[EndpointView, ...]]:
    """The endpoints of a Service that may be used now, by Service port."""
    record = index.services[key].record
    found: dict[int, list[EndpointView]] = {port.port: [] for port in record.ports}
    for uid in sorted(index.tables.members_of(key)):
        member = index.workloads.get(uid)
        if member is None or not (member.record.ready or record.publish_not_ready):
            continue
        for port in next((one.ports for one in member.services if one.service == key), ()):
            found[port.service_port] += _endpoint(member, port.target_port)
    return {port: _together(endpoints) for port, endpoints in found.items()}


def _together(found: list[EndpointView]) -> tuple[EndpointView, ...]:
    """Envoy can look names up or open tunnels for one cluster, but not both: of a port that has both, the mesh's own endpoints serve."""
    tunnelled = any(one.hbone for one in found)
    return tuple(one for one in found if not (tunnelled and one.by_name))


def _workload(index: MeshIndex, waypoint: Waypoint, state: WorkloadState, keys: Keys) -> TargetView:
    record = state.record
    workload, view = index.view(record, state.services, state.binding), index.waypoint_view(waypoint)
    policies = index.policy_set.for_pod_ip(workload, view)
    return TargetView(
        kind=record.kind,
        namespace=record.namespace,
        name=record.name if record.kind in _ALONE else f"{record.name}/{record.addresses[0]}",
        hostname=record.hostname,
        addresses=record.addresses,
        ports=(PortView(ANY_PORT, "AUTO", tuple(_endpoint(state, ANY_PORT))),),
        rules=rules_of(policies, index.settings, index.tokens_for(None, record.namespace, view), keys),
    )


def _port(index: MeshIndex, record: ServiceRecord, port: ServicePort, endpoints: tuple[EndpointView, ...]) -> PortView:
    read = _protocol(port.protocol)
    return PortView(
        port.port,
        read,
        endpoints,
        explain=read == "HTTP" and index.settings.explain_refusals,
        one_address=record.resolution is Resolution.DNS_ROUND_ROBIN,
    )


def _endpoint(state: WorkloadState, port: int) -> Iterable[EndpointView]:
    """A workload in another network has no address for the waypoint to dial; nor has one that wants HBONE and has a name only, as
    names are dialled in plaintext.
    """
    record = state.record
    by_name = not record.addresses
    address = record.hostname if by_name else record.addresses[0]
    if record.network or (by_name and record.hbone) or not _can_be_dialled(address):
        return []
    identity = Identity(state.trust_domain, record.namespace, record.service_account or "default")
    return [EndpointView(address, port, identity.spiffe, record.hbone, record.uid, by_name)]


def _can_be_dialled(address: str) -> bool:
    """Whether it is one address, or a name that may have some. The waypoint's own loopback is nobody's."""
    try:
        found = ip_address(address)
    except ValueError:
        return bool(_HOST_NAME.fullmatch(address)) and address.rstrip(".").lower().rpartition(".")[2] != "localhost"
    return not (found.is_loopback or found.is_unspecified or "%" in address)


def _protocol(protocol: Protocol) -> AppProtocol:
    if protocol.http:
        return "HTTP"
    return "AUTO" if protocol is Protocol.UNKNOWN else "TCP"


# -- what is enforced -------------------------------------------------------------------------------------------------


def rules_of(
    policies: Iterable[AuthorizationPolicy],
    settings: MeshSettings,
    authentications: Iterable[RequestAuthentication] = (),
    keys: Keys = lambda _: "",
) -> PolicyRules:
    """What a waypoint enforces: policies, for HTTP and for opaque ports, and the tokens that count."""
    found = tuple(policies)
    authorizer, problem = authorizer_for(found, settings)
    return PolicyRules(
        _actions(http_filters(found, settings, INPUTS)),
        _actions(tcp_filters(found, settings, INPUTS)),
        tokens=tuple(token for one in authentications for token in _tokens(one, keys)),
        authorizer=authorizer,
        no_authorizer=problem,
    )


def _actions(filters: Filters) -> ActionRules:
    return ActionRules(
        custom=_part(filters.custom, "rules"),
        audit=_part(filters.audit, "rules"),
        deny=_part(filters.deny, "rules"),
        allow=_part(filters.allow, "rules"),
        dry_deny=_part(filters.deny, "shadow_rules"),
        dry_allow=_part(filters.allow, "shadow_rules"),
    )


def _part(config: Any, part: str) -> Rules | None:
    return config.get(part) if config else None


def _tokens(policy: RequestAuthentication, keys: Keys) -> Iterable[TokenView]:
    for index, rule in enumerate(policy.jwt_rules):
        yield TokenView(f"{policy.meta}/spec.jwtRules[{index}]", rule, keys(rule))


def authorizer_for(policies: Iterable[AuthorizationPolicy], settings: MeshSettings) -> tuple[str, str]:
    """The one extension provider that CUSTOM policies name; "" and the reason when there is none to ask (spec C4)."""
    wanted = sorted({one.provider for one in policies if one.action is Action.CUSTOM and not one.dry_run})
    if not wanted:
        return "", ""
    if len(wanted) > 1:
        return "", f"only one extension provider can be asked for a workload, found {' and '.join(wanted)}"
    provider = provider_of(settings, wanted[0])
    if provider is None:
        return "", f"extension provider {wanted[0]} is not in the mesh configuration"
    if provider.ext_authz is None:
        return "", f"extension provider {wanted[0]} is no external authorizer"
    return wanted[0], ""


def provider_of(settings: MeshSettings, name: str) -> ExtensionProvider | None:
    """An extension provider of the mesh configuration by its name."""
    return next((one for one in settings.extension_providers if one.name == name), None)


def authorizer_views(index: MeshIndex) -> tuple[AuthorizerView, ...]:
    """The external authorizers of the mesh configuration whose Service and port are there."""
    found = (_authorizer_view(index, one) for one in index.settings.extension_providers)
    return tuple(view for view in found if view is not None)


def _authorizer_view(index: MeshIndex, provider: ExtensionProvider) -> AuthorizerView | None:
    settings = provider.ext_authz
    if settings is None:
        return None
    namespace, _, hostname = settings.service.rpartition("/")
    keys = sorted(key for key in index.services if key[1] == hostname and (not namespace or key[0] == namespace))
    # The same host in several namespaces, and the provider names none: no guess.
    if len(keys) != 1:
        return None
    endpoints = service_endpoints(index, keys[0]).get(settings.port)
    return None if endpoints is None else AuthorizerView(provider.name, settings, hostname, endpoints)
