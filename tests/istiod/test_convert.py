"""API objects reduced to records, and records turned into WDS (spec A2, E1, E2), as tables."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tulle.istiod.index import convert, entries
from tulle.istiod.index.mesh import MeshIndex
from tulle.istiod.index.protocols import protocol_of
from tulle.istiod.index.records import Change, GroupRecord, Kind, Member, Protocol, Resolution, WorkloadType
from tulle.istiod.index.state import ServiceState
from tulle.istiod.index.waypoints import UNBOUND
from tulle.istiod.wds import EXPLAIN_REFUSALS, KUBERNETES_SERVICE, service_address, workload_address
from tulle.kube.objects import EndpointSlice, Pod, Service
from tulle.security.mesh import MeshSettings
from tulle.security.parse import parse_authorization_policy
from tulle.xds.proto import workload_pb2 as pb

from . import wds_world
from .test_mesh_index import POD, lesson
from .wds_world import CART, CLASS, Mesh, endpoints, gateway, records, service_entry, workload_entry

DOMAIN = "cluster.local"
READY = [{"type": "Ready", "status": "True"}]


def pod(
    meta: dict[str, Any] | None = None, spec: dict[str, Any] | None = None, status: dict[str, Any] | None = None
) -> Pod:
    return msgspec.convert(
        {
            "metadata": {"namespace": "a", "name": "p", **(meta or {})},
            "spec": {"nodeName": "n", "serviceAccountName": "sa", **(spec or {})},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.244.0.5"}], "conditions": READY, **(status or {})},
        },
        Pod,
    )


def workload(obj: Pod) -> Any:
    (record,) = convert.from_pod(obj).values()
    return record


def owner(kind: str, name: str) -> dict[str, Any]:
    reference = {"apiVersion": "x/v1", "kind": kind, "name": name, "uid": "u", "controller": True}
    return {"ownerReferences": [reference], "labels": {"pod-template-hash": "5d8f"}}


def test_pod() -> None:
    record = workload(pod())
    assert record.uid == "Kubernetes//Pod/a/p"
    assert (record.addresses, record.node, record.service_account, record.ready) == (("10.244.0.5",), "n", "sa", True)


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({}, (WorkloadType.POD, "p")),
        (owner("ReplicaSet", "web-5d8f"), (WorkloadType.DEPLOYMENT, "web")),
        (owner("ReplicaSet", "bare"), (WorkloadType.POD, "bare")),
        (owner("Job", "once"), (WorkloadType.JOB, "once")),
        (owner("Job", "nightly-29012345"), (WorkloadType.CRONJOB, "nightly")),
        (owner("DaemonSet", "agent"), (WorkloadType.POD, "agent")),
    ],
)
def test_what_made_a_pod(meta: dict[str, Any], expected: tuple[WorkloadType, str]) -> None:
    record = workload(pod(meta))
    assert (record.workload_type, record.workload_name) == expected


@pytest.mark.parametrize(
    ("meta", "hbone", "native"),
    [
        ({}, False, False),
        ({"labels": {"istio.io/dataplane-mode": "ambient"}}, False, False),
        ({"annotations": {"ambient.istio.io/redirection": "enabled"}}, True, False),
        ({"annotations": {"ambient.istio.io/redirection": "pending"}}, False, False),
        ({"labels": {"networking.istio.io/tunnel": "http"}}, True, True),
        ({"labels": {"networking.istio.io/tunnel": "tcp,http"}}, True, True),
        ({"labels": {"networking.istio.io/tunnel": "httpish"}}, False, False),
    ],
)
def test_capture(meta: dict[str, Any], hbone: bool, native: bool) -> None:
    record = workload(pod(meta))
    assert (record.hbone, record.native_tunnel) == (hbone, native)


@pytest.mark.parametrize("status", [{"podIPs": []}, {"phase": "Succeeded"}, {"phase": "Failed"}])
def test_no_workload(status: dict[str, Any]) -> None:
    assert convert.from_pod(pod(status=status)) == {}


@pytest.mark.parametrize(
    ("meta", "conditions", "ready"),
    [
        ({}, READY, True),
        ({}, [], False),
        ({}, [{"type": "Ready", "status": "False"}], False),
        ({"deletionTimestamp": "2026-01-01T00:00:00Z"}, READY, False),
    ],
)
def test_readiness(meta: dict[str, Any], conditions: list[Any], ready: bool) -> None:
    assert workload(pod(meta, status={"conditions": conditions})).ready is ready


@pytest.mark.parametrize(
    ("name", "app_protocol", "expected"),
    [
        ("http", "", Protocol.HTTP11),
        ("http-web", "", Protocol.HTTP11),
        ("HTTP", "", Protocol.HTTP11),
        ("httpweb", "", Protocol.UNKNOWN),
        ("http2-x", "", Protocol.HTTP2),
        ("grpc", "", Protocol.GRPC),
        ("grpc-web-x", "", Protocol.HTTP11),
        ("https", "", Protocol.TLS),
        ("tcp", "", Protocol.TCP),
        ("redis", "", Protocol.TCP),
        ("", "", Protocol.UNKNOWN),
        ("web", "", Protocol.UNKNOWN),
        ("tcp", "http", Protocol.HTTP11),
        ("http", "kubernetes.io/h2c", Protocol.HTTP2),
        ("http", "kubernetes.io/ws", Protocol.HTTP11),
        ("http", "example.com/own", Protocol.UNKNOWN),
    ],
)
def test_protocol(name: str, app_protocol: str, expected: Protocol) -> None:
    assert protocol_of(name, app_protocol) is expected


def service(**spec: Any) -> Service:
    port = {"name": "http", "port": 80, "targetPort": "web"}
    defaults: dict[str, Any] = {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": [port]}
    return msgspec.convert({"metadata": {"namespace": "a", "name": "s"}, "spec": {**defaults, **spec}}, Service)


def wds_service(obj: Service, explain: bool = False) -> pb.Service:
    (record,) = convert.from_service(obj, DOMAIN).values()
    return service_address(ServiceState(record, UNBOUND), explain).service


def test_service() -> None:
    found = wds_service(service())
    assert (found.name, found.namespace, found.hostname) == ("s", "a", "s.a.svc.cluster.local")
    assert [address.address for address in found.addresses] == [bytes([10, 96, 0, 7])]
    assert [(port.service_port, port.target_port, port.app_protocol) for port in found.ports] == [(80, 0, pb.HTTP11)]
    assert found.canonical
    assert [one.name for one in found.extensions] == [KUBERNETES_SERVICE]


def test_explain_refusals_is_an_extension_of_services() -> None:
    assert [one.name for one in wds_service(service(), explain=True).extensions] == [
        KUBERNETES_SERVICE,
        EXPLAIN_REFUSALS,
    ]


def test_headless_external_and_udp() -> None:
    assert not wds_service(service(clusterIP="None", clusterIPs=["None"])).addresses
    assert convert.from_service(service(type="ExternalName"), DOMAIN) == {}
    assert not wds_service(service(ports=[{"name": "dns", "port": 53, "protocol": "UDP"}])).ports


LB = pb.LoadBalancing


@pytest.mark.parametrize(
    ("spec", "mode", "scopes", "health"),
    [
        ({}, LB.UNSPECIFIED_MODE, 0, LB.ONLY_HEALTHY),
        ({"trafficDistribution": "PreferClose"}, LB.FAILOVER, 4, LB.ONLY_HEALTHY),
        ({"trafficDistribution": "PreferSameNode"}, LB.FAILOVER, 5, LB.ONLY_HEALTHY),
        ({"internalTrafficPolicy": "Local"}, LB.STRICT, 1, LB.ONLY_HEALTHY),
        ({"publishNotReadyAddresses": True}, LB.UNSPECIFIED_MODE, 0, LB.ALLOW_ALL),
    ],
)
def test_load_balancing(spec: dict[str, Any], mode: int, scopes: int, health: int) -> None:
    found = wds_service(service(**spec)).load_balancing
    assert (found.mode, len(found.routing_preference), found.health_policy) == (mode, scopes, health)


def slice_of(*endpoints: dict[str, Any], ports: list[dict[str, Any]] | None = None, **more: Any) -> EndpointSlice:
    body = {
        "metadata": {"namespace": "a", "name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4",
        "ports": ports or [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": list(endpoints),
        **more,
    }
    return msgspec.convert(body, EndpointSlice)


def test_slice_with_pods() -> None:
    endpoint = {"addresses": ["10.244.0.5"], "targetRef": {"kind": "Pod", "name": "p"}}
    records = convert.from_endpoint_slice(slice_of(endpoint), DOMAIN)
    key = (Kind.GROUP, ("a", "EndpointSlice/s-1"))
    members = (Member("Kubernetes//Pod/a/p", (("http", 8080),)),)
    assert records == {key: GroupRecord("a", key[1][1], (("a", "s.a.svc.cluster.local"),), members)}


def test_slice_addresses_without_a_pod_are_workloads() -> None:
    """Such as the API server behind Service `kubernetes`: without them its address would have no endpoint."""
    records = convert.from_endpoint_slice(slice_of({"addresses": ["192.0.2.1"]}), DOMAIN)
    uid = "Kubernetes/discovery.k8s.io/EndpointSlice/a/s-1/192.0.2.1"
    assert records[Kind.WORKLOAD, ("", uid)].addresses == ("192.0.2.1",)
    assert records[Kind.GROUP, ("a", "EndpointSlice/s-1")].members == (Member(uid, (("http", 8080),)),)


def test_slices_that_mean_nothing() -> None:
    assert convert.from_endpoint_slice(slice_of(addressType="FQDN"), DOMAIN) == {}
    assert convert.from_endpoint_slice(slice_of(metadata={"name": "s", "namespace": "a"}), DOMAIN) == {}


def test_workload_in_wds() -> None:
    found = workload_address(lesson().workloads[POD]).workload
    assert (found.uid, found.name, found.namespace, found.node) == (POD, "p", "hello", "n")
    assert found.tunnel_protocol == pb.HBONE
    assert found.status == pb.HEALTHY
    assert (found.cluster_id, found.network, found.trust_domain) == ("Kubernetes", "", "")
    assert (found.canonical_name, found.canonical_revision) == ("x", "latest")
    (ports,) = found.services.values()
    assert [(one.service_port, one.target_port, one.app_protocol) for one in ports.ports] == [(80, 8080, pb.HTTP11)]
    assert not found.HasField("waypoint"), "a waypoint for services is no waypoint of the workload"


def test_bound_service_in_wds() -> None:
    index = lesson()
    (state,) = index.services.values()
    found = service_address(state, False).service
    assert found.waypoint.hostname.hostname == "waypoint.hello.svc.cluster.local"
    assert found.waypoint.hostname.namespace == "hello"
    assert found.waypoint.hbone_mtls_port == 15008


def test_other_trust_domain_is_written_out() -> None:
    index = lesson(Change(Kind.SETTINGS, ("", ""), MeshSettings(trust_domain="example.org")))
    assert workload_address(index.workloads[POD]).workload.trust_domain == "example.org"


def test_service_entry_with_inline_endpoints() -> None:
    manifest = {
        "metadata": {"namespace": "a", "name": "ext"},
        "spec": {
            "hosts": ["one.example.com", "two.example.com"],
            "addresses": ["240.0.0.1"],
            "ports": [
                {"name": "http", "number": 80, "protocol": "HTTP", "targetPort": 8080},
                {"name": "u", "number": 1, "protocol": "UDP"},
            ],
            "resolution": "STATIC",
            "exportTo": ["."],
            "endpoints": [{"address": "192.0.2.9", "ports": {"http": 9090}, "locality": "r/z", "weight": 5}],
        },
    }
    records = entries.from_service_entry(manifest)
    one = records[Kind.SERVICE, ("a", "ServiceEntry/ext/one.example.com")]
    assert (one.kind, one.name, one.addresses, one.namespace_only) == ("ServiceEntry", "ext", ("240.0.0.1",), True)
    assert [(port.port, port.protocol) for port in one.ports] == [(80, Protocol.HTTP11)]
    uid = "Kubernetes/networking.istio.io/ServiceEntry/a/ext/192.0.2.9"
    endpoint = records[Kind.WORKLOAD, ("", uid)]
    assert (endpoint.locality, endpoint.capacity) == (("r", "z", ""), 5)
    group = records[Kind.GROUP, ("a", "ServiceEntry/ext")]
    assert group.members == (Member(uid, (("http", 9090),)),)
    assert group.services == (("a", "one.example.com"), ("a", "two.example.com"))


def test_service_entry_resolutions() -> None:
    def of(**spec: Any) -> Any:
        body = {"hosts": ["x.example.com"], "ports": [{"name": "http", "number": 80, "protocol": "HTTP"}], **spec}
        return entries.from_service_entry({"metadata": {"namespace": "a", "name": "e"}, "spec": body})

    assert of()[Kind.SERVICE, ("a", "ServiceEntry/e/x.example.com")].resolution is Resolution.PASSTHROUGH
    dns = of(resolution="DNS")
    (found,) = [record for (kind, _), record in dns.items() if kind is Kind.WORKLOAD]
    assert (found.addresses, found.hostname) == ((), "x.example.com")
    assert dns[Kind.SERVICE, ("a", "ServiceEntry/e/x.example.com")].resolution is Resolution.DNS
    assert (
        of(resolution="STATIC")[Kind.SERVICE, ("a", "ServiceEntry/e/x.example.com")].resolution is Resolution.ENDPOINTS
    )
    each = of(resolution="DNS_ROUND_ROBIN", hosts=["x.example.com", "y.example.com", "*.example.com"])
    groups = [record for (kind, _), record in each.items() if kind is Kind.GROUP]
    assert {one.services: [member.uid.rpartition("/")[2] for member in one.members] for one in groups} == {
        (("a", "x.example.com"),): ["x.example.com"],
        (("a", "y.example.com"),): ["y.example.com"],
    }, "each host stands behind itself only"
    selecting = of(resolution="STATIC", workloadSelector={"labels": {"app": "x"}})
    assert selecting[Kind.GROUP, ("a", "ServiceEntry/e")].selector == {"app": "x"}


def test_workload_entry_joins_a_service_entry_by_label() -> None:
    index = MeshIndex()
    entry = {
        "metadata": {"namespace": "a", "name": "vm", "labels": {"app": "x"}},
        "spec": {"address": "192.0.2.7", "serviceAccount": "vm", "labels": {"networking.istio.io/tunnel": "http"}},
    }
    service_entry = {
        "metadata": {"namespace": "a", "name": "e"},
        "spec": {
            "hosts": ["x.example.com"],
            "ports": [{"name": "http", "number": 80, "protocol": "HTTP"}],
            "resolution": "STATIC",
            "workloadSelector": {"labels": {"app": "x"}},
        },
    }
    index.apply(convert.changes({}, entries.from_service_entry(service_entry)))
    index.apply(convert.changes({}, entries.from_workload_entry(entry)))
    index.flush()
    state = index.workloads["Kubernetes/networking.istio.io/WorkloadEntry/a/vm"]
    assert [one.service for one in state.services] == [("a", "x.example.com")]
    assert state.record.hbone
    assert state.record.native_tunnel


@pytest.mark.parametrize("first", [0, 1, 2])
def test_of_several_objects_with_one_host_in_a_namespace_another_takes_the_place_of_one_that_goes(first: int) -> None:
    host = CART[1]
    newer = service_entry("newer", {"creationTimestamp": "2026-01-02T00:00:00Z"}, hosts=[host])
    older = service_entry("older", {"creationTimestamp": "2026-01-01T00:00:00Z"}, hosts=[host])
    objects: list[Any] = [wds_world.service(), older, newer]
    mesh = Mesh.of(*objects[first:], *objects[:first])
    for obj, name in zip(objects, ("cart", "older", "newer"), strict=True):
        assert mesh.service().name == name
        mesh.index.apply(convert.changes(records(obj), {}))
        assert CART in mesh.index.flush().services
    assert CART not in mesh.index.services


def test_no_namespace_takes_the_policies_of_anothers_pods_to_its_own_waypoint() -> None:
    foreign = {"addresses": ["10.1.0.5"], "targetRef": {"kind": "Pod", "namespace": "victim", "name": "p"}}
    objects = (gateway(), CLASS, wds_world.service({"labels": {"istio.io/use-waypoint": "wp"}}), endpoints(foreign))
    mesh = Mesh.of(
        *objects,
        wds_world.pod({"namespace": "victim", "labels": {"app": "x"}}),
        settings=MeshSettings(lift_selector_policies=True),
    )
    rule = {
        "from": [{"source": {"principals": ["cluster.local/ns/friend/sa/default"]}}],
        "to": [{"operation": {"methods": ["GET"]}}],
    }
    manifest = {
        "kind": "AuthorizationPolicy",
        "metadata": {"namespace": "victim", "name": "friends"},
        "spec": {"selector": {"matchLabels": {"app": "x"}}, "rules": [rule]},
    }
    mesh.index.apply([Change(Kind.POLICY, ("victim", "friends"), parse_authorization_policy(manifest))])
    mesh.index.flush()
    state = mesh.index.workloads["Kubernetes//Pod/victim/p"]
    assert (state.services, state.policies) == ((), ("victim/friends",)), "ztunnel lets the other's waypoint through"


ZONED = "fe80::1%eth0"
USES = {"labels": {"istio.io/use-waypoint": "wp"}}
SUPERSCRIPT = {"annotations": {"ambient.istio.io/waypoint-inbound-binding": "PROXY/²"}}
TOO_LARGE = {"annotations": {"ambient.istio.io/waypoint-inbound-binding": "PROXY/99999999999"}}
LONG = {
    "labels": {"istio.io/use-waypoint": "wp", "istio.io/use-waypoint-canary": "c"},
    "annotations": {"istio.io/use-waypoint-canary-weight": "9" * 5000},
}


def annotated(meta: dict[str, Any]) -> Any:
    found = gateway()
    metadata = msgspec.structs.replace(found.metadata, **meta)
    return msgspec.structs.replace(found, metadata=metadata)


@pytest.mark.parametrize(
    "objects",
    [
        [workload_entry(address=ZONED)],
        [service_entry(addresses=[ZONED, "fe80::/64%eth0"])],
        [service_entry(endpoints=[{"address": ZONED}])],
        [endpoints({"addresses": ["010.0.0.1", ZONED]})],
        [gateway(addresses=[{"type": "NamedAddress", "value": "lb"}]), wds_world.service(USES)],
        [gateway(addresses=[{"type": "IPAddress", "value": ZONED}]), wds_world.service(USES)],
        [annotated(SUPERSCRIPT), wds_world.pod({"labels": {"gateway.networking.k8s.io/gateway-name": "wp"}})],
        [annotated(TOO_LARGE), wds_world.pod({"labels": {"gateway.networking.k8s.io/gateway-name": "wp"}})],
        [gateway(), wds_world.service(LONG)],
    ],
)
def test_nothing_that_a_user_may_write_keeps_the_mesh_from_being_computed(objects: list[Any]) -> None:
    mesh = Mesh.of(CLASS, *objects)
    for uid in mesh.index.workloads:
        assert not mesh.workload(uid).waypoint.ByteSize()
    for key in mesh.index.services:
        mesh.service(key)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["2001:DB8:0::1", "2001:db8::1"], ("2001:db8::1",)),
        (["10.0.0.7/32", "10.0.0.9/24"], ("10.0.0.7", "10.0.0.0/24")),
        ([ZONED, "x", "10.0.0.7"], ("10.0.0.7",)),
    ],
)
def test_addresses_of_a_service_entry_have_their_usual_form(given: list[str], expected: tuple[str, ...]) -> None:
    mesh = Mesh.of(service_entry(addresses=given))
    assert mesh.index.services["a", "x.example.com"].record.addresses == expected
