"""Every field of WDS, from the API object that decides it (spec E2): one row, one field."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest

from tulle.istiod import wds
from tulle.istiod.index import convert
from tulle.istiod.index.records import Change, Kind
from tulle.istiod.publish import Publisher
from tulle.istiod.waypoint_source import WaypointSource
from tulle.kube.objects import Node, Service
from tulle.security.mesh import MeshSettings
from tulle.xds.proto import workload_pb2 as pb

from .wds_world import (
    CART,
    CLASS,
    ENTRY,
    HOST,
    POD,
    Mesh,
    address,
    endpoints,
    gateway,
    pod,
    records,
    service,
    service_entry,
    workload_entry,
)

NODE = msgspec.convert(
    {
        "metadata": {
            "name": "n1",
            "labels": {
                "topology.kubernetes.io/region": "r",
                "topology.kubernetes.io/zone": "z",
                "topology.istio.io/subzone": "s",
            },
        }
    },
    Node,
)
WORKLOADS: list[tuple[str, Iterable[Any], Any]] = [
    ("uid", [pod()], POD),
    ("name", [pod()], "p"),
    ("namespace", [pod()], "a"),
    ("addresses", [pod()], [address("10.1.0.5")]),
    (
        "addresses",
        [pod(status={"podIPs": [{"ip": "10.1.0.5"}, {"ip": "fd00::5"}]})],
        [address("10.1.0.5"), address("fd00::5")],
    ),
    ("hostname", [pod(spec={"hostname": "h"})], ""),
    ("network", [pod()], ""),
    ("network", [pod({"labels": {"topology.istio.io/network": "far"}})], "far"),
    ("tunnel_protocol", [pod()], pb.NONE),
    ("tunnel_protocol", [pod({"annotations": {"ambient.istio.io/redirection": "enabled"}})], pb.HBONE),
    ("native_tunnel", [pod({"labels": {"networking.istio.io/tunnel": "http"}})], True),
    ("trust_domain", [pod()], ""),
    ("service_account", [pod()], "sa"),
    ("service_account", [pod(spec={"serviceAccountName": ""})], "default"),
    ("node", [pod()], "n1"),
    ("canonical_name", [pod()], "p"),
    ("canonical_name", [pod({"labels": {"app": "x"}})], "x"),
    ("canonical_name", [pod({"labels": {"app": "x", "app.kubernetes.io/name": "y"}})], "y"),
    ("canonical_name", [pod({"labels": {"app": "x", "service.istio.io/canonical-name": "z"}})], "z"),
    ("canonical_revision", [pod()], "latest"),
    ("canonical_revision", [pod({"labels": {"version": "v1"}})], "v1"),
    ("workload_type", [pod()], pb.POD),
    ("workload_name", [pod()], "p"),
    ("status", [pod()], pb.HEALTHY),
    ("status", [pod(status={"conditions": []})], pb.UNHEALTHY),
    ("cluster_id", [pod()], "Kubernetes"),
    ("network_mode", [pod()], pb.STANDARD),
    ("network_mode", [pod(spec={"hostNetwork": True})], pb.HOST_NETWORK),
    ("locality", [pod(), NODE], pb.Locality(region="r", zone="z", subzone="s")),
    ("locality", [pod({"labels": {"istio-locality": "r2.z2"}}), NODE], pb.Locality(region="r2", zone="z2")),
]


@pytest.mark.parametrize(("field", "objects", "expected"), WORKLOADS)
def test_pod(field: str, objects: Iterable[Any], expected: Any) -> None:
    assert getattr(Mesh.of(*objects).workload(), field) == expected


def test_absent_fields_of_a_pod() -> None:
    found = Mesh.of(pod()).workload()
    assert not any(map(found.HasField, ("waypoint", "network_gateway", "application_tunnel", "locality", "capacity")))
    assert not found.extensions
    assert not found.authorization_policies


def test_trust_domain_other_than_the_default() -> None:
    assert Mesh.of(pod(), settings=MeshSettings(trust_domain="td")).workload().trust_domain == "td"


def ports_of(workload: Any) -> dict[str, list[tuple[int, int, int]]]:
    return {
        name: [(port.service_port, port.target_port, port.app_protocol) for port in ports.ports]
        for name, ports in workload.services.items()
    }


CART_NAME = "a/cart.a.svc.cluster.local"


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ([], {}),
        ([service(), endpoints()], {CART_NAME: [(80, 8080, pb.HTTP11)]}),
        (
            [
                service(ports=[{"name": "grpc", "port": 90, "targetPort": "rpc"}]),
                endpoints(ports=[{"name": "grpc", "port": 9999}]),
            ],
            {CART_NAME: [(90, 9999, pb.GRPC)]},
        ),
        (
            [service(ports=[{"port": 80}]), endpoints(ports=[{"name": "", "port": 8081}])],
            {CART_NAME: [(80, 8081, pb.UNKNOWN)]},
        ),
        ([service(ports=[{"name": "other", "port": 1}]), endpoints()], {CART_NAME: []}),
        ([endpoints()], {}),
        ([service(type="ExternalName", externalName="x"), endpoints()], {}),
    ],
)
def test_services_of_a_pod(objects: Iterable[Any], expected: Any) -> None:
    assert ports_of(Mesh.of(pod(), *objects).workload()) == expected


LB = pb.LoadBalancing
NEAR = [LB.NETWORK, LB.REGION, LB.ZONE, LB.SUBZONE]
DISTRIBUTION = "networking.istio.io/traffic-distribution"
FAILOVER = LB(routing_preference=NEAR, mode=LB.FAILOVER)
SERVICES: list[tuple[str, Service, Any]] = [
    ("name", service(), "cart"),
    ("namespace", service(), "a"),
    ("hostname", service(), "cart.a.svc.cluster.local"),
    ("addresses", service(), [pb.NetworkAddress(address=address("10.96.0.7"))]),
    ("addresses", service(clusterIP="None", clusterIPs=["None"]), []),
    (
        "addresses",
        service(clusterIPs=["10.96.0.7", "fd00::7"], ipFamilies=["IPv4", "IPv6"]),
        [pb.NetworkAddress(address=address("10.96.0.7")), pb.NetworkAddress(address=address("fd00::7"))],
    ),
    ("ports", service(), [pb.Port(service_port=80, target_port=8080, app_protocol=pb.HTTP11)]),
    (
        "ports",
        service(ports=[{"name": "tls", "port": 443}]),
        [pb.Port(service_port=443, target_port=443, app_protocol=pb.TLS)],
    ),
    ("ports", service(ports=[{"name": "x", "port": 80, "targetPort": "web"}]), [pb.Port(service_port=80)]),
    (
        "ports",
        service(ports=[{"name": "x", "port": 80, "appProtocol": "kubernetes.io/h2c"}]),
        [pb.Port(service_port=80, target_port=80, app_protocol=pb.HTTP2)],
    ),
    ("ports", service(ports=[{"name": "dns", "port": 53, "protocol": "UDP"}]), []),
    ("ip_families", service(), pb.AUTOMATIC),
    ("ip_families", service(ipFamilies=["IPv4"]), pb.IPV4_ONLY),
    ("ip_families", service(ipFamilies=["IPv6"]), pb.IPV6_ONLY),
    ("ip_families", service(ipFamilies=["IPv6", "IPv4"]), pb.DUAL),
    ("load_balancing", service(), LB()),
    ("load_balancing", service(trafficDistribution="PreferClose"), FAILOVER),
    ("load_balancing", service(trafficDistribution="PreferSameZone"), FAILOVER),
    (
        "load_balancing",
        service(trafficDistribution="PreferSameNode"),
        LB(routing_preference=[*NEAR, LB.NODE], mode=LB.FAILOVER),
    ),
    ("load_balancing", service({"annotations": {DISTRIBUTION: "preferclose"}}), FAILOVER),
    ("load_balancing", service({"annotations": {DISTRIBUTION: "Any"}}, trafficDistribution="PreferClose"), LB()),
    ("load_balancing", service(internalTrafficPolicy="Local"), LB(routing_preference=[LB.NODE], mode=LB.STRICT)),
    ("load_balancing", service(publishNotReadyAddresses=True), LB(health_policy=LB.ALLOW_ALL)),
    ("canonical", service(), True),
    ("visibility", service(), pb.PUBLIC),
    ("subject_alt_names", service(), []),
]


@pytest.mark.parametrize(("field", "obj", "expected"), SERVICES)
def test_service(field: str, obj: Service, expected: Any) -> None:
    assert getattr(Mesh.of(obj).service(), field) == expected


BY_NAME = pb.GatewayAddress(
    hostname=pb.NamespacedHostname(namespace="a", hostname="wp.a.svc.cluster.local"), hbone_mtls_port=15008
)
BY_ADDRESS = pb.GatewayAddress(address=pb.NetworkAddress(address=address("10.96.0.9")), hbone_mtls_port=15008)
USES = {"labels": {"istio.io/use-waypoint": "wp"}}


def test_waypoints() -> None:
    assert Mesh.of(service(USES), gateway(), CLASS).service().waypoint == BY_NAME
    through_ingress = service({"labels": {**USES["labels"], "istio.io/ingress-use-waypoint": "true"}})
    assert Mesh.of(through_ingress, gateway(), CLASS).service().ingress_use_waypoint
    by_address = gateway(addresses=[{"type": "IPAddress", "value": "10.96.0.9"}])
    assert Mesh.of(service(USES), by_address, CLASS).service().waypoint == BY_ADDRESS
    assert Mesh.of(pod(USES), gateway(), CLASS).workload().waypoint == BY_NAME
    assert not Mesh.of(service(USES), gateway(traffic="workload"), CLASS).service().HasField("waypoint")


def test_weighted_waypoints() -> None:
    labels = {"istio.io/use-waypoint": "wp", "istio.io/use-waypoint-canary": "two"}
    annotated = {"labels": labels, "annotations": {"istio.io/use-waypoint-canary-weight": "30"}}
    found = Mesh.of(service(annotated), gateway(), gateway("two"), CLASS).service()
    assert found.waypoint == BY_NAME
    assert [(one.destination.hostname.hostname.partition(".")[0], one.weight) for one in found.weighted_waypoints] == [
        ("wp", 70),
        ("two", 30),
    ]


def test_application_tunnel_of_a_sandwiched_waypoint() -> None:
    sandwiched = msgspec.structs.replace(
        gateway(),
        metadata=msgspec.structs.replace(
            gateway().metadata, annotations={"ambient.istio.io/waypoint-inbound-binding": "PROXY/15088"}
        ),
    )
    instance = pod({"labels": {"gateway.networking.k8s.io/gateway-name": "wp"}})
    found = Mesh.of(instance, sandwiched, CLASS).workload()
    assert found.application_tunnel == pb.ApplicationTunnel(protocol=pb.ApplicationTunnel.PROXY, port=15088)


SERVICE_ENTRIES: list[tuple[str, dict[str, Any], Any]] = [
    ("name", service_entry(), "x"),
    ("hostname", service_entry(), "x.example.com"),
    ("addresses", service_entry(), []),
    ("addresses", service_entry(addresses=["240.0.0.1"]), [pb.NetworkAddress(address=address("240.0.0.1"))]),
    (
        "addresses",
        service_entry(addresses=["10.9.0.0/16"]),
        [pb.NetworkAddress(address=address("10.9.0.0"), length=16)],
    ),
    ("ports", service_entry(), [pb.Port(service_port=80, target_port=80, app_protocol=pb.HTTP11)]),
    (
        "ports",
        service_entry(ports=[{"name": "t", "number": 443, "protocol": "TLS", "targetPort": 8443}]),
        [pb.Port(service_port=443, target_port=8443, app_protocol=pb.TLS)],
    ),
    ("subject_alt_names", service_entry(subjectAltNames=["spiffe://td/ns/x/sa/y"]), ["spiffe://td/ns/x/sa/y"]),
    ("load_balancing", service_entry(resolution="NONE"), LB(mode=LB.PASSTHROUGH)),
    ("load_balancing", service_entry(meta={"annotations": {DISTRIBUTION: "PreferClose"}}), FAILOVER),
    ("canonical", service_entry(), True),
    ("visibility", service_entry(), pb.PUBLIC),
    ("visibility", service_entry(exportTo=["."]), pb.NAMESPACE),
]


@pytest.mark.parametrize(("field", "obj", "expected"), SERVICE_ENTRIES)
def test_service_entry(field: str, obj: dict[str, Any], expected: Any) -> None:
    assert getattr(Mesh.of(obj).service(HOST), field) == expected


def test_allocated_addresses_of_a_service_entry() -> None:
    status = {
        "addresses": [{"host": "x.example.com", "value": "240.240.0.1"}, {"host": "other", "value": "240.240.0.2"}]
    }
    found = Mesh.of({**service_entry(), "status": status}).service(HOST)
    assert [one.address for one in found.addresses] == [address("240.240.0.1")]


def test_which_of_several_services_with_one_host_is_canonical() -> None:
    older = service_entry("older", {"namespace": "c", "creationTimestamp": "2026-01-01T00:00:00Z"})
    newer = service_entry("newer", {"namespace": "b", "creationTimestamp": "2026-01-02T00:00:00Z"})
    mesh = Mesh.of(newer, older)
    host = HOST[1]
    assert (mesh.service(("b", host)).canonical, mesh.service(("c", host)).canonical) == (False, True)
    mesh.index.apply(convert.changes(records(older), {}))
    delta = mesh.index.flush()
    assert mesh.service(("b", host)).canonical
    assert ("b", host) in delta.services
    masked = service_entry("masked", {"namespace": "b"}, hosts=[CART[1]])
    found = Mesh.of(masked, service())
    assert (found.service(("b", CART[1])).canonical, found.service().canonical) == (False, True)


def test_which_of_several_services_with_one_address_is_canonical() -> None:
    """A Service before any ServiceEntry, and of these the oldest; one that others do not see stands in nobody's way."""
    taking = service_entry("taking", {"namespace": "b"}, hosts=["evil.example.com"], addresses=["10.96.0.7"])
    mesh = Mesh.of(taking, service())
    assert (mesh.service(("b", "evil.example.com")).canonical, mesh.service().canonical) == (False, True)
    mesh.index.apply(convert.changes(records(service()), {}))
    assert ("b", "evil.example.com") in mesh.index.flush().services
    assert mesh.service(("b", "evil.example.com")).canonical
    older = {"namespace": "c", "creationTimestamp": "2026-01-01T00:00:00Z"}
    newer = {"namespace": "b", "creationTimestamp": "2026-01-02T00:00:00Z"}
    at = {"addresses": ["192.0.2.1"]}
    found = Mesh.of(
        service_entry("n", newer, hosts=["n.example"], **at), service_entry("o", older, hosts=["o.example"], **at)
    )
    assert (found.service(("b", "n.example")).canonical, found.service(("c", "o.example")).canonical) == (False, True)
    hidden = service_entry("o", older, hosts=["o.example"], exportTo=["."], **at)
    found = Mesh.of(service_entry("n", newer, hosts=["n.example"], **at), hidden)
    assert found.service(("b", "n.example")).canonical


