"""Which waypoint a Service or a workload is bound to, and if none, why (spec A4).

Pure: labels and the state of Gateways in, a `Binding` out. The reasons are the ones that `istio.io/WaypointBound` reports, so the status
writer and WDS can never disagree. A binding also lists every Gateway it looked at, found or not: the index turns that list round to know
whom to ask again when a Gateway changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

from tulle.istiod.index import labels as names
from tulle.istiod.index.addresses import address_of
from tulle.istiod.index.labels import parse_bool
from tulle.istiod.index.records import (
    GatewayClassRecord,
    GatewayRecord,
    ListenerRecord,
    NamespaceRecord,
    ServiceRecord,
    WaypointKey,
    WorkloadRecord,
)
from tulle.kube import selectors

HBONE_PORT = 15008
_LAST_PORT = 65535
_WEIGHT_DIGITS = 9
"""More of them are no weight, and too many no number that Python reads."""
Traffic: TypeAlias = Literal["service", "workload"]


class Reason(StrEnum):
    """Reasons of the condition `istio.io/WaypointBound`."""

    ACCEPTED = "WaypointAccepted"
    NOT_READY = "WaypointIsNotReady"
    DENIED = "AttachmentDenied"
    UNSUPPORTED_TRAFFIC = "UnsupportedTrafficType"
    CROSS_NAMESPACE = "CrossNamespaceWaypointForbidden"


@dataclass(frozen=True)
class InboundBinding:
    """How a sandwiched waypoint wants its traffic (spec A4, `ambient.istio.io/waypoint-inbound-binding`); port 0 = the original one."""

    protocol: Literal["PROXY", "NONE"]
    port: int


@dataclass(frozen=True)
class Waypoint:
    """A Gateway as bindings see it. `ready` is: its status has at least one address that proxies can use."""

    namespace: str
    name: str
    class_name: str
    controller: str
    ready: bool
    serves: frozenset[str]
    hostname: str
    address: str
    service_account: str
    listener: ListenerRecord | None
    inbound: InboundBinding | None

    @property
    def key(self) -> WaypointKey:
        return (self.namespace, self.name)

    @property
    def ours(self) -> bool:
        """True when this control plane configures the proxy, so that its policies are known to be enforced there."""
        return self.controller == names.MESH_CONTROLLER


@dataclass(frozen=True)
class Reference:
    """What a label asks for: a Gateway, or `name` "none" for an explicit opt-out."""

    namespace: str
    name: str
    inherited: bool
    alias: bool = False

    @property
    def opt_out(self) -> bool:
        return self.name == "none"


@dataclass(frozen=True)
class Canary:
    waypoint: Waypoint
    weight: int


@dataclass(frozen=True)
class Binding:
    """The result for one object. `reason` is None when no label asks for a waypoint (or the mismatch is a silent one)."""

    waypoint: Waypoint | None = None
    reason: Reason | None = None
    message: str = ""
    looked_at: tuple[WaypointKey, ...] = ()
    ingress: bool = False
    canary: Canary | None = None
    alias: bool = False


UNBOUND = Binding()
Lookup: TypeAlias = Callable[[WaypointKey], Waypoint | None]

_SERVES: Mapping[str, frozenset[str]] = {
    "service": frozenset({"service"}),
    "workload": frozenset({"workload"}),
    "all": frozenset({"service", "workload"}),
    "none": frozenset(),
}


def waypoint_of(gateway: GatewayRecord, gateway_class: GatewayClassRecord | None) -> Waypoint:
    """Reduce a Gateway and its class. An unknown `istio.io/waypoint-for` value serves nothing: it is not guessed at."""
    class_labels = gateway_class.labels if gateway_class else {}
    class_annotations = gateway_class.annotations if gateway_class else {}
    wanted = gateway.labels.get(names.WAYPOINT_FOR) or class_labels.get(names.WAYPOINT_FOR) or "service"
    inbound = _inbound_binding(
        gateway.annotations.get(names.INBOUND_BINDING) or class_annotations.get(names.INBOUND_BINDING)
    )
    hostname = next((value for kind, value in gateway.addresses if kind == "Hostname"), "")
    address = next(
        (found for kind, value in gateway.addresses if kind != "Hostname" and (found := address_of(value))), ""
    )
    return Waypoint(
        namespace=gateway.namespace,
        name=gateway.name,
        class_name=gateway.class_name,
        controller=gateway_class.controller if gateway_class else "",
        ready=bool(hostname or address),
        serves=_SERVES.get(wanted, frozenset()),
        hostname=hostname,
        address=address,
        service_account=gateway.annotations.get(names.GATEWAY_SERVICE_ACCOUNT) or gateway.name,
        listener=_mesh_listener(gateway, inbound),
        inbound=inbound,
    )


def _inbound_binding(value: str | None) -> InboundBinding | None:
    protocol, _, port = (value or "").partition("/")
    if protocol not in ("PROXY", "NONE"):
        return None
    number = int(port) if port.isdecimal() and len(port) <= len(str(_LAST_PORT)) else 0
    return InboundBinding("PROXY" if protocol == "PROXY" else "NONE", number if number <= _LAST_PORT else 0)


def _mesh_listener(gateway: GatewayRecord, inbound: InboundBinding | None) -> ListenerRecord | None:
    if inbound and inbound.port:
        bound = next((listener for listener in gateway.listeners if listener.port == inbound.port), None)
        if bound:
            return bound
    return next((one for one in gateway.listeners if one.protocol == "HBONE" and one.port == HBONE_PORT), None)


def namespace_reference(namespace: NamespaceRecord | None, alias: bool) -> Reference | None:
    """What a namespace's labels ask for. With `alias`, `istio.io/waypoint=enabled` stands for `istio.io/use-waypoint=waypoint`."""
    if namespace is None:
        return None
    found = _reference(namespace.labels, namespace.name, inherited=True)
    if found is None and alias and namespace.labels.get(names.WAYPOINT_ALIAS) == "enabled":
        return Reference(namespace.name, "waypoint", inherited=True, alias=True)
    return found


