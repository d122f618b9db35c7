"""The outbound decision tree (spec D2), case by case, and how it is written down."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from google.protobuf import wrappers_pb2
from hypothesis import given
from hypothesis import strategies as st

from tulle.xds.proto import workload_pb2
from tulle.ztunnel.config.cluster import cluster_of
from tulle.ztunnel.config.destination import Destination, Here, Kind, decide
from tulle.ztunnel.config.names import Target, authority, direct_format, parse_destination, service_format
from tulle.ztunnel.state.mesh import Mesh, pod_key

HERE = Here(cluster_id="Kubernetes", node="n1")
KEY = "shop/cart.shop.svc.cluster.local"
VIP = "10.96.0.5"
CART = "spiffe://cluster.local/ns/shop/sa/cart"


def workload(name: str, ip: str, **more: Any) -> workload_pb2.Address:
    ports = more.pop("ports", {80: 8080})
    key = more.pop("service", KEY)
    more.setdefault("tunnel_protocol", workload_pb2.HBONE)
    more.setdefault("service_account", "cart")
    found = workload_pb2.Workload(
        uid=f"Kubernetes//Pod/shop/{name}", name=name, namespace="shop", addresses=[ip_address(ip).packed], **more
    )
    for service_port, target_port in ports.items():
        found.services[key].ports.add(service_port=service_port, target_port=target_port)
    return workload_pb2.Address(workload=found)


def service(**more: Any) -> workload_pb2.Address:
    more.setdefault("ports", [workload_pb2.Port(service_port=80, target_port=8080)])
    name = more.pop("name", "cart")
    vip = more.pop("vip", VIP)
    found = workload_pb2.Service(
        name=name,
        namespace=more.pop("namespace", "shop"),
        hostname=f"{name}.shop.svc.cluster.local",
        addresses=[workload_pb2.NetworkAddress(address=ip_address(vip).packed)],
        **more,
    )
    return workload_pb2.Address(service=found)


def mesh(*addresses: workload_pb2.Address) -> Mesh:
    found = Mesh()
    found.apply_addresses({_name(address): address.SerializeToString() for address in addresses}, [])
    return found


def _name(address: Any) -> str:
    if address.WhichOneof("type") == "workload":
        return str(address.workload.uid)
    return f"{address.service.namespace}/{address.service.hostname}"


def to(
    state: Mesh, address: str = VIP, port: int | None = 80, namespace: str = "client", here: Here = HERE
) -> Destination:
    return decide(state, here, Target(namespace, ip_address(address), port))


def hops(found: Destination) -> list[list[tuple[str, str, tuple[str, ...]]]]:
    return [[(str(h.address), h.authority, h.identities) for h in group] for group in found.priorities]


def test_service_without_waypoint() -> None:
    found = to(mesh(service(), workload("a", "10.0.0.1"), workload("b", "10.0.0.2", service_account="other")))
    assert hops(found) == [
        [
            ("10.0.0.1", "10.0.0.1:8080", (CART,)),
            ("10.0.0.2", "10.0.0.2:8080", ("spiffe://cluster.local/ns/shop/sa/other",)),
        ]
    ]
    assert {hop.port for hop in found.priorities[0]} == {15008}
    assert found.service == KEY


def test_plain_endpoint_is_reached_without_a_tunnel() -> None:
    found = to(mesh(service(), workload("a", "10.0.0.1", tunnel_protocol=workload_pb2.NONE)))
    assert hops(found) == [[("10.0.0.1", "10.0.0.1:8080", ())]]
    cluster = cluster_of(Target("client", ip_address(VIP), 80), found)
    endpoint = cluster.load_assignment.endpoints[0].lb_endpoints[0].endpoint
    assert endpoint.address.envoy_internal_address.server_listener_name == "shared/plain"
    assert not cluster.HasField("upstream_bind_config")


@pytest.mark.parametrize(
    ("port", "more", "reason"),
    [(81, {}, "has no port 81"), (80, {"status": workload_pb2.UNHEALTHY}, "has no healthy endpoint")],
)
def test_what_is_closed(port: int, more: dict[str, Any], reason: str) -> None:
    found = to(mesh(service(), workload("a", "10.0.0.1", **more)), port=port)
    assert found.kind is Kind.REFUSE
    assert reason in found.reason


def test_unhealthy_endpoints_count_when_the_service_says_so() -> None:
    balancing = workload_pb2.LoadBalancing(health_policy=workload_pb2.LoadBalancing.ALLOW_ALL)
    state = mesh(service(load_balancing=balancing), workload("a", "10.0.0.1", status=workload_pb2.UNHEALTHY))
    assert to(state).kind is Kind.MESH


def test_waypoint_keeps_the_address_that_was_asked_for() -> None:
    reference = workload_pb2.GatewayAddress(hbone_mtls_port=15008)
    reference.hostname.namespace, reference.hostname.hostname = "shop", "wp.shop.svc.cluster.local"
    gateway = "shop/wp.shop.svc.cluster.local"
    state = mesh(
        service(waypoint=reference),
        service(name="wp", vip="10.96.0.9", ports=[workload_pb2.Port(service_port=15008, target_port=15008)]),
        workload("wp-1", "10.0.0.9", service_account="wp", service=gateway, ports={15008: 15008}),
        workload("a", "10.0.0.1"),
    )
    identity = "spiffe://cluster.local/ns/shop/sa/wp"
    assert hops(to(state)) == [[("10.0.0.9", f"{VIP}:80", (identity,))]]
    assert hops(to(state, port=9999)) == [[("10.0.0.9", f"{VIP}:9999", (identity,))]], "the waypoint knows its ports"
    assert hops(to(state, address="10.0.0.1", port=8080)) == [[("10.0.0.1", "10.0.0.1:8080", (CART,))]]
    state.apply_addresses({}, ["Kubernetes//Pod/shop/wp-1"])
    assert to(state).kind is Kind.REFUSE, "a waypoint without endpoints fails closed"


def test_waypoint_of_a_workload() -> None:
    reference = workload_pb2.GatewayAddress(hbone_mtls_port=15008)
    reference.address.address = ip_address("10.0.0.9").packed
    state = mesh(
        service(),
        workload("a", "10.0.0.1", waypoint=reference),
        workload("wp-1", "10.0.0.9", service_account="wp", ports={}),
    )
    assert hops(to(state, address="10.0.0.1", port=8080)) == [
        [("10.0.0.9", "10.0.0.1:8080", ("spiffe://cluster.local/ns/shop/sa/wp",))]
    ]
    assert hops(to(state))[0][0][0] == "10.0.0.1", "a service's traffic does not use the workload's waypoint"


def test_weighted_waypoints() -> None:
    def reference(ip: str) -> workload_pb2.GatewayAddress:
        address = workload_pb2.NetworkAddress(address=ip_address(ip).packed)
        return workload_pb2.GatewayAddress(hbone_mtls_port=15008, address=address)

    weighted = [
        workload_pb2.WeightedWaypoint(destination=reference("10.0.0.8"), weight=90),
        workload_pb2.WeightedWaypoint(destination=reference("10.0.0.9"), weight=10),
    ]
    state = mesh(
        service(weighted_waypoints=weighted),
        workload("wp-1", "10.0.0.8", ports={}),
        workload("wp-2", "10.0.0.9", ports={}),
    )
    weights = {str(hop.address): hop.weight for hop in to(state).priorities[0]}
    assert weights["10.0.0.8"] == 9 * weights["10.0.0.9"]


def test_unknown_address_goes_where_it_says() -> None:
    assert hops(to(mesh(), "192.0.2.1", 443)) == [[("192.0.2.1", "192.0.2.1:443", ())]]


def test_private_services_and_the_own_namespace_first() -> None:
    private = service(visibility=workload_pb2.NAMESPACE)
    state = mesh(private, workload("a", "10.0.0.1"))
    assert to(state, namespace="shop").service == KEY
    assert to(state, namespace="client").service == ""
    own = workload_pb2.Address.FromString(service(name="own", namespace="client").SerializeToString())
    both = mesh(service(), own, workload("a", "10.0.0.1"))
    assert to(both, namespace="client").service == "client/own.shop.svc.cluster.local"


def own_pod(**where: str) -> workload_pb2.Address:
    """The record of the proxy's own pod, which says where the node is."""
    locality = workload_pb2.Locality(**where)
    return workload("ztunnel-1", "10.0.0.100", ports={}, locality=locality)