def test_a_service_of_the_cluster_is_marked_as_one() -> None:
    assert [one.name for one in Mesh.of(service()).service().extensions] == ["tulle.kubernetesService"]
    assert not Mesh.of(service_entry()).service(HOST).extensions


ENTRIES: list[tuple[str, dict[str, Any], Any]] = [
    ("uid", workload_entry(), ENTRY),
    ("name", workload_entry(), "vm"),
    ("addresses", workload_entry(), [address("192.0.2.7")]),
    ("addresses", workload_entry(address="vm.example.com"), []),
    ("hostname", workload_entry(address="vm.example.com"), "vm.example.com"),
    ("network", workload_entry(network="far"), "far"),
    ("tunnel_protocol", workload_entry(), pb.NONE),
    ("tunnel_protocol", workload_entry(labels={"networking.istio.io/tunnel": "http"}), pb.HBONE),
    ("service_account", workload_entry(serviceAccount="vm"), "vm"),
    ("canonical_name", workload_entry({"labels": {"app": "x"}}), "x"),
    ("workload_type", workload_entry(), pb.POD),
    ("workload_name", workload_entry(), "vm"),
    ("status", workload_entry(), pb.HEALTHY),
    ("status", workload_entry(status={"conditions": [{"type": "Healthy", "status": "False"}]}), pb.UNHEALTHY),
    ("locality", workload_entry(locality="r/z/s"), pb.Locality(region="r", zone="z", subzone="s")),
    ("cluster_id", workload_entry(), "Kubernetes"),
]