def _reference(labels: Mapping[str, str], namespace: str, inherited: bool) -> Reference | None:
    name = labels.get(names.USE_WAYPOINT)
    if not name:
        return None
    return Reference(labels.get(names.USE_WAYPOINT_NAMESPACE) or namespace, name, inherited)


@dataclass(frozen=True)
class _Asker:
    """Who looks for a waypoint: its name in messages, its namespace, and where Gateways are looked up."""

    what: str
    namespace: str
    record: NamespaceRecord | None
    lookup: Lookup


def bind_service(service: ServiceRecord, namespace: NamespaceRecord | None, lookup: Lookup, alias: bool) -> Binding:
    """The waypoint of a Service or of a ServiceEntry's host (spec A4, steps 1-7)."""
    if service.labels.get(names.GATEWAY_MANAGED) in names.MANAGED_BY_MESH:
        return UNBOUND
    own = _reference(service.labels, service.namespace, inherited=False)
    reference = own or namespace_reference(namespace, alias)
    if reference is None or reference.opt_out:
        return UNBOUND
    asker = _Asker(f"{service.kind} {service.namespace}/{service.name}", service.namespace, namespace, lookup)
    bound = _attach(asker, reference, "service")
    if bound.waypoint is None:
        return bound
    if service.namespace_only and bound.waypoint.namespace != service.namespace:
        return Binding(
            reason=Reason.CROSS_NAMESPACE,
            message=f"{asker.what} is visible in namespace {service.namespace!r} only and asks for waypoint "
            f"{_name(bound.waypoint)}; use a waypoint of namespace {service.namespace!r}",
            looked_at=bound.looked_at,
        )
    ingress, note = _ingress(service, namespace)
    canary, looked_at, canary_note = _canary(asker, reference, service if own else namespace)
    return Binding(
        waypoint=bound.waypoint,
        reason=Reason.ACCEPTED,
        message=f"{bound.message}{note}{canary_note}",
        looked_at=bound.looked_at + looked_at,
        ingress=ingress,
        canary=canary,
        alias=bound.alias,
    )


def bind_workload(
    workload: WorkloadRecord,
    namespace: NamespaceRecord | None,
    lookup: Lookup,
    alias: bool,
    waypoint_instance: bool,
) -> Binding:
    """The waypoint of traffic that addresses the workload itself, by its own IP (spec A4, steps 1-6)."""
    if waypoint_instance:
        return UNBOUND
    own = _reference(workload.labels, workload.namespace, inherited=False)
    reference = own or namespace_reference(namespace, alias)
    if reference is None or reference.opt_out:
        return UNBOUND
    what = f"{workload.kind} {workload.namespace}/{workload.name}"
    return _attach(_Asker(what, workload.namespace, namespace, lookup), reference, "workload")