AT_HOME = Here(node="n1", pod=("shop", "ztunnel-1"))
LB = workload_pb2.LoadBalancing
NEAR, REGION, FAR = (workload_pb2.Locality(region=r, zone=z) for r, z in (("r", "z1"), ("r", "z2"), ("s", "z1")))


def balanced(*extra: workload_pb2.Address, **balancing: Any) -> Mesh:
    return mesh(
        own_pod(region="r", zone="z1"),
        service(load_balancing=LB(**balancing)),
        workload("near", "10.0.0.1", locality=NEAR),
        workload("region", "10.0.0.2", locality=REGION, node="n1", cluster_id="other"),
        workload("far", "10.0.0.3", locality=FAR, cluster_id="Kubernetes"),
        *extra,
    )


def by_priority(found: Destination) -> list[list[str]]:
    return [[str(hop.address) for hop in group] for group in found.priorities]


@pytest.mark.parametrize(
    ("scopes", "mode", "expected"),
    [
        ([LB.REGION, LB.ZONE], LB.FAILOVER, [["10.0.0.1"], ["10.0.0.2"], ["10.0.0.3"]]),
        ([LB.REGION, LB.ZONE], LB.STRICT, [["10.0.0.1"]]),
        ([LB.REGION], LB.FAILOVER, [["10.0.0.1", "10.0.0.2"], ["10.0.0.3"]]),
        ([LB.NODE], LB.STRICT, [["10.0.0.2"]]),
        ([LB.NODE], LB.FAILOVER, [["10.0.0.2"], ["10.0.0.1", "10.0.0.3"]]),
        ([LB.CLUSTER], LB.FAILOVER, [["10.0.0.3"], ["10.0.0.1", "10.0.0.2"]]),
        ([LB.NETWORK], LB.STRICT, [["10.0.0.1", "10.0.0.2", "10.0.0.3"]]),
        ([LB.REGION, LB.ZONE], LB.UNSPECIFIED_MODE, [["10.0.0.1", "10.0.0.2", "10.0.0.3"]]),
        ([], LB.FAILOVER, [["10.0.0.1", "10.0.0.2", "10.0.0.3"]]),
    ],
)
def test_localities(scopes: list[int], mode: int, expected: list[list[str]]) -> None:
    assert by_priority(to(balanced(routing_preference=scopes, mode=mode), here=AT_HOME)) == expected


