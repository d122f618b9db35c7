"""What the index derives: each service with its waypoint, each workload with its services, waypoint and policies.

These are the values that everything downstream is generated from. They are compared as a whole: a recomputation that gives an equal
state ends there and nobody hears of it.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from msgspec import Struct

from tulle.istiod.index.networks import NetworkGateway
from tulle.istiod.index.records import (
    ObjectKey,
    Protocol,
    ServiceKey,
    ServiceRecord,
    Uid,
    WaypointKey,
    WorkloadRecord,
)
from tulle.istiod.index.waypoints import UNBOUND, Binding, InboundBinding, Waypoint
from tulle.security.ztunnel import ZtunnelPolicy


class PortMapping(Struct, frozen=True):
    """A Service port, and the port it means on one workload (named target ports are resolved)."""

    service_port: int
    target_port: int
    protocol: Protocol


class Membership(Struct, frozen=True):
    service: ServiceKey
    ports: tuple[PortMapping, ...]


class ServiceState(Struct, frozen=True):
    record: ServiceRecord
    binding: Binding
    canonical: bool = True
    """Whether this is what its hostname and addresses mean to clients of other namespaces: the Service, else the oldest ServiceEntry."""

    @property
    def waypoints(self) -> tuple[Waypoint, ...]:
        """Every waypoint that traffic to this service may pass: the primary, and the canary if there is one."""
        return waypoints_of(self.binding)


class WorkloadState(Struct, frozen=True):
    """`policies` are the names for `Workload.authorization_policies`; `generated` those of them that exist only because selector
    policies were lifted to a waypoint."""

    record: WorkloadRecord
    trust_domain: str
    services: tuple[Membership, ...] = ()
    binding: Binding = UNBOUND
    policies: tuple[str, ...] = ()
    generated: tuple[ZtunnelPolicy, ...] = ()
    locality: tuple[str, str, str] = ("", "", "")
    inbound: InboundBinding | None = None
    """How the workload, being a sandwiched waypoint itself, takes its traffic."""
    network_gateway: NetworkGateway | None = None
    """The way into the workload's network, where that is not the mesh's own."""


class ServiceTarget(NamedTuple):
    """What a waypoint serves: a service by its addresses."""

    key: ServiceKey


class WorkloadTarget(NamedTuple):
    """What a waypoint serves: a workload by its own addresses."""

    uid: Uid


Target: TypeAlias = ServiceTarget | WorkloadTarget


class Delta(Struct, frozen=True):
    """Keys whose derived value changed since the last flush. A key that is gone from the index is in here too."""

    workloads: frozenset[Uid] = frozenset()
    services: frozenset[ServiceKey] = frozenset()
    waypoints: frozenset[WaypointKey] = frozenset()
    ztunnel_policies: frozenset[str] = frozenset()
    targets: frozenset[tuple[WaypointKey, Target]] = frozenset()
    policies: frozenset[ObjectKey] = frozenset()
    """AuthorizationPolicies that were written or deleted."""
    classes: frozenset[str] = frozenset()
    """GatewayClasses that were written or deleted: a policy may be for one that no Gateway is of."""
    settings: bool = False

    def __bool__(self) -> bool:
        return self != Delta()


def waypoints_of(binding: Binding) -> tuple[Waypoint, ...]:
    """The primary and the canary waypoint of a binding, as far as it has them."""
    if binding.waypoint is None:
        return ()
    return (binding.waypoint, binding.canary.waypoint) if binding.canary else (binding.waypoint,)
