"""From the mesh index to what a waypoint is told: tokens, authorizers, protocols; and that a change of any of them arrives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import extension_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.extensions.clusters.dns.v3 import dns_cluster_pb2

from tests.istiod.test_mesh_index import POD, SERVICE, endpoints, namespace, pod, service, waypoint
from tests.waypoint import signing
from tulle.istiod.index.mesh import MeshIndex
from tulle.istiod.index.records import Change, GroupRecord, Kind, Member, Protocol, Resolution, ServicePort
from tulle.istiod.index.state import ServiceTarget
from tulle.istiod.jwks.fetch import Issuer
from tulle.istiod.waypoint_config import names
from tulle.istiod.waypoint_config.view import TargetView
from tulle.istiod.waypoint_keys import TokenKeys
from tulle.istiod.waypoint_source import WaypointSource
from tulle.istiod.waypoint_targets import authorizer_views, target_view
from tulle.security.mesh import parse_mesh_config
from tulle.security.parse import parse_authorization_policy, parse_request_authentication

WAYPOINT = ("hello", "waypoint")
TARGET = "Service/hello/s"
KEYS = signing.jwks(signing.EcKey("k"))
AUTHZ = ("tools", "authz.tools.svc.cluster.local")
AUTHZ_POD = "Kubernetes//Pod/tools/authz"


class Mesh:
    """An index and the waypoints' resources, with keys as the test has them."""

    def __init__(self, *changes: Change, **config: Any) -> None:
        self.index = MeshIndex(parse_mesh_config({"tulle": {"waypointLabelAlias": True}, **config}))
        self.fetched: dict[Issuer, str] = {}
        self.wanted: Mapping[Issuer, float] = {}
        keys = TokenKeys(lambda issuer: self.fetched.get(issuer, ""), self._want)
        self.source = WaypointSource(self.index, keys)
        self.keys = keys
        self.apply(namespace({"istio.io/waypoint": "enabled"}), pod(), service(), endpoints(POD), *waypoint(), *changes)

    def _want(self, issuers: Mapping[Issuer, float]) -> None:
        self.wanted = issuers

    def apply(self, *changes: Change) -> None:
        self.index.apply(changes)
        self.source.publish(self.index.flush())

    def view(self) -> TargetView:
        found = target_view(self.index, self.index.waypoints[WAYPOINT], ServiceTarget(SERVICE), self.keys.of)
        assert found is not None
        return found

    def extension(self, name: str) -> bytes:
        entry = self.source.maps(WAYPOINT)[names.EXTENSION_TYPE].get(name)
        assert entry is not None
        value: bytes = extension_pb2.TypedExtensionConfig.FromString(entry.body()).typed_config.value
        return value

    def routes(self) -> bytes:
        """What the routes to the target's port say, reasons among it."""
        entry = self.source.maps(WAYPOINT)[names.ROUTE_TYPE].get(f"{TARGET}|80")
        assert entry is not None
        return entry.body()

    def endpoints(self, name: str) -> list[str]:
        entry = self.source.maps(WAYPOINT)[names.ENDPOINT_TYPE].get(name)
        assert entry is not None
        load = endpoint_pb2.ClusterLoadAssignment.FromString(entry.body())
        return [
            one.endpoint.address.envoy_internal_address.endpoint_id or one.endpoint.address.socket_address.address
            for group in load.endpoints
            for one in group.lb_endpoints
        ]


def authentication(ns: str = "hello", ref: Mapping[str, str] | None = None, **rule: Any) -> Change:
    reference = ref or {"kind": "Service", "group": "", "name": "s"}
    spec = {"targetRefs": [reference], "jwtRules": [{"issuer": "https://i.example.com", **rule}]}
    manifest = {"kind": "RequestAuthentication", "metadata": {"namespace": ns, "name": "ra"}, "spec": spec}
    return Change(Kind.REQUEST_AUTHENTICATION, (ns, "ra"), parse_request_authentication(manifest))


