"""discovery.k8s.io/v1 EndpointSlice, coordination.k8s.io/v1 Lease and gateway.networking.k8s.io Gateway,
GatewayClass.
"""
# ruff: noqa: RUF012 - msgspec copies an empty default for each instance.

from typing import Any

import msgspec

from tulle.kube.objects.meta import Condition, KubeObject, LabelSelector, ObjectReference, Part


class EndpointConditions(Part, frozen=True, kw_only=True):
    """``None`` reads as true for ``ready`` and ``serving``, as false for ``terminating``."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Endpoint(Part, frozen=True, kw_only=True):
    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    hostname: str = ""
    node_name: str = ""
    zone: str = ""
    target_ref: ObjectReference | None = None


class EndpointPort(Part, frozen=True, kw_only=True):
    """A port that every endpoint of the slice serves; ``None`` as port means all ports."""

    name: str = ""
    protocol: str = "TCP"
    port: int | None = None
    app_protocol: str = ""


class EndpointSlice(KubeObject, frozen=True, kw_only=True):
    """discovery.k8s.io/v1 EndpointSlice. ``address_type``: IPv4, IPv6 or FQDN."""

    address_type: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()


class LeaseSpec(Part, frozen=True, kw_only=True):
    """Times are MicroTime text, durations seconds."""

    holder_identity: str = ""
    lease_duration_seconds: int | None = None
    acquire_time: str = ""
    renew_time: str = ""
    lease_transitions: int | None = None


class Lease(KubeObject, frozen=True, kw_only=True):
    """coordination.k8s.io/v1 Lease."""

    spec: LeaseSpec = LeaseSpec()


class GatewayClassSpec(Part, frozen=True, kw_only=True):
    controller_name: str = ""
    description: str = ""


class ConditionsStatus(Part, frozen=True, kw_only=True):
    conditions: tuple[Condition, ...] = ()


class GatewayClass(KubeObject, frozen=True, kw_only=True):
    """gateway.networking.k8s.io/v1 GatewayClass."""

    spec: GatewayClassSpec = GatewayClassSpec()
    status: ConditionsStatus = ConditionsStatus()


class RouteNamespaces(Part, frozen=True, kw_only=True):
    """``from_``: All, Same, Selector or None."""

    from_: str = msgspec.field(default="Same", name="from")
    selector: LabelSelector | None = None


class AllowedRoutes(Part, frozen=True, kw_only=True):
    namespaces: RouteNamespaces = RouteNamespaces()
    kinds: tuple[dict[str, Any], ...] = ()


class Listener(Part, frozen=True, kw_only=True):
    name: str = ""
    hostname: str = ""
    port: int = 0
    protocol: str = ""
    tls: dict[str, Any] | None = None
    allowed_routes: AllowedRoutes = AllowedRoutes()


class GatewayAddress(Part, frozen=True, kw_only=True):
    """``type``: IPAddress or Hostname; absent is IPAddress."""

    value: str = ""
    type: str = "IPAddress"


class GatewaySpec(Part, frozen=True, kw_only=True):
    gateway_class_name: str = ""
    listeners: tuple[Listener, ...] = ()
    addresses: tuple[GatewayAddress, ...] = ()
    infrastructure: dict[str, Any] = {}


class ListenerStatus(Part, frozen=True, kw_only=True):
    name: str
    attached_routes: int
    conditions: tuple[Condition, ...]
    supported_kinds: tuple[dict[str, Any], ...] = ()


class GatewayStatus(Part, frozen=True, kw_only=True):
    addresses: tuple[GatewayAddress, ...] = ()
    conditions: tuple[Condition, ...] = ()
    listeners: tuple[ListenerStatus, ...] = ()


class Gateway(KubeObject, frozen=True, kw_only=True):
    """gateway.networking.k8s.io/v1 Gateway."""

    spec: GatewaySpec = GatewaySpec()
    status: GatewayStatus = GatewayStatus()
