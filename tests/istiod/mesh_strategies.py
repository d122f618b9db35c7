"""A small universe of objects in which every name is likely to refer to something: food for the index's Hypothesis tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tulle.istiod.index.records import (
    Change,
    GatewayClassRecord,
    GatewayRecord,
    GroupRecord,
    Kind,
    ListenerRecord,
    Member,
    NamespaceRecord,
    NodeRecord,
    Protocol,
    ServicePort,
    ServiceRecord,
    WorkloadRecord,
)
from tulle.security.mesh import MeshSettings
from tulle.security.model import (
    Action,
    AuthorizationPolicy,
    Meta,
    MtlsMode,
    Operation,
    PeerAuthentication,
    Rule,
    Source,
    TargetRef,
)

ROOT = "istio-system"
NAMESPACES = ("a", "b", ROOT)
PODS = ("p", "q", "r")
SERVICES = ("s", "t")
GATEWAYS = ("waypoint", "w")
APPS = ("one", "two")

use_waypoint = st.sampled_from(
    [
        {},
        {"istio.io/use-waypoint": "waypoint"},
        {"istio.io/use-waypoint": "w"},
        {"istio.io/use-waypoint": "none"},
        {"istio.io/use-waypoint": "w", "istio.io/use-waypoint-namespace": "b"},
        {"istio.io/waypoint": "enabled"},
        {"istio.io/use-waypoint": "w", "istio.io/use-waypoint-canary": "waypoint"},
    ]
)
namespace = st.sampled_from(NAMESPACES)
app = st.sampled_from(APPS)


def uid(ns: str, name: str) -> str:
    return f"Kubernetes//Pod/{ns}/{name}"


def hostname(ns: str, name: str) -> str:
    return f"{name}.{ns}.svc.cluster.local"


def optional(value: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects go as well as come, but less often."""
    return st.one_of(value, value, value, st.none())


@st.composite
def settings(draw: st.DrawFn) -> Change:
    flags = draw(st.tuples(st.booleans(), st.booleans()))
    return Change(Kind.SETTINGS, ("", ""), MeshSettings(waypoint_label_alias=flags[0], lift_selector_policies=flags[1]))


@st.composite
def namespaces(draw: st.DrawFn) -> Change:
    name = draw(namespace)
    return Change(Kind.NAMESPACE, ("", name), draw(optional(st.builds(NamespaceRecord, st.just(name), use_waypoint))))


@st.composite
def nodes(draw: st.DrawFn) -> Change:
    return Change(Kind.NODE, ("", "n"), draw(optional(st.builds(NodeRecord, st.just("n"), zone=app))))


@st.composite
def classes(draw: st.DrawFn) -> Change:
    controller = st.sampled_from(["istio.io/mesh-controller", "example.com/other"])
    record = st.builds(GatewayClassRecord, st.just("istio-waypoint"), controller)
    return Change(Kind.GATEWAY_CLASS, ("", "istio-waypoint"), draw(optional(record)))


@st.composite
def gateways(draw: st.DrawFn) -> Change:
    key = (draw(namespace), draw(st.sampled_from(GATEWAYS)))
    serves = st.sampled_from(["service", "workload", "all", "none"])
    listener = ListenerRecord("mesh", 15008, "HBONE", draw(st.sampled_from(["Same", "All"])))
    network = draw(st.sampled_from([{}, {"topology.istio.io/network": "far"}]))
    record = GatewayRecord(
        *key,
        class_name="istio-east-west" if network else "istio-waypoint",
        labels={"istio.io/waypoint-for": draw(serves), **network},
        listeners=(listener,),
        addresses=(("Hostname", hostname(*key)),) if draw(st.integers(0, 3)) else (),
    )
    return Change(Kind.GATEWAY, key, draw(optional(st.just(record))))


@st.composite
def services(draw: st.DrawFn) -> Change:
    key = (draw(namespace), draw(st.sampled_from(SERVICES)))
    port = ServicePort("http", draw(st.sampled_from([80, 81])), 0, Protocol.HTTP11)
    annotations = draw(st.sampled_from([{}, {"istio.io/use-waypoint-canary-weight": "10"}]))
    record = ServiceRecord(
        "Service", *key, hostname(*key), ("10.96.0.1",), (port,), labels=draw(use_waypoint), annotations=annotations
    )
    return Change(Kind.SERVICE, (key[0], hostname(*key)), draw(optional(st.just(record))))