GATEWAY = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "waypoint"}
CLASS = {"group": "gateway.networking.k8s.io", "kind": "GatewayClass", "name": "istio-waypoint"}


def test_which_request_authentications_count() -> None:
    cases = [
        (authentication(jwks=KEYS), True),
        (authentication(ref=GATEWAY, jwks=KEYS), True),
        (authentication("istio-system", CLASS, jwks=KEYS), True),
        (authentication("other", jwks=KEYS), False),
        (authentication("other", GATEWAY, jwks=KEYS), False),
        (authentication("hello", CLASS, jwks=KEYS), False),
        (authentication(ref={"kind": "Service", "group": "", "name": "t"}, jwks=KEYS), False),
    ]
    for change, counts in cases:
        mesh = Mesh(change)
        assert bool(mesh.view().rules.tokens) == counts, change
        assert (b"i.example.com" in mesh.extension(f"{TARGET}|tokens")) == counts
        mesh.apply(change._replace(record=None))
        assert mesh.extension(f"{TARGET}|tokens") == b""


def test_a_selector_is_ignored() -> None:
    spec = {"selector": {"matchLabels": {"app": "x"}}, "jwtRules": [{"issuer": "i", "jwks": KEYS}]}
    manifest = {"kind": "RequestAuthentication", "metadata": {"namespace": "hello", "name": "ra"}, "spec": spec}
    mesh = Mesh(Change(Kind.REQUEST_AUTHENTICATION, ("hello", "ra"), parse_request_authentication(manifest)))
    assert mesh.view().rules.tokens == ()


def test_keys_are_fetched_while_a_target_wants_them_and_used_when_they_come() -> None:
    mesh = Mesh(authentication(jwksUri="https://i.example.com/keys", timeout="2s"))
    issuer = Issuer("https://i.example.com", "https://i.example.com/keys")
    assert mesh.wanted == {issuer: 2.0}
    assert b"no keys" in mesh.extension(f"{TARGET}|tokens")
    mesh.fetched[issuer] = KEYS
    mesh.source.keys_changed(issuer)
    assert KEYS.encode() in mesh.extension(f"{TARGET}|tokens")
    mesh.apply(authentication(jwksUri="https://i.example.com/keys", timeout="2s")._replace(record=None))
    assert mesh.wanted == {}


def test_discovery_is_asked_when_a_rule_names_no_keys() -> None:
    assert Mesh(authentication()).wanted == {Issuer("https://i.example.com"): 5.0}
    assert Mesh(authentication(jwks=KEYS)).wanted == {}


# -- authorizers ------------------------------------------------------------------------------------------------------

PROVIDER = {"name": "authz", "envoyExtAuthzHttp": {"service": AUTHZ[1], "port": 9000}}


def authz_service(key: tuple[str, str] = AUTHZ) -> Change:
    record = replace_struct(
        service().record, namespace=key[0], name="authz", hostname=key[1], addresses=("10.96.0.60",)
    )
    port = ServicePort(name="http", port=9000, target=9000, protocol=Protocol.HTTP11)
    return Change(Kind.SERVICE, key, replace_struct(record, ports=(port,)))


def replace_struct(record: Any, **fields: Any) -> Any:
    from msgspec.structs import replace as changed

    return changed(record, **fields)


def authz_pod(address: str, *, hbone: bool) -> list[Change]:
    record = replace_struct(
        pod().record, uid=AUTHZ_POD, namespace="tools", name="authz", addresses=(address,), hbone=hbone
    )
    group = GroupRecord("tools", "authz", (AUTHZ,), (Member(AUTHZ_POD, (("http", 9000),)),))
    return [Change(Kind.WORKLOAD, ("", AUTHZ_POD), record), Change(Kind.GROUP, ("tools", "authz"), group)]