def test_the_proxys_own_locality_is_looked_at_so_that_it_may_come_later() -> None:
    found = to(balanced(routing_preference=[LB.REGION], mode=LB.FAILOVER), here=AT_HOME)
    assert pod_key("shop", "ztunnel-1") in found.looked_at


def test_a_service_may_want_to_be_left_alone() -> None:
    assert hops(to(balanced(mode=LB.PASSTHROUGH))) == [[(VIP, f"{VIP}:80", ())]]


def test_capacity_weighs_endpoints_and_none_takes_an_endpoint_out() -> None:
    def capacity(value: int) -> Any:
        return wrappers_pb2.UInt32Value(value=value)

    state = mesh(
        service(),
        workload("a", "10.0.0.1", capacity=capacity(3)),
        workload("b", "10.0.0.2"),
        workload("c", "10.0.0.3", capacity=capacity(0)),
    )
    assert {str(hop.address): hop.weight for hop in to(state).priorities[0]} == {"10.0.0.1": 3, "10.0.0.2": 1}
    huge = mesh(service(), *(workload(f"w{n}", f"10.0.0.{n}", capacity=capacity(4_000_000_000)) for n in (1, 2)))
    one, other = to(huge).priorities[0]
    assert one.weight == other.weight
    assert one.weight + other.weight < 2**32


