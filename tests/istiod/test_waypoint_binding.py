"""Waypoint binding as tables (spec A4)."""

from __future__ import annotations

from typing import Any

import pytest

from tulle.istiod.index.records import (
    GatewayClassRecord,
    GatewayRecord,
    ListenerRecord,
    NamespaceRecord,
    ServiceRecord,
    WaypointKey,
    WorkloadRecord,
)
from tulle.istiod.index.waypoints import (
    Binding,
    InboundBinding,
    Reason,
    Waypoint,
    bind_service,
    bind_workload,
    waypoint_of,
)
from tulle.kube.objects import LabelSelector, LabelSelectorRequirement

CLASS = GatewayClassRecord("istio-waypoint", "istio.io/mesh-controller")
ADDRESSES = (("IPAddress", "10.96.0.9"), ("Hostname", "w.a.svc.cluster.local"))
USE = "istio.io/use-waypoint"
USE_NAMESPACE = "istio.io/use-waypoint-namespace"


def gateway(
    name: str = "w",
    namespace: str = "a",
    *,
    serves: str = "",
    allowed: str = "Same",
    selector: LabelSelector | None = None,
    addresses: tuple[tuple[str, str], ...] = ADDRESSES,
    annotations: dict[str, str] | None = None,
    listeners: tuple[ListenerRecord, ...] | None = None,
) -> Waypoint:
    if listeners is None:
        listeners = (ListenerRecord("mesh", 15008, "HBONE", allowed, selector),)
    record = GatewayRecord(
        namespace=namespace,
        name=name,
        class_name="istio-waypoint",
        labels={"istio.io/waypoint-for": serves} if serves else {},
        annotations=annotations or {},
        listeners=listeners,
        addresses=addresses,
    )
    return waypoint_of(record, CLASS)


def service(labels: dict[str, str] | None = None, **fields: Any) -> ServiceRecord:
    defaults: dict[str, Any] = {"kind": "Service", "namespace": "a", "name": "s", "hostname": "s.a.svc.cluster.local"}
    return ServiceRecord(**{**defaults, "labels": labels or {}, **fields})


def pod(labels: dict[str, str] | None = None) -> WorkloadRecord:
    return WorkloadRecord(kind="Pod", uid="Kubernetes//Pod/a/p", namespace="a", name="p", labels=labels or {})


def bind(
    subject: ServiceRecord | WorkloadRecord,
    namespace_labels: dict[str, str] | None = None,
    *waypoints: Waypoint,
    alias: bool = False,
    instance: bool = False,
) -> Binding:
    known: dict[WaypointKey, Waypoint] = {waypoint.key: waypoint for waypoint in waypoints}
    namespace = NamespaceRecord("a", namespace_labels or {})
    if isinstance(subject, ServiceRecord):
        return bind_service(subject, namespace, known.get, alias)
    return bind_workload(subject, namespace, known.get, alias, instance)


def outcome(binding: Binding) -> str:
    if binding.waypoint is not None:
        return f"{binding.waypoint.namespace}/{binding.waypoint.name}"
    return binding.reason.value if binding.reason else "-"


HERE = gateway()
ELSEWHERE = gateway("x", "b", allowed="All")
CLOSED = gateway("x", "b")
PENDING = gateway(addresses=())

SERVICE_CASES = [
    ("no label", {}, {}, (HERE,), "-"),
    ("own label", {USE: "w"}, {}, (HERE,), "a/w"),
    ("namespace label", {}, {USE: "w"}, (HERE,), "a/w"),
    ("own none beats namespace", {USE: "none"}, {USE: "w"}, (HERE,), "-"),
    ("namespace none", {}, {USE: "none"}, (HERE,), "-"),
    ("own label beats namespace", {USE: "v"}, {USE: "w"}, (HERE, gateway("v")), "a/v"),
    ("missing waypoint", {USE: "w"}, {}, (), "WaypointIsNotReady"),
    ("no fallback to the namespace's", {USE: "missing"}, {USE: "w"}, (HERE,), "WaypointIsNotReady"),
    ("no address yet", {USE: "w"}, {}, (PENDING,), "WaypointIsNotReady"),
    ("other namespace, all", {USE: "x", USE_NAMESPACE: "b"}, {}, (ELSEWHERE,), "b/x"),
    ("other namespace, same", {USE: "x", USE_NAMESPACE: "b"}, {}, (CLOSED,), "AttachmentDenied"),
    ("namespace label names another namespace", {}, {USE: "x", USE_NAMESPACE: "b"}, (ELSEWHERE,), "b/x"),
    (
        "own label does not take the namespace's namespace",
        {USE: "x"},
        {USE_NAMESPACE: "b"},
        (ELSEWHERE,),
        "WaypointIsNotReady",
    ),
    ("for workload", {USE: "w"}, {}, (gateway(serves="workload"),), "UnsupportedTrafficType"),
    ("for none", {USE: "w"}, {}, (gateway(serves="none"),), "UnsupportedTrafficType"),
    ("for nonsense", {USE: "w"}, {}, (gateway(serves="service,workload"),), "UnsupportedTrafficType"),
    ("for all", {USE: "w"}, {}, (gateway(serves="all"),), "a/w"),
    (
        "inherited mismatch is not silent for services",
        {},
        {USE: "w"},
        (gateway(serves="workload"),),
        "UnsupportedTrafficType",
    ),
    ("managed by the mesh", {USE: "w", "gateway.istio.io/managed": "istio.io-mesh-controller"}, {}, (HERE,), "-"),
    ("unknown label", {}, {"istio.io/waypoint": "enabled"}, (gateway("waypoint"),), "-"),
    ("no HBONE listener means Same", {USE: "w"}, {}, (gateway(listeners=()),), "a/w"),
]