def custom(provider: str = "authz") -> Change:
    spec = {
        "targetRefs": [{"kind": "Service", "group": "", "name": "s"}],
        "action": "CUSTOM",
        "provider": {"name": provider},
        "rules": [{}],
    }
    manifest = {"kind": "AuthorizationPolicy", "metadata": {"namespace": "hello", "name": "custom"}, "spec": spec}
    return Change(Kind.POLICY, ("hello", "custom"), parse_authorization_policy(manifest))


def test_an_authorizer_is_found_in_the_mesh_and_followed() -> None:
    mesh = Mesh(custom(), extensionProviders=[PROVIDER])
    assert b"is not in the mesh" in mesh.routes()
    assert mesh.extension(f"{TARGET}|custom") == b""
    mesh.apply(authz_service(), *authz_pod("10.244.1.9", hbone=True))
    assert b"ExtensionProvider/authz" in mesh.extension(f"{TARGET}|custom")
    assert mesh.endpoints("ExtensionProvider/authz") == ["10.244.1.9:9000"]
    mesh.apply(*authz_pod("10.244.1.10", hbone=False))
    assert mesh.endpoints("ExtensionProvider/authz") == ["10.244.1.10"]
    mesh.apply(authz_service()._replace(record=None))
    assert b"is not in the mesh" in mesh.routes()
    assert mesh.extension(f"{TARGET}|custom") == b""


def test_a_host_in_two_namespaces_is_not_guessed_at() -> None:
    twin = ("other", AUTHZ[1])
    mesh = Mesh(custom(), authz_service(), *authz_pod("10.244.1.9", hbone=True), extensionProviders=[PROVIDER])
    assert len(authorizer_views(mesh.index)) == 1
    mesh.apply(authz_service(twin))
    assert authorizer_views(mesh.index) == ()
    assert b"is not in the mesh" in mesh.routes()
    assert mesh.extension(f"{TARGET}|custom") == b""
    named = {"name": "authz", "envoyExtAuthzHttp": {"service": f"tools/{AUTHZ[1]}", "port": 9000}}
    settings = replace(
        mesh.index.settings, extension_providers=parse_mesh_config({"extensionProviders": [named]}).extension_providers
    )
    mesh.apply(Change(Kind.SETTINGS, ("", ""), settings))
    assert b"ExtensionProvider/authz" in mesh.extension(f"{TARGET}|custom")


def test_waypoints_that_do_not_ask_are_not_told_of_authorizers() -> None:
    mesh = Mesh(authz_service(), *authz_pod("10.244.1.9", hbone=True), extensionProviders=[PROVIDER])
    assert "ExtensionProvider/authz" not in mesh.source.maps(WAYPOINT)[names.CLUSTER_TYPE]
    mesh.apply(custom())
    assert "ExtensionProvider/authz" in mesh.source.maps(WAYPOINT)[names.CLUSTER_TYPE]


# -- protocols --------------------------------------------------------------------------------------------------------


def test_how_ports_are_read() -> None:
    def port(protocol: Protocol) -> Change:
        changed = (ServicePort(name="p", port=80, target=8080, protocol=protocol),)
        return service()._replace(record=replace_struct(service().record, ports=changed))

    read = {
        Protocol.UNKNOWN: "AUTO",
        Protocol.TCP: "TCP",
        Protocol.TLS: "TCP",
        Protocol.HTTP2: "HTTP",
        Protocol.GRPC: "HTTP",
    }
    assert {protocol: Mesh(port(protocol)).view().ports[0].protocol for protocol in read} == read


def test_refusals_are_explained_where_the_mesh_says_so_and_the_port_is_http() -> None:
    assert not Mesh().view().ports[0].explain
    assert Mesh(tulle={"waypointLabelAlias": True, "explainRefusals": True}).view().ports[0].explain