def test_a_waypoints_own_traffic_distribution_holds() -> None:
    key = "shop/wp.shop.svc.cluster.local"
    reference = workload_pb2.GatewayAddress(hbone_mtls_port=15008)
    reference.hostname.namespace, _, reference.hostname.hostname = key.partition("/")
    state = mesh(
        own_pod(region="r", zone="z1"),
        service(waypoint=reference),
        service(name="wp", vip="10.96.0.9", load_balancing=LB(routing_preference=[LB.ZONE], mode=LB.FAILOVER)),
        workload("wp-1", "10.0.0.8", service=key, locality=FAR),
        workload("wp-2", "10.0.0.9", service=key, locality=REGION),
    )
    assert by_priority(to(state, here=AT_HOME)) == [["10.0.0.8"], ["10.0.0.9"]]


def canaries(*weights: int) -> list[workload_pb2.WeightedWaypoint]:
    """Waypoints wp-0, wp-1 and so on, by the hostnames of their services."""
    found = []
    for number, weight in enumerate(weights):
        reference = workload_pb2.GatewayAddress(hbone_mtls_port=15008)
        reference.hostname.namespace, reference.hostname.hostname = "shop", f"wp-{number}.shop.svc.cluster.local"
        found.append(workload_pb2.WeightedWaypoint(destination=reference, weight=weight))
    return found


@given(st.integers(1, 99), st.lists(st.integers(1, 50), min_size=1, max_size=6), st.integers(1, 6))
def test_each_weighted_waypoint_gets_its_share_however_many_endpoints_it_has(
    weight: int, capacities: list[int], others: int
) -> None:
    first, second = (f"shop/wp-{number}.shop.svc.cluster.local" for number in (0, 1))
    state = mesh(
        service(weighted_waypoints=canaries(weight, 100 - weight)),
        *(service(name=f"wp-{number}", vip=f"10.96.1.{number}") for number in (0, 1)),
        *(
            workload(f"a{n}", f"10.0.1.{n}", service=first, capacity=wrappers_pb2.UInt32Value(value=capacity))
            for n, capacity in enumerate(capacities)
        ),
        *(workload(f"b{n}", f"10.0.2.{n}", service=second) for n in range(others)),
    )
    (group,) = to(state).priorities
    share = sum(hop.weight for hop in group if str(hop.address).startswith("10.0.1."))
    assert share / sum(hop.weight for hop in group) == pytest.approx(weight / 100, rel=0.02, abs=0.005)


def test_a_weighted_waypoint_without_endpoints_leaves_its_share_to_the_other() -> None:
    state = mesh(
        service(weighted_waypoints=canaries(10, 90)),
        service(name="wp-0", vip="10.96.1.0"),
        workload("a", "10.0.1.1", service="shop/wp-0.shop.svc.cluster.local"),
    )
    assert by_priority(to(state)) == [["10.0.1.1"]]


def test_each_identity_has_its_own_verification() -> None:
    found = to(mesh(service(), workload("a", "10.0.0.1"), workload("b", "10.0.0.2", service_account="other")))
    cluster = cluster_of(Target("client", ip_address(VIP), 80), found)
    labels = [match.match.fields["transport"].string_value for match in cluster.transport_socket_matches]
    assert labels == [CART, "spiffe://cluster.local/ns/shop/sa/other"]
    for endpoint in cluster.load_assignment.endpoints[0].lb_endpoints:
        wanted = endpoint.metadata.filter_metadata["envoy.transport_socket_match"].fields["transport"].string_value
        assert wanted in labels


def test_explained_refusals_only_for_http_ports_of_services_that_want_them() -> None:
    ports = [
        workload_pb2.Port(service_port=80, target_port=8080, app_protocol=workload_pb2.HTTP11),
        workload_pb2.Port(service_port=25, target_port=25),
    ]
    extension = workload_pb2.Extension(name="tulle.explainRefusals")
    state = mesh(service(ports=ports, extensions=[extension]))
    assert to(state).explain
    assert not to(state, port=25).explain
    assert not to(mesh(service(ports=ports))).explain