@pytest.mark.parametrize(("field", "obj", "expected"), ENTRIES)
def test_workload_entry(field: str, obj: dict[str, Any], expected: Any) -> None:
    assert getattr(Mesh.of(obj).workload(ENTRY), field) == expected


def test_capacity() -> None:
    assert Mesh.of(workload_entry(weight=5)).workload(ENTRY).capacity.value == 5
    assert not Mesh.of(workload_entry()).workload(ENTRY).HasField("capacity")


VM = {"labels": {"app": "vm"}}
SELECTS = {"selector": {"app": "vm"}}


@pytest.mark.parametrize(
    ("entry", "service_spec", "expected"),
    [
        ({}, {}, [(80, 8080)]),
        ({}, {"ports": [{"name": "http", "port": 80, "targetPort": "web"}]}, []),
        ({"ports": {"web": 9090}}, {"ports": [{"name": "http", "port": 80, "targetPort": "web"}]}, [(80, 9090)]),
        ({"ports": {"http": 9090}}, {}, [(80, 8080)]),
    ],
)
def test_a_service_selects_workload_entries(entry: Any, service_spec: Any, expected: list[tuple[int, int]]) -> None:
    mesh = Mesh.of(service(**SELECTS, **service_spec), workload_entry(VM, **entry), pod({"labels": {"app": "vm"}}))
    found = ports_of(mesh.workload(ENTRY))[CART_NAME]
    assert [port[:2] for port in found] == expected
    assert ports_of(mesh.workload()) == {}, "pods stand behind a Service by its EndpointSlices"