@pytest.mark.parametrize(
    "fields",
    [
        {"addresses": ("127.0.0.1",)},
        {"addresses": ("0.0.0.0",)},
        {"addresses": (), "hostname": "wants-hbone.example.com"},
        {"addresses": (), "hostname": "localhost.", "hbone": False},
        {"addresses": (), "hostname": "x.localhost", "hbone": False},
        {"addresses": (), "hostname": "10.0.0.0/8", "hbone": False},
        {"addresses": (), "hostname": "*.example.com", "hbone": False},
        {"addresses": (), "hostname": "", "hbone": False},
        {"network": "far"},
        {"network": "far", "addresses": (), "hostname": "a.example.com", "hbone": False},
    ],
)
def test_what_a_waypoint_cannot_or_must_not_dial_is_no_endpoint(fields: Any) -> None:
    mesh = Mesh()
    mesh.apply(pod(**fields))
    assert [port.endpoints for port in mesh.view().ports] == [()]


@pytest.mark.parametrize(
    ("addresses", "served"),
    [(("10.0.0.0/24",), None), (("10.0.0.0/24", "10.1.0.7"), ("10.1.0.7",)), (("10.1.0.7",), ("10.1.0.7",))],
)
def test_a_block_of_addresses_is_not_served(addresses: tuple[str, ...], served: tuple[str, ...] | None) -> None:
    mesh = Mesh(service()._replace(record=replace_struct(service().record, addresses=addresses)))
    found = target_view(mesh.index, mesh.index.waypoints[WAYPOINT], ServiceTarget(SERVICE), mesh.keys.of)
    assert (found and found.addresses) == served
    entry = mesh.source.maps(WAYPOINT)[names.LISTENER_TYPE].get(names.MAIN_INTERNAL)
    assert entry is None or b"10.0.0.0/24" not in entry.body()


# -- endpoints by name ------------------------------------------------------------------------------------------------

OUTSIDE = "Kubernetes/networking.istio.io/ServiceEntry/hello/s/a.example.com"
CLUSTER = f"{TARGET}|80"


def by_name(hostname: str, **fields: Any) -> list[Change]:
    """A second workload behind the Service, which has a name in the place of an address."""
    record = replace_struct(pod().record, uid=OUTSIDE, kind="ServiceEntry", addresses=(), hostname=hostname)
    record = replace_struct(record, **{"hbone": False, **fields})
    group = GroupRecord("hello", "outside", (SERVICE,), (Member(OUTSIDE, (("http", 8443),)),))
    return [Change(Kind.WORKLOAD, ("", OUTSIDE), record), Change(Kind.GROUP, ("hello", "outside"), group)]


def cluster(mesh: Mesh, name: str = CLUSTER) -> cluster_pb2.Cluster:
    entry = mesh.source.maps(WAYPOINT)[names.CLUSTER_TYPE].get(name)
    assert entry is not None
    return cluster_pb2.Cluster.FromString(entry.body())


def looked_up(mesh: Mesh) -> list[tuple[str, int]]:
    (group,) = cluster(mesh).load_assignment.endpoints
    sockets = (one.endpoint.address.socket_address for one in group.lb_endpoints)
    return [(one.address, one.port_value) for one in sockets]


def test_names_are_looked_up_by_the_cluster_beside_addresses_outside_of_the_mesh() -> None:
    mesh = Mesh()
    before = cluster(mesh).SerializeToString(deterministic=True)
    assert cluster(mesh).type == cluster_pb2.Cluster.EDS
    mesh.apply(pod(hbone=False), *by_name("a.example.com"))
    assert cluster(mesh).cluster_type.name == "envoy.cluster.dns"
    assert sorted(looked_up(mesh)) == [("10.244.0.5", 8080), ("a.example.com", 8443)]
    assert mesh.source.maps(WAYPOINT)[names.ENDPOINT_TYPE].get(CLUSTER) is None
    mesh.apply(*by_name("b.example.com"))
    assert ("b.example.com", 8443) in looked_up(mesh)
    mesh.apply(*(one._replace(record=None) for one in by_name("")), pod())
    assert cluster(mesh).SerializeToString(deterministic=True) == before
    assert mesh.endpoints(CLUSTER) == ["10.244.0.5:8080"]