@given(st.ip_addresses(), st.integers(1, 65535), st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True))
def test_names_of_destinations_read_back(address: Any, port: int, namespace: str) -> None:
    of_service, direct = Target(namespace, address, port), Target(namespace, address, None)
    assert parse_destination(of_service.cluster) == of_service
    assert parse_destination(direct.cluster) == direct
    where = service_format(namespace).replace("%DOWNSTREAM_LOCAL_ADDRESS%", authority(address, port))
    assert where == of_service.cluster
    assert direct_format(namespace).replace("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", str(address)) == direct.cluster


@pytest.mark.parametrize(
    "name",
    [
        "shared/plain",
        "service|ns|nonsense",
        "service|ns",
        "service|ns|1.2.3.4:x",
        "service|ns|1.2.3.4",
        "other|ns|1.2.3.4:4",
    ],
)
def test_other_names_are_no_destinations(name: str) -> None:
    assert parse_destination(name) is None


def test_direct_destinations_are_for_every_port() -> None:
    state = mesh(service(), workload("a", "10.0.0.1"), workload("b", "10.0.0.2", tunnel_protocol=workload_pb2.NONE))
    assert hops(to(state, "10.0.0.1", None)) == [[("10.0.0.1", "10.0.0.1", (CART,))]]
    assert hops(to(state, "10.0.0.2", None)) == [[("10.0.0.2", "10.0.0.2", ())]]
    unknown = to(state, "10.0.0.3", None)
    assert (hops(unknown), unknown.known) == ([[("10.0.0.3", "10.0.0.3", ())]], False)
    assert to(state, VIP, None).kind is Kind.REFUSE


# -- endpoints that are known by a host name ------------------------------------------------------------------------------


def by_name(name: str = "e", hostname: str = "api.example.com", **more: Any) -> workload_pb2.Address:
    found = workload(name, "10.0.0.1", hostname=hostname, **{"tunnel_protocol": workload_pb2.NONE, **more})
    found.workload.ClearField("addresses")
    return found


def test_a_host_name_is_an_endpoint_for_each_of_its_addresses() -> None:
    state = mesh(service(), by_name())
    assert to(state).hosts == {"api.example.com"}
    state.hosts["api.example.com"] = (ip_address("1.1.1.1"), ip_address("1.1.1.2"), ip_address("2001:db8::1"))
    assert hops(to(state)) == [[("1.1.1.1", "1.1.1.1:8080", ()), ("1.1.1.2", "1.1.1.2:8080", ())]]
    state.hosts["api.example.com"] = (ip_address("2001:db8::1"),)
    assert hops(to(state)) == [[("2001:db8::1", "[2001:db8::1]:8080", ())]]


def test_a_host_name_that_cannot_be_resolved_is_refused_by_its_name() -> None:
    state = mesh(service(), by_name())
    state.hosts["api.example.com"] = ()
    found = to(state)
    assert found.kind is Kind.REFUSE
    assert found.reason.endswith("has no healthy endpoint: api.example.com cannot be resolved")


# -- other networks -------------------------------------------------------------------------------------------------------


def test_an_endpoint_of_another_network_is_left_out_and_named_when_it_is_the_only_one() -> None:
    far = workload(
        "far",
        "10.0.0.1",
        network="far",
        network_gateway=workload_pb2.GatewayAddress(
            address=workload_pb2.NetworkAddress(network="far", address=ip_address("192.0.2.1").packed)
        ),
    )
    found = to(mesh(service(), far))
    assert found.kind is Kind.REFUSE
    assert found.reason.endswith("no healthy endpoint: those in network far take double HBONE, which is not supported")
    assert hops(to(mesh(service(), far, workload("near", "10.0.0.2")))) == [[("10.0.0.2", "10.0.0.2:8080", (CART,))]]