@st.composite
def service_entries(draw: st.DrawFn) -> Change:
    """For hosts that Services have too."""
    ns, name, host = draw(namespace), draw(st.sampled_from(SERVICES)), draw(st.sampled_from(SERVICES))
    record = ServiceRecord(
        "ServiceEntry",
        ns,
        name,
        hostname(ns, host),
        ("240.240.0.1",),
        labels=draw(use_waypoint),
        created=draw(st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"])),
    )
    return Change(Kind.SERVICE, (ns, f"ServiceEntry/{name}/{host}"), draw(optional(st.just(record))))


@st.composite
def workloads(draw: st.DrawFn) -> Change:
    key = (draw(namespace), draw(st.sampled_from(PODS)))
    labels = {"app": draw(app), **draw(use_waypoint)}
    if draw(st.integers(0, 5)) == 0:
        labels["gateway.networking.k8s.io/gateway-name"] = "w"
    record = WorkloadRecord(
        "Pod",
        uid(*key),
        *key,
        addresses=("10.244.1.2",),
        node="n",
        service_account="default",
        labels=labels,
        ready=draw(st.booleans()),
        hbone=draw(st.booleans()),
        network=draw(st.sampled_from(["", "", "far", "farther"])),
        ports=draw(st.sampled_from([(), (("web", 9090), ("other", 9091))])),
    )
    return Change(Kind.WORKLOAD, ("", record.uid), draw(optional(st.just(record))))


@st.composite
def groups(draw: st.DrawFn) -> Change:
    ns, source = draw(namespace), draw(st.sampled_from(["g", "h"]))
    ports = (("http", draw(st.sampled_from([8080, 8081]))),)
    picked = draw(st.sets(st.tuples(namespace, st.sampled_from(PODS))))
    selector = draw(st.one_of(st.none(), st.builds(lambda value: {"app": value}, app)))
    keys = draw(st.sets(st.sampled_from(SERVICES), min_size=1))
    record = GroupRecord(
        ns,
        source,
        tuple((ns, hostname(ns, name)) for name in sorted(keys)),
        tuple(Member(uid(*pod), ports) for pod in sorted(picked)),
        selector,
        ports,
        own_ports=draw(st.sampled_from([(), (("http", "web"),), (("http", "other"),)])),
    )
    return Change(Kind.GROUP, (ns, source), draw(optional(st.just(record))))


_principals = Source(principals=("cluster.local/ns/a/sa/default",))
_rules = st.sampled_from(
    [
        (),
        (Rule(),),
        (Rule(sources=(_principals,)),),
        (Rule(sources=(_principals,), operations=(Operation(methods=("GET",)),)),),
        (Rule(sources=(Source(namespaces=("a",)),), operations=(Operation(methods=("GET",)),)),),
        (Rule(operations=(Operation(ports=("8080",)),)),),
    ]
)
_attachments = st.one_of(
    st.builds(lambda value: {"selector": (("app", value),)}, app),
    st.just({"selector": None}),
    st.just({"target_refs": (TargetRef("", "Service", "s"),)}),
    st.just({"target_refs": (TargetRef("gateway.networking.k8s.io", "Gateway", "w"),)}),
    st.just({"target_refs": (TargetRef("gateway.networking.k8s.io", "GatewayClass", "istio-waypoint"),)}),
)


@st.composite
def policies(draw: st.DrawFn) -> Change:
    key = (draw(namespace), draw(st.sampled_from(["x", "y"])))
    record = AuthorizationPolicy(
        Meta("AuthorizationPolicy", *key),
        action=draw(st.sampled_from([Action.ALLOW, Action.DENY])),
        rules=draw(_rules),
        **draw(_attachments),
    )
    return Change(Kind.POLICY, key, draw(optional(st.just(record))))


@st.composite
def peer_authentications(draw: st.DrawFn) -> Change:
    key = (draw(namespace), draw(st.sampled_from(["x", "y"])))
    selector = draw(st.one_of(st.none(), st.builds(lambda value: (("app", value),), app)))
    record = PeerAuthentication(
        Meta(
            "PeerAuthentication", *key, creation=draw(st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"]))
        ),
        selector,
        draw(st.sampled_from(MtlsMode)),
        ((8080, MtlsMode.STRICT),) if selector and draw(st.booleans()) else (),
    )
    return Change(Kind.PEER_AUTHENTICATION, key, draw(optional(st.just(record))))


change = st.one_of(
    settings(),
    namespaces(),
    nodes(),
    classes(),
    gateways(),
    services(),
    service_entries(),
    workloads(),
    groups(),
    policies(),
    peer_authentications(),
)


def world() -> list[Change]:
    """Where every history starts: a mesh in which most things are connected, so that a change has somewhere to go."""
    controller = GatewayClassRecord("istio-waypoint", "istio.io/mesh-controller")
    found = [
        Change(Kind.SETTINGS, ("", ""), MeshSettings(waypoint_label_alias=True, lift_selector_policies=True)),
        Change(Kind.GATEWAY_CLASS, ("", "istio-waypoint"), controller),
        Change(Kind.NODE, ("", "n"), NodeRecord("n", zone="z")),
    ]
    for ns in ("a", "b"):
        labels = {"istio.io/use-waypoint": "w"} if ns == "a" else {"istio.io/waypoint": "enabled"}
        found.append(Change(Kind.NAMESPACE, ("", ns), NamespaceRecord(ns, labels)))
        for name in GATEWAYS:
            serves = {"istio.io/waypoint-for": "all"}
            listener = ListenerRecord("mesh", 15008, "HBONE", "All")
            address = (("Hostname", hostname(ns, name)),)
            record = GatewayRecord(ns, name, "istio-waypoint", serves, listeners=(listener,), addresses=address)
            found.append(Change(Kind.GATEWAY, (ns, name), record))
        for name in SERVICES:
            ports = (ServicePort("http", 80, 0, Protocol.HTTP11),)
            service = ServiceRecord("Service", ns, name, hostname(ns, name), ("10.96.0.1",), ports)
            found.append(Change(Kind.SERVICE, service.key, service))
        for name in PODS:
            labels = {"app": APPS[name == "p"]}
            pod = WorkloadRecord(
                "Pod", uid(ns, name), ns, name, ("10.244.1.2",), node="n", service_account="default", labels=labels
            )
            found.append(Change(Kind.WORKLOAD, ("", pod.uid), pod))
        members = tuple(Member(uid(ns, name), (("http", 8080),)) for name in PODS)
        group = GroupRecord(ns, "g", ((ns, hostname(ns, SERVICES[0])),), members)
        found.append(Change(Kind.GROUP, (ns, "g"), group))
        rule = Rule(sources=(_principals,), operations=(Operation(methods=("GET",)),))
        meta = Meta("AuthorizationPolicy", ns, "x")
        policy = AuthorizationPolicy(meta, selector=(("app", "one"),), rules=(rule,))
        found.append(Change(Kind.POLICY, (ns, "x"), policy))
    return found


batches = st.lists(st.lists(change, min_size=1, max_size=4), min_size=1, max_size=20)
