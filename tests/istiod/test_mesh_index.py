"""The incremental index: any history gives the state that a rebuild gives, and every difference is announced."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings

from tulle.istiod.index.mesh import MeshIndex
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
from tulle.istiod.index.state import PortMapping, ServiceTarget
from tulle.istiod.index.tables import Tables
from tulle.istiod.index.waypoints import InboundBinding
from tulle.security.mesh import MeshSettings
from tulle.security.model import (
    AuthorizationPolicy,
    Meta,
    MtlsMode,
    Operation,
    PeerAuthentication,
    Rule,
    Source,
    TargetRef,
)

from . import mesh_strategies as mesh


def rebuilt(history: Iterable[Change]) -> MeshIndex:
    """A new index of what a history left behind."""
    last = {(change.kind, change.key): change for change in history}
    index = MeshIndex()
    index.apply(change for change in last.values() if change.record is not None)
    index.flush()
    return index


def reverse_indexes(tables: Tables) -> dict[str, Any]:
    return {name: value for name, value in vars(tables).items() if name.startswith("_") or "_" in name}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mesh.batches)
def test_incremental_equals_rebuild(batches: list[list[Change]]) -> None:
    index = MeshIndex()
    history: list[Change] = []
    workloads: dict[Any, Any] = {}
    services: dict[Any, Any] = {}
    policies: dict[Any, Any] = {}
    for batch in (mesh.world(), *batches):
        history += batch
        index.apply(batch)
        delta = index.flush()
        for copy, keys, truth in (
            (workloads, delta.workloads, index.workloads),
            (services, delta.services, index.services),
            (policies, delta.ztunnel_policies, index.ztunnel_policies),
        ):
            for key in keys:
                copy.pop(key, None)
                if key in truth:
                    copy[key] = truth[key]
    expected = rebuilt(history)
    assert index.waypoints == expected.waypoints
    assert index.services == expected.services
    assert index.workloads == expected.workloads
    assert index.bound == expected.bound
    assert index.ztunnel_policies == expected.ztunnel_policies
    assert reverse_indexes(index.tables) == reverse_indexes(expected.tables)
    assert (workloads, services, policies) == (expected.workloads, expected.services, expected.ztunnel_policies)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(mesh.batches)
def test_targets_whose_policies_change_are_announced(batches: list[list[Change]]) -> None:
    """What a waypoint enforces for a service never changes without the pair being in the delta."""
    index = MeshIndex()
    known: dict[Any, Any] = {}
    for batch in (mesh.world(), *batches):
        index.apply(batch)
        delta = index.flush()
        found = {}
        for key, targets in index.bound.items():
            waypoint = index.waypoint_view(index.waypoints[key])
            for target in targets:
                if isinstance(target, ServiceTarget):
                    found[key, target] = index.policy_set.for_service(index.service_view(target.key), waypoint)
        changed = {pair for pair in found.keys() | known.keys() if found.get(pair) != known.get(pair)}
        assert changed <= delta.targets
        known = found


# --- single steps, in a small mesh

ALIAS = MeshSettings(waypoint_label_alias=True, lift_selector_policies=True)
SERVICE = ("hello", "s.hello.svc.cluster.local")
POD = "Kubernetes//Pod/hello/p"


def pod(**fields: Any) -> Change:
    defaults: dict[str, Any] = {
        "kind": "Pod",
        "uid": POD,
        "namespace": "hello",
        "name": "p",
        "addresses": ("10.244.0.5",),
        "node": "n",
        "service_account": "default",
        "labels": {"app": "x"},
        "hbone": True,
    }
    return Change(Kind.WORKLOAD, ("", POD), WorkloadRecord(**{**defaults, **fields}))


def service(**fields: Any) -> Change:
    defaults: dict[str, Any] = {
        "kind": "Service",
        "namespace": "hello",
        "name": "s",
        "hostname": SERVICE[1],
        "addresses": ("10.96.0.7",),
        "ports": (ServicePort("http", 80, 0, Protocol.HTTP11),),
    }
    return Change(Kind.SERVICE, SERVICE, ServiceRecord(**{**defaults, **fields}))


def endpoints(*uids: str, port: int = 8080) -> Change:
    members = tuple(Member(uid, (("http", port),)) for uid in uids)
    return Change(Kind.GROUP, ("hello", "e"), GroupRecord("hello", "e", (SERVICE,), members))


def waypoint(ready: bool = True, serves: str = "service") -> list[Change]:
    addresses = (("Hostname", "waypoint.hello.svc.cluster.local"),) if ready else ()
    listener = ListenerRecord("mesh", 15008, "HBONE")
    labels = {"istio.io/waypoint-for": serves}
    record = GatewayRecord("hello", "waypoint", "istio-waypoint", labels, listeners=(listener,), addresses=addresses)
    return [
        Change(
            Kind.GATEWAY_CLASS, ("", "istio-waypoint"), GatewayClassRecord("istio-waypoint", "istio.io/mesh-controller")
        ),
        Change(Kind.GATEWAY, ("hello", "waypoint"), record),
    ]


def namespace(labels: dict[str, str]) -> Change:
    return Change(Kind.NAMESPACE, ("", "hello"), NamespaceRecord("hello", labels))


def lifted() -> Change:
    rule = Rule(
        sources=(Source(principals=("cluster.local/ns/test/sa/default",)),), operations=(Operation(methods=("GET",)),)
    )
    policy = AuthorizationPolicy(Meta("AuthorizationPolicy", "hello", "v2"), selector=(("app", "x"),), rules=(rule,))
    return Change(Kind.POLICY, ("hello", "v2"), policy)


def lesson(*more: Change) -> MeshIndex:
    index = MeshIndex(ALIAS)
    index.apply([namespace({"istio.io/waypoint": "enabled"}), pod(), service(), endpoints(POD), *waypoint(), *more])
    index.flush()
    return index


def test_ports_are_resolved_per_workload() -> None:
    index = lesson()
    (membership,) = index.workloads[POD].services
    assert membership.service == SERVICE
    assert membership.ports == (PortMapping(80, 8080, Protocol.HTTP11),)


def test_membership_waits_for_the_pod_and_the_service() -> None:
    index = MeshIndex()
    index.apply([endpoints(POD)])
    assert not index.flush()
    index.apply([pod()])
    assert index.flush().workloads == {POD}
    assert index.workloads[POD].services == ()
    index.apply([service()])
    assert index.flush().workloads == {POD}
    assert index.workloads[POD].services


def test_readiness_of_a_pod_reaches_its_services_waypoint() -> None:
    index = lesson()
    index.apply([pod(ready=False)])
    delta = index.flush()
    assert delta.workloads == {POD}
    assert not delta.services
    assert (("hello", "waypoint"), ServiceTarget(SERVICE)) in delta.targets


def test_a_change_that_means_nothing_ends_at_once() -> None:
    index = lesson()
    index.apply([pod(), service(), endpoints(POD), namespace({"istio.io/waypoint": "enabled", "team": "x"})])
    delta = index.flush()
    assert not delta.workloads
    assert not delta.services


def test_lifting_follows_the_waypoint() -> None:
    index = lesson(lifted())
    generated = [policy.key for policy in index.workloads[POD].generated]
    assert generated
    assert set(generated) <= set(index.workloads[POD].policies) & index.ztunnel_policies.keys()
    assert "hello/v2" not in index.workloads[POD].policies
    index.apply(waypoint(ready=False))
    delta = index.flush()
    assert delta.services == {SERVICE}
    assert index.workloads[POD].policies == ("hello/v2",)
    assert not set(generated) & index.ztunnel_policies.keys()
    assert set(generated) <= delta.ztunnel_policies


def test_target_refs_reach_the_waypoint_and_no_workload() -> None:
    index = lesson()
    refs = (TargetRef("", "Service", "s"),)
    policy = AuthorizationPolicy(Meta("AuthorizationPolicy", "hello", "t"), target_refs=refs)
    index.apply([Change(Kind.POLICY, ("hello", "t"), policy)])
    delta = index.flush()
    assert delta.targets == {(("hello", "waypoint"), ServiceTarget(SERVICE))}
    assert not delta.workloads
    assert not delta.ztunnel_policies


def test_mesh_wide_strict_reaches_every_workload() -> None:
    index = lesson()
    strict = PeerAuthentication(Meta("PeerAuthentication", "istio-system", "default"), mode=MtlsMode.STRICT)
    index.apply([Change(Kind.PEER_AUTHENTICATION, ("istio-system", "default"), strict)])
    delta = index.flush()
    assert delta.workloads == {POD}
    assert index.workloads[POD].policies == ("istio-system/istio_converted_static_strict",)
    assert "istio-system/istio_converted_static_strict" in delta.ztunnel_policies


def test_locality_comes_from_the_node() -> None:
    index = lesson(Change(Kind.NODE, ("", "n"), NodeRecord("n", "r", "z")))
    assert index.workloads[POD].locality == ("r", "z", "")
    index.apply([Change(Kind.NODE, ("", "n"), NodeRecord("n", "r", "y"))])
    assert index.flush().workloads == {POD}


def test_a_target_port_that_moves_is_noticed() -> None:
    index = lesson()
    index.apply([endpoints(POD, port=9090)])
    assert index.flush().workloads == {POD}
    assert index.workloads[POD].services[0].ports[0].target_port == 9090


def test_a_gateways_own_pods_follow_the_gateway() -> None:
    """They have no waypoint, and take their traffic as the Gateway's inbound binding says (spec A4.6, D10)."""
    index = MeshIndex()
    index.apply([pod(labels={"gateway.networking.k8s.io/gateway-name": "waypoint"}), *waypoint()])
    index.flush()
    assert index.workloads[POD].inbound is None
    (_, change) = waypoint()
    binding = {"ambient.istio.io/waypoint-inbound-binding": "PROXY/15088"}
    sandwiched = msgspec.structs.replace(change.record, annotations=binding)
    index.apply([Change(Kind.GATEWAY, ("hello", "waypoint"), sandwiched)])
    assert POD in index.flush().workloads
    assert index.workloads[POD].inbound == InboundBinding("PROXY", 15088)
