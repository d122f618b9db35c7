"""What proxies are sent, in which order, and who may read it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from envoy.service.discovery.v3 import discovery_pb2

from tulle.istiod.access import Access
from tulle.istiod.index.mesh import MeshIndex
from tulle.istiod.index.records import Change, GatewayRecord, Kind, ListenerRecord
from tulle.istiod.publish import Publisher
from tulle.istiod.waypoint_config import names
from tulle.istiod.waypoint_source import TYPES, WaypointSource
from tulle.security.mesh import MeshSettings
from tulle.security.model import AuthorizationPolicy, Meta, Operation, Rule, Source, TargetRef
from tulle.xds import types
from tulle.xds.delta import ServerStream, TypeState
from tulle.xds.proto import authorization_pb2, workload_pb2
from tulle.xds.resources import ResourceMap
from tulle.xds.server import AccessDenied, ClientNode, Peer

from .test_mesh_index import ALIAS, POD, SERVICE, endpoints, lifted, namespace, pod, service, waypoint

TRUST = "hello/tulle_waypoint_allow_hello_waypoint"
WAYPOINT = ("hello", "waypoint")
TARGET = "Service/hello/s|80"


def peer(ns: str, account: str, pod_name: str = "") -> ClientNode:
    attributes = {"namespace": ns, "service_account": account, "pod_name": pod_name}
    return ClientNode("x", {}, Peer(f"spiffe://cluster.local/ns/{ns}/sa/{account}", attributes))


class Proxy:
    """A client of the ADS server as the server sees it; it acknowledges when told to."""

    def __init__(self, mesh: Mesh, node: ClientNode, type_urls: Iterable[str]) -> None:
        self.stream = ServerStream(lambda type_url: mesh.access(node, type_url), lambda: None)
        mesh.streams.append(self.stream)
        for type_url in type_urls:
            self.stream.receive(discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=["*"]))

    def acknowledge(self, error: str = "") -> None:
        """Take what there is, and answer it."""
        while push := next(iter(self.stream.pushes()), None):
            answer = discovery_pb2.DeltaDiscoveryRequest(type_url=push.type_url, response_nonce=push.nonce)
            if error:
                answer.error_detail.message = error
            self.stream.receive(answer)


class Mesh:
    """An index and everything that is published from it, without a network."""

    def __init__(self, *changes: Change, settings: MeshSettings = ALIAS) -> None:
        self.index = MeshIndex(settings)
        self.streams: list[ServerStream] = []
        self.publisher = Publisher(self.index, WaypointSource(self.index), self._readers)
        self.access = Access(self.index, self.publisher)
        self.apply(namespace({"istio.io/waypoint": "enabled"}), pod(), service(), endpoints(POD), *waypoint(), *changes)

    def _readers(self) -> Iterable[TypeState]:
        return (state for stream in self.streams for state in stream.states)

    def apply(self, *changes: Change) -> None:
        self.index.apply(changes)
        self.publisher.publish(self.index.flush())

    def node_proxy(self) -> Proxy:
        return Proxy(self, peer("istio-system", "ztunnel"), (types.AUTHORIZATION, types.ADDRESS))

    def waypoint_proxy(self) -> Proxy:
        return Proxy(self, peer("hello", "waypoint"), TYPES)

    def policies(self) -> list[str]:
        entry = self.publisher.addresses.get(POD)
        assert entry is not None
        return list(workload_pb2.Address.FromString(entry.body()).workload.authorization_policies)

    def enforced(self) -> bool:
        """Whether the waypoint is told to judge requests to the Service."""
        entry = self.publisher.waypoints.maps(WAYPOINT)[names.ROUTE_TYPE].get(TARGET)
        assert entry is not None
        return b"tulle.rbac.allow" in entry.body()


def unlifted() -> Change:
    """The same policy after an edit by which it no longer qualifies."""
    rule = Rule(sources=(Source(namespaces=("test",)),), operations=(Operation(methods=("GET",)),))
    policy = AuthorizationPolicy(Meta("AuthorizationPolicy", "hello", "v2"), selector=(("app", "x"),), rules=(rule,))
    return Change(Kind.POLICY, ("hello", "v2"), policy)


def test_lifting_waits_for_the_waypoint() -> None:
    mesh = Mesh()
    proxy, node = mesh.waypoint_proxy(), mesh.node_proxy()
    proxy.acknowledge()
    node.acknowledge()
    mesh.apply(lifted())
    assert mesh.enforced()
    assert mesh.policies() == ["hello/v2"], "until then ztunnel keeps the policy, which denies more"
    assert not mesh.publisher.advance()
    proxy.acknowledge()
    assert mesh.publisher.advance()
    assert mesh.policies() == [TRUST]
    assert TRUST in mesh.publisher.authorizations


@pytest.mark.parametrize("situation", ["no proxy", "refused", "one of two"])
def test_lifting_does_not_happen_without_a_waypoint_that_enforces(situation: str) -> None:
    mesh = Mesh()
    proxies = [mesh.waypoint_proxy() for _ in range({"no proxy": 0, "refused": 1, "one of two": 2}[situation])]
    for proxy in proxies:
        proxy.acknowledge()
    mesh.apply(lifted())
    for proxy in proxies[:1]:
        proxy.acknowledge("not understood" if situation == "refused" else "")
    mesh.publisher.advance()
    assert mesh.policies() == ["hello/v2"]


def test_end_of_lifting_waits_for_the_node_proxies() -> None:
    mesh = Mesh(lifted())
    proxy, node = mesh.waypoint_proxy(), mesh.node_proxy()
    proxy.acknowledge()
    node.acknowledge()
    assert mesh.policies() == [TRUST], "a start takes the waypoints as up to date"
    mesh.apply(unlifted())
    assert mesh.policies() == ["hello/v2"]
    assert mesh.enforced(), "the waypoint goes on until no ztunnel trusts it"
    mesh.publisher.advance()
    assert mesh.enforced()
    node.acknowledge()
    assert mesh.publisher.advance()
    assert not mesh.enforced()


def test_a_new_pod_is_closed_until_the_waypoint_is_known_to_enforce() -> None:
    mesh = Mesh(lifted())
    mesh.apply(Change(Kind.WORKLOAD, ("", POD), None))
    mesh.apply(pod())
    assert mesh.policies() == ["hello/v2"], "no waypoint is connected"
    proxy = mesh.waypoint_proxy()
    proxy.acknowledge()
    mesh.publisher.advance()
    assert mesh.policies() == [TRUST]


def test_a_waypoint_that_goes_away_closes() -> None:
    mesh = Mesh(lifted())
    mesh.apply(*waypoint(ready=False))
    assert mesh.policies() == ["hello/v2"]
    assert TRUST not in mesh.publisher.authorizations
    (policy,) = [authorization_pb2.Authorization.FromString(e.body()) for e in mesh.publisher.authorizations.entries()]
    assert (policy.name, len(policy.rules)) == ("v2", 0), "an ALLOW of nothing"


def test_pods_change_load_assignments_only() -> None:
    mesh = Mesh()
    maps = mesh.publisher.waypoints.maps(WAYPOINT)
    before = {url: {entry.name: entry.version for entry in maps[url].entries()} for url in TYPES}
    mesh.apply(pod(ready=False))
    after = {url: {entry.name: entry.version for entry in maps[url].entries()} for url in TYPES}
    changed = {(url, name) for url in TYPES for name in after[url] if after[url][name] != before[url].get(name)}
    assert changed == {(names.ENDPOINT_TYPE, TARGET)}


def test_target_refs_are_enforced_at_the_waypoint() -> None:
    mesh = Mesh()
    assert not mesh.enforced()
    meta = Meta("AuthorizationPolicy", "hello", "t")
    policy = AuthorizationPolicy(meta, target_refs=(TargetRef("", "Service", "s"),))
    mesh.apply(Change(Kind.POLICY, ("hello", "t"), policy))
    assert mesh.enforced()
    assert mesh.policies() == []


def test_two_services_with_one_address_do_not_break_the_listener() -> None:
    mesh = Mesh()
    twin = service(name="t", hostname="t.hello.svc.cluster.local")
    mesh.apply(twin._replace(key=("hello", "t.hello.svc.cluster.local")))
    routes = mesh.publisher.waypoints.maps(WAYPOINT)[names.ROUTE_TYPE]
    assert TARGET in routes
    assert "Service/hello/t|80" not in routes


@pytest.mark.parametrize("addresses", [("10.96.0.7",), ("10.96.0.7", "192.0.2.1")])
def test_nobody_takes_a_services_address_from_it_at_a_shared_waypoint(addresses: tuple[str, ...]) -> None:
    """By name the ServiceEntry comes first."""
    mesh = Mesh()
    theirs = service(kind="ServiceEntry", name="evil", hostname="a.example", addresses=addresses)
    mesh.apply(theirs._replace(key=("hello", "ServiceEntry/evil/a.example")))
    routes = mesh.publisher.waypoints.maps(WAYPOINT)[names.ROUTE_TYPE]
    assert TARGET in routes
    assert "ServiceEntry/hello/a.example|80" not in routes


def test_nobody_takes_a_pods_address_from_it_at_a_shared_waypoint() -> None:
    mesh = Mesh(*waypoint(serves="all"))
    theirs = service(kind="ServiceEntry", name="evil", hostname="a.example", addresses=("10.244.0.5",))
    mesh.apply(theirs._replace(key=("hello", "ServiceEntry/evil/a.example")))
    routes = mesh.publisher.waypoints.maps(WAYPOINT)[names.ROUTE_TYPE]
    assert "Pod/hello/p|*" in routes
    assert "ServiceEntry/hello/a.example|80" not in routes


def test_unbinding_takes_the_target_away() -> None:
    mesh = Mesh()
    mesh.apply(namespace({}))
    assert TARGET not in mesh.publisher.waypoints.maps(WAYPOINT)[names.ROUTE_TYPE]
    entry = mesh.publisher.addresses.get("/".join(SERVICE))
    assert entry is not None
    assert not workload_pb2.Address.FromString(entry.body()).service.HasField("waypoint")


def test_addresses_are_found_by_ip() -> None:
    mesh = Mesh()
    assert [entry.name for entry in mesh.publisher.addresses.resolve("/10.244.0.5")] == [POD]
    assert [entry.name for entry in mesh.publisher.addresses.resolve("/10.96.0.7")] == ["/".join(SERVICE)]


# --- who may read what


def test_node_proxies_have_wds_and_nobody_else() -> None:
    mesh = Mesh()
    assert mesh.access(peer("istio-system", "ztunnel"), types.ADDRESS) is mesh.publisher.addresses
    for node in (peer("hello", "waypoint"), peer("hello", "ztunnel"), ClientNode("x", {}, None)):
        with pytest.raises(AccessDenied):
            mesh.access(node, types.AUTHORIZATION)


def test_waypoints_have_their_own_configuration() -> None:
    mesh = Mesh()
    own = mesh.access(peer("hello", "waypoint"), names.LISTENER_TYPE)
    assert own is mesh.publisher.waypoints.maps(WAYPOINT)[names.LISTENER_TYPE]
    for node in (peer("other", "waypoint"), peer("hello", "default"), peer("istio-system", "ztunnel")):
        with pytest.raises(AccessDenied):
            mesh.access(node, names.LISTENER_TYPE)


def test_the_pod_decides_between_waypoints_that_share_an_account() -> None:
    annotations = {"gateway.istio.io/service-account": "waypoint"}
    listener = ListenerRecord("mesh", 15008, "HBONE")
    second = GatewayRecord("hello", "second", "istio-waypoint", annotations=annotations, listeners=(listener,))
    labels = {"gateway.networking.k8s.io/gateway-name": "second"}
    mesh = Mesh(Change(Kind.GATEWAY, ("hello", "second"), second), pod(labels=labels))
    found = mesh.access(peer("hello", "waypoint", "p"), names.ROUTE_TYPE)
    assert found is mesh.publisher.waypoints.maps(("hello", "second"))[names.ROUTE_TYPE]
    lying = ClientNode("x", {"GATEWAY_NAME": "second"}, peer("hello", "waypoint").peer)
    with pytest.raises(AccessDenied):
        mesh.access(lying, names.ROUTE_TYPE)


def test_unknown_types_are_not_served() -> None:
    found: ResourceMap | None = Mesh().access(peer("hello", "waypoint"), types.SECRET)
    assert found is None