@pytest.mark.parametrize(
    ("own", "namespace", "waypoints", "expected"),
    [case[1:] for case in SERVICE_CASES],
    ids=[case[0] for case in SERVICE_CASES],
)
def test_service(
    own: dict[str, str], namespace: dict[str, str], waypoints: tuple[Waypoint, ...], expected: str
) -> None:
    assert outcome(bind(service(own), namespace, *waypoints)) == expected


WORKLOAD_CASES = [
    ("service waypoint, own label", {USE: "w"}, {}, (HERE,), "UnsupportedTrafficType"),
    ("service waypoint, namespace label: silent", {}, {USE: "w"}, (HERE,), "-"),
    ("workload waypoint", {}, {USE: "w"}, (gateway(serves="workload"),), "a/w"),
    ("all", {USE: "w"}, {}, (gateway(serves="all"),), "a/w"),
    ("opt-out", {USE: "none"}, {USE: "w"}, (gateway(serves="all"),), "-"),
]


@pytest.mark.parametrize(
    ("own", "namespace", "waypoints", "expected"),
    [case[1:] for case in WORKLOAD_CASES],
    ids=[case[0] for case in WORKLOAD_CASES],
)
def test_workload(
    own: dict[str, str], namespace: dict[str, str], waypoints: tuple[Waypoint, ...], expected: str
) -> None:
    assert outcome(bind(pod(own), namespace, *waypoints)) == expected


def test_a_waypoints_own_pod_has_no_waypoint() -> None:
    assert outcome(bind(pod(), {USE: "w"}, gateway(serves="all"), instance=True)) == "-"


def test_every_failure_names_the_gateway_it_looked_at() -> None:
    assert bind(service({USE: "x", USE_NAMESPACE: "b"}), {}).looked_at == (("b", "x"),)
    assert bind(pod(), {USE: "w"}, HERE).looked_at == (("a", "w"),)


ALIAS = {"istio.io/waypoint": "enabled"}
ALIAS_CASES = [
    ("off", ALIAS, False, "-"),
    ("on", ALIAS, True, "a/waypoint"),
    ("another value", {"istio.io/waypoint": "true"}, True, "-"),
    ("use-waypoint wins", {**ALIAS, USE: "w"}, True, "a/w"),
    ("use-waypoint none wins", {**ALIAS, USE: "none"}, True, "-"),
]


@pytest.mark.parametrize(
    ("labels", "alias", "expected"), [case[1:] for case in ALIAS_CASES], ids=[case[0] for case in ALIAS_CASES]
)
def test_label_alias(labels: dict[str, str], alias: bool, expected: str) -> None:
    binding = bind(service(), labels, HERE, gateway("waypoint"), alias=alias)
    assert outcome(binding) == expected
    assert binding.alias == (expected == "a/waypoint")


def test_label_alias_is_for_namespaces_only() -> None:
    assert outcome(bind(service(ALIAS), {}, gateway("waypoint"), alias=True)) == "-"