def _attach(asker: _Asker, reference: Reference, traffic: Traffic) -> Binding:
    key = (reference.namespace, reference.name)
    waypoint = asker.lookup(key)
    if waypoint is None or not waypoint.ready:
        state = "does not exist" if waypoint is None else "has no address yet"
        return Binding(
            reason=Reason.NOT_READY,
            message=f"waypoint {key[0]}/{key[1]} {state}; "
            f"traffic to {asker.what} does not pass a waypoint until it is programmed",
            looked_at=(key,),
        )
    if not _admits(waypoint, asker):
        return Binding(
            reason=Reason.DENIED,
            message=f"waypoint {_name(waypoint)} does not admit namespace {asker.namespace!r}: its listener's "
            "allowedRoutes.namespaces must be from: All, or Selector with labels of that namespace",
            looked_at=(key,),
        )
    if traffic not in waypoint.serves:
        if traffic == "workload" and reference.inherited:
            return Binding(looked_at=(key,))
        serves = " and ".join(sorted(waypoint.serves)) or "no"
        return Binding(
            reason=Reason.UNSUPPORTED_TRAFFIC,
            message=f"waypoint {_name(waypoint)} serves {serves} traffic, {asker.what} needs {traffic}; "
            f"label the Gateway {names.WAYPOINT_FOR}={traffic} or all",
            looked_at=(key,),
        )
    message = f"Successfully attached to waypoint {_name(waypoint)}"
    if reference.alias:
        message += f". Namespace label {names.WAYPOINT_ALIAS}=enabled counts as {names.USE_WAYPOINT}=waypoint because "
        message += "waypointLabelAlias is on"
    return Binding(waypoint, Reason.ACCEPTED, message, looked_at=(key,), alias=reference.alias)


def _admits(waypoint: Waypoint, asker: _Asker) -> bool:
    listener = waypoint.listener
    allowed = listener.allowed_from if listener else "Same"
    if allowed == "All":
        return True
    if allowed == "Selector" and listener is not None and listener.selector is not None:
        return selectors.matches(listener.selector, asker.record.labels if asker.record else {})
    return allowed == "Same" and waypoint.namespace == asker.namespace


def _ingress(service: ServiceRecord, namespace: NamespaceRecord | None) -> tuple[bool, str]:
    label = service.labels.get(names.INGRESS_USE_WAYPOINT)
    if label is None and namespace is not None:
        label = namespace.labels.get(names.INGRESS_USE_WAYPOINT)
    if parse_bool(label):
        return True, ". Ingress traffic will traverse the waypoint"
    if label is None:
        return False, ""
    return (
        False,
        f". Ingress traffic does not traverse the waypoint, label {names.INGRESS_USE_WAYPOINT}=true to change that",
    )


def _canary(
    asker: _Asker, primary: Reference, carrier: ServiceRecord | NamespaceRecord | None
) -> tuple[Canary | None, tuple[WaypointKey, ...], str]:
    """The canary that the primary's carrier asks for. An unusable one is a note in the message and leaves the primary in force."""
    name = carrier.labels.get(names.USE_WAYPOINT_CANARY) if carrier else None
    if carrier is None or not name:
        return None, (), ""
    key = (carrier.labels.get(names.USE_WAYPOINT_CANARY_NAMESPACE) or asker.namespace, name)
    if key == (primary.namespace, primary.name):
        return None, (key,), f". Canary ignored (CanarySameAsPrimary): {key[0]}/{key[1]} is the waypoint already"
    given = carrier.annotations.get(names.CANARY_WEIGHT)
    if given is None or not given.isdecimal() or len(given) > _WEIGHT_DIGITS or int(given) > 100:
        wanted = f"annotation {names.CANARY_WEIGHT} is {given!r}, want 0 to 100"
        return None, (key,), f". Canary ignored (CanaryInvalidWeight): {wanted}"
    tried = _attach(asker, Reference(*key, inherited=False), "service")
    if tried.waypoint is None:
        reason = tried.reason.value if tried.reason else ""
        return None, (key,), f". Canary ignored ({reason}): {tried.message}"
    return Canary(tried.waypoint, int(given)), (key,), f". Canary waypoint {key[0]}/{key[1]} takes {given}%"


def _name(waypoint: Waypoint) -> str:
    return f"{waypoint.namespace}/{waypoint.name}"