@pytest.mark.parametrize(
    ("ports", "target"),
    [({}, 80), ({"http": 9090}, 9090), ({"other": 1}, 80)],
)
def test_a_service_entry_selects_pods_and_workload_entries(ports: Any, target: int) -> None:
    selecting = service_entry(workloadSelector={"labels": {"app": "vm"}})
    mesh = Mesh.of(selecting, workload_entry(VM, ports=ports), pod({"labels": {"app": "vm"}}))
    name = "a/x.example.com"
    assert ports_of(mesh.workload(ENTRY))[name] == [(80, target, pb.HTTP11)]
    assert ports_of(mesh.workload())[name] == [(80, 80, pb.HTTP11)]
    outside = Mesh.of(selecting, msgspec.structs.replace(pod({"namespace": "b", "labels": {"app": "vm"}})))
    assert ports_of(outside.workload("Kubernetes//Pod/b/p")) == {}


def test_selection_follows_changes() -> None:
    mesh = Mesh.of(service(**SELECTS), workload_entry(VM))
    old, new = records(workload_entry(VM)), records(workload_entry({"labels": {"app": "else"}}))
    mesh.index.apply(convert.changes(old, new))
    mesh.index.flush()
    assert ports_of(mesh.workload(ENTRY)) == {}
    mesh.index.apply(convert.changes(records(service(**SELECTS)), records(service(selector={"app": "else"}))))
    mesh.index.flush()
    assert list(ports_of(mesh.workload(ENTRY))) == [CART_NAME]