def test_selector_on_namespace_labels() -> None:
    expression = LabelSelectorRequirement(key="team", operator="In", values=("red", "blue"))
    selector = LabelSelector(match_labels={"env": "prod"}, match_expressions=(expression,))
    waypoint = gateway("x", "b", allowed="Selector", selector=selector)
    own = {USE: "x", USE_NAMESPACE: "b"}
    assert outcome(bind(service(own), {"env": "prod", "team": "red"}, waypoint)) == "b/x"
    assert outcome(bind(service(own), {"env": "prod", "team": "green"}, waypoint)) == "AttachmentDenied"
    assert outcome(bind(service(own), {"team": "red"}, waypoint)) == "AttachmentDenied"
    unselected = gateway("x", "b", allowed="Selector")
    assert outcome(bind(service(own), {"env": "prod"}, unselected)) == "AttachmentDenied"


def test_listener_of_the_inbound_binding_decides() -> None:
    listeners = (ListenerRecord("mesh", 15008, "HBONE", "All"), ListenerRecord("in", 15088, "TCP", "Same"))
    annotations = {"ambient.istio.io/waypoint-inbound-binding": "PROXY/15088"}
    sandwiched = gateway("x", "b", listeners=listeners, annotations=annotations)
    assert sandwiched.inbound == InboundBinding("PROXY", 15088)
    assert outcome(bind(service({USE: "x", USE_NAMESPACE: "b"}), {}, sandwiched)) == "AttachmentDenied"


def test_class_gives_defaults_and_gateway_overrides() -> None:
    record = GatewayRecord("a", "w", "c")
    assert waypoint_of(record, None).serves == {"service"}
    labelled = GatewayClassRecord("c", "x", {"istio.io/waypoint-for": "all"})
    assert waypoint_of(record, labelled).serves == {"service", "workload"}
    own = GatewayRecord("a", "w", "c", labels={"istio.io/waypoint-for": "none"})
    assert waypoint_of(own, labelled).serves == frozenset()


def test_private_service_entry_needs_a_waypoint_of_its_namespace() -> None:
    entry = service({USE: "x", USE_NAMESPACE: "b"}, kind="ServiceEntry", namespace_only=True)
    assert bind(entry, {}, ELSEWHERE).reason is Reason.CROSS_NAMESPACE
    assert outcome(bind(service({USE: "w"}, kind="ServiceEntry", namespace_only=True), {}, HERE)) == "a/w"


INGRESS_CASES = [
    ({}, {}, False, ""),
    ({"istio.io/ingress-use-waypoint": "true"}, {}, True, "Ingress traffic will traverse"),
    ({}, {"istio.io/ingress-use-waypoint": "1"}, True, "Ingress traffic will traverse"),
    ({"istio.io/ingress-use-waypoint": "false"}, {"istio.io/ingress-use-waypoint": "true"}, False, "does not traverse"),
    ({"istio.io/ingress-use-waypoint": "yes"}, {}, False, "does not traverse"),
]


@pytest.mark.parametrize(("own", "namespace", "ingress", "note"), INGRESS_CASES)
def test_ingress(own: dict[str, str], namespace: dict[str, str], ingress: bool, note: str) -> None:
    binding = bind(service({USE: "w", **own}), namespace, HERE)
    assert binding.ingress is ingress
    assert binding.message.startswith("Successfully attached to waypoint a/w")
    assert note in binding.message


CANARY_CASES = [
    ("good", "c", "20", (gateway("c"),), 20, "takes 20%"),
    ("no weight", "c", None, (gateway("c"),), None, "CanaryInvalidWeight"),
    ("too heavy", "c", "101", (gateway("c"),), None, "CanaryInvalidWeight"),
    ("no number", "c", "some", (gateway("c"),), None, "CanaryInvalidWeight"),
    ("the primary itself", "w", "20", (), None, "CanarySameAsPrimary"),
    ("missing", "c", "20", (), None, "WaypointIsNotReady"),
    ("wrong traffic", "c", "20", (gateway("c", serves="workload"),), None, "UnsupportedTrafficType"),
]


@pytest.mark.parametrize(
    ("name", "weight", "more", "expected", "note"),
    [case[1:] for case in CANARY_CASES],
    ids=[case[0] for case in CANARY_CASES],
)
def test_canary(name: str, weight: str | None, more: tuple[Waypoint, ...], expected: int | None, note: str) -> None:
    annotations = {"istio.io/use-waypoint-canary-weight": weight} if weight is not None else {}
    subject = service({USE: "w", "istio.io/use-waypoint-canary": name}, annotations=annotations)
    binding = bind(subject, {}, HERE, *more)
    assert outcome(binding) == "a/w", "a bad canary leaves the primary in force"
    assert (binding.canary.weight if binding.canary else None) == expected
    assert note in binding.message
    assert ("a", name) in binding.looked_at
