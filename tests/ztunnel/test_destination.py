"""The outbound decision tree (spec D2), case by case, and how it is written down."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.xds.proto import workload_pb2
from tulle.ztunnel.config.cluster import cluster_of
from tulle.ztunnel.config.destination import Destination, Here, Kind, decide
from tulle.ztunnel.config.names import Target, authority, direct_format, parse_destination, service_format
from tulle.ztunnel.state.mesh import Mesh

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


def test_localities() -> None:
    where = workload_pb2.Locality(region="r", zone="z1")
    scopes = [workload_pb2.LoadBalancing.REGION, workload_pb2.LoadBalancing.ZONE]
    here = Here(node="n1", locality=_here_locality())

    def state(mode: int) -> Mesh:
        balancing = workload_pb2.LoadBalancing(routing_preference=scopes, mode=mode)
        return mesh(
            service(load_balancing=balancing),
            workload("near", "10.0.0.1", locality=where),
            workload("region", "10.0.0.2", locality=workload_pb2.Locality(region="r", zone="z2")),
            workload("far", "10.0.0.3", locality=workload_pb2.Locality(region="s", zone="z1")),
        )

    failover = to(state(workload_pb2.LoadBalancing.FAILOVER), here=here)
    assert [[str(h.address) for h in group] for group in failover.priorities] == [
        ["10.0.0.1"],
        ["10.0.0.2"],
        ["10.0.0.3"],
    ]
    strict = to(state(workload_pb2.LoadBalancing.STRICT), here=here)
    assert [[str(h.address) for h in group] for group in strict.priorities] == [["10.0.0.1"]]


def _here_locality() -> Any:
    from tulle.ztunnel.state.model import Locality

    return Locality("r", "z1", "")


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