def test_a_service_that_names_another_port_of_its_workload_entries() -> None:
    before, after = (service(**SELECTS, ports=[{"name": "http", "port": 80, "targetPort": name}]) for name in "ab")
    mesh = Mesh.of(before, workload_entry(VM, ports={"a": 9090, "b": 9091}))
    mesh.index.apply(convert.changes(records(before), records(after)))
    assert ENTRY in mesh.index.flush().workloads
    assert ports_of(mesh.workload(ENTRY)) == {CART_NAME: [(80, 9091, pb.HTTP11)]}


def test_endpoint_slice_without_pods() -> None:
    mesh = Mesh.of(service(), endpoints({"addresses": ["192.0.2.1"], "conditions": {"ready": False}}))
    found = mesh.workload("Kubernetes/discovery.k8s.io/EndpointSlice/a/cart-1/192.0.2.1")
    assert (found.addresses[0], found.status, found.tunnel_protocol) == (address("192.0.2.1"), pb.UNHEALTHY, pb.NONE)
    assert ports_of(found) == {CART_NAME: [(80, 8080, pb.HTTP11)]}


@pytest.mark.parametrize(
    ("addresses", "network", "expected"),
    [
        (["10.1.0.5", "fd00::5"], "", ("/10.1.0.5", "/fd00::5")),
        (["FD00:0::5"], "far", ("far/fd00::5",)),
        (["10.0.0.0/8", "10.1.0.5/32"], "", ("/10.1.0.5",)),
    ],
)
def test_aliases(addresses: list[str], network: str, expected: tuple[str, ...]) -> None:
    assert wds.address_aliases(addresses, network) == expected


def test_the_older_form_has_workloads_only_and_follows_changes() -> None:
    mesh = Mesh.of(pod(), service(), workload_entry())
    publisher = Publisher(mesh.index, WaypointSource(mesh.index), lambda: ())
    for uid in mesh.index.workloads:
        publisher._publish_workload(uid)
    older = publisher.workloads
    assert set(older) == {POD, ENTRY}
    entry = older.get(POD)
    assert entry is not None
    assert pb.Workload.FromString(entry.body()) == mesh.workload()
    assert entry.aliases == ("/10.1.0.5",)
    mesh.index.apply([Change(Kind.WORKLOAD, ("", POD), None)])
    publisher.publish(mesh.index.flush())
    mesh.index.apply(convert.changes({}, records(pod(name="q"))))
    publisher.publish(mesh.index.flush())
    assert set(older) == {"Kubernetes//Pod/a/q", ENTRY}