def test_of_names_and_endpoints_in_the_mesh_the_latter_serve() -> None:
    mesh = Mesh(*by_name("a.example.com"))
    assert cluster(mesh).type == cluster_pb2.Cluster.EDS
    assert mesh.endpoints(CLUSTER) == ["10.244.0.5:8080"]
    mesh.apply(pod(ready=False))
    assert looked_up(mesh) == [("a.example.com", 8443)]


@pytest.mark.parametrize(
    ("resolution", "more", "logical"),
    [
        (Resolution.DNS, (), False),
        (Resolution.DNS_ROUND_ROBIN, (), True),
        (Resolution.DNS_ROUND_ROBIN, (pod(hbone=False),), False),
    ],
)
def test_one_address_at_a_time_of_one_name(resolution: Resolution, more: tuple[Change, ...], logical: bool) -> None:
    gone = pod()._replace(record=None)
    entry = service()._replace(record=replace_struct(service().record, resolution=resolution))
    mesh = Mesh(gone, entry, *by_name("a.example.com"), *more)
    lookups = dns_cluster_pb2.DnsCluster()
    assert cluster(mesh).cluster_type.typed_config.Unpack(lookups)
    assert lookups.all_addresses_in_single_endpoint == logical
    assert lookups.respect_dns_ttl


def test_an_authorizer_may_be_known_by_name() -> None:
    mesh = Mesh(custom(), authz_service(), extensionProviders=[PROVIDER])
    group = GroupRecord("tools", "authz", (AUTHZ,), (Member(OUTSIDE, (("http", 9000),)),))
    asked, _ = by_name("authz.example.com")
    mesh.apply(asked, Change(Kind.GROUP, ("tools", "authz"), group))
    found = mesh.source.maps(WAYPOINT)[names.CLUSTER_TYPE].get("ExtensionProvider/authz")
    assert found is not None
    assert b"authz.example.com" in found.body()
    mesh.apply(*authz_pod("10.244.1.9", hbone=True))
    assert mesh.endpoints("ExtensionProvider/authz") == ["10.244.1.9:9000"]


# -- pods by their own addresses --------------------------------------------------------------------------------------


def for_pods() -> Change:
    _, gateway = waypoint()
    return gateway._replace(record=replace_struct(gateway.record, labels={"istio.io/waypoint-for": "all"}))


def test_a_pod_is_reached_by_hbone_from_when_it_is_captured() -> None:
    name = "Pod/hello/p|*"
    mesh = Mesh(for_pods(), pod(hbone=False))
    assert cluster(mesh, name).type == cluster_pb2.Cluster.ORIGINAL_DST
    mesh.apply(pod())
    assert cluster(mesh, name).type == cluster_pb2.Cluster.EDS
    assert mesh.endpoints(name) == ["10.244.0.5"]
    mesh.apply(pod(hbone=False))
    assert cluster(mesh, name).type == cluster_pb2.Cluster.ORIGINAL_DST


def test_the_endpoints_of_one_object_and_its_host_are_different_targets() -> None:
    def endpoint(address: str) -> Change:
        record = pod(
            kind="ServiceEntry", uid=f"Kubernetes/{address}", name="x.example.com", addresses=(address,)
        ).record
        return Change(Kind.WORKLOAD, ("", record.uid), record)

    host = replace_struct(service().record, kind="ServiceEntry", hostname="x.example.com", name="x.example.com")
    host = replace_struct(host, addresses=("240.240.0.1",))
    objects = endpoint("192.0.2.1"), endpoint("192.0.2.2"), Change(Kind.SERVICE, host.key, host)
    ref = {"group": "networking.istio.io", "kind": "ServiceEntry", "name": "x.example.com"}
    mesh = Mesh(for_pods(), *objects, authentication(ref=ref, jwks=KEYS))
    assert b"i.example.com" in mesh.extension("ServiceEntry/hello/x.example.com|tokens")
    for address in ("192.0.2.1", "192.0.2.2"):
        assert mesh.endpoints(f"ServiceEntry/hello/x.example.com/{address}|*") == [address]
