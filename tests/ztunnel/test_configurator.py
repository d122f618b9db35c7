"""Resources in step with the mesh: made again only when they must be."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from tulle.envoy.tls import mutual_client
from tulle.xds import types
from tulle.xds.proto import authorization_pb2, workload_pb2
from tulle.xds.resources import ResourceMap
from tulle.ztunnel.config.destination import Here
from tulle.ztunnel.config.introduction import baggage
from tulle.ztunnel.config.local_pod import LocalPod
from tulle.ztunnel.configurator import MAX_STRAY, Configurator
from tulle.ztunnel.secrets import NodeSecrets
from tulle.ztunnel.state.model import Locality, Workload

from .fake_istiod import exact
from .test_destination import VIP, service, workload

NAME = f"service|client|{VIP}:80"


def pod(number: int) -> LocalPod:
    return LocalPod(f"uid-{number}", f"p-{number}", "shop", "cart", f"/run/x/{number}", "cluster.local")


def encoded(*addresses: workload_pb2.Address) -> dict[str, bytes]:
    found = {}
    for address in addresses:
        kind = address.WhichOneof("type")
        name = address.workload.uid if kind == "workload" else f"{address.service.namespace}/{address.service.hostname}"
        found[name] = address.SerializeToString()
    return found


def configured() -> Configurator:
    configurator = Configurator(Here(), 15004)
    configurator.apply_addresses(encoded(service(), workload("p-1", "10.0.0.1")), [])
    configurator.add_pod(pod(1))
    configurator.clusters.acquire(NAME)
    return configurator


def versions(*maps: ResourceMap) -> dict[str, str]:
    return {entry.name: entry.version for found in maps for entry in found.entries()}


def test_a_pod_is_three_listeners_and_one_table() -> None:
    configurator = configured()
    before = versions(configurator.listeners, configurator.routes, configurator.clusters)
    configurator.add_pod(pod(2))
    added = set(versions(configurator.listeners, configurator.routes, configurator.clusters)) - set(before)
    assert added == {"pod/uid-2/outbound", "pod/uid-2/plaintext", "pod/uid-2/hbone", "pod/uid-2/inbound"}
    configurator.remove_pod("uid-2")
    assert versions(configurator.listeners, configurator.routes, configurator.clusters) == before


def test_a_pod_that_comes_again_keeps_no_listener_that_it_needs_no_more() -> None:
    configurator = configured()
    without = versions(configurator.listeners)
    configurator.add_pod(dataclasses.replace(pod(1), keeps_source=True))
    assert set(versions(configurator.listeners)) - set(without) == {"pod/uid-1/sink"}
    configurator.add_pod(pod(1))
    assert versions(configurator.listeners) == without


def test_size_of_a_pod_does_not_grow_with_the_mesh() -> None:
    def size(others: int) -> int:
        configurator = configured()
        more = [workload(f"w{n}", f"10.0.{n % 200}.7") for n in range(others)]
        more += [service(name=f"s{n}", vip=f"10.96.{n % 200}.9") for n in range(others)]
        configurator.apply_addresses(encoded(*more), [])
        listeners = [entry for entry in configurator.listeners.entries() if entry.name.startswith("pod/")]
        return sum(len(entry.wire) for entry in (*listeners, *configurator.routes.entries()))

    small, large = size(0), size(3000)
    assert large < small + 2000, "only the covering prefixes may add to it"
    assert small < 22_000


def test_a_change_of_policy_touches_no_listener_for_tunnels() -> None:
    configurator = configured()
    attached = workload("p-1", "10.0.0.1", authorization_policies=["shop/only"])
    configurator.apply_addresses(encoded(attached), [])
    listeners = versions(configurator.listeners)
    table = versions(configurator.routes)
    match = authorization_pb2.Match(principals=[exact("cluster.local/ns/a/sa/b")])
    rule = authorization_pb2.Rule(clauses=[authorization_pb2.Clause(matches=[match])])
    policy = authorization_pb2.Authorization(name="only", namespace="shop", scope=2, rules=[rule])
    configurator.apply_policies({"shop/only": policy.SerializeToString()}, [])
    changed = {name for name, version in versions(configurator.listeners).items() if listeners[name] != version}
    assert changed <= {"pod/uid-1/plaintext"}
    assert versions(configurator.routes) != table


def test_only_destinations_in_use_exist_and_follow_the_mesh() -> None:
    configurator = configured()
    first = configurator.clusters.get(NAME)
    assert first is not None
    assert f"service|other|{VIP}:80" not in configurator.clusters
    configurator.apply_addresses(encoded(workload("unrelated", "10.0.7.7", service="x/y")), [])
    assert configurator.clusters.get(NAME) is first
    configurator.apply_addresses(encoded(workload("second", "10.0.0.2")), [])
    second = configurator.clusters.get(NAME)
    assert second is not None
    assert second.version != first.version
    configurator.clusters.release(NAME)
    assert NAME not in configurator.clusters


def test_unknown_names_are_not_made() -> None:
    configurator = configured()
    configurator.clusters.acquire("something else")
    assert "something else" not in configurator.clusters


def test_a_pod_that_went_and_its_address_that_comes_back() -> None:
    """Envoy does not ask twice, so what it has asked for is sent when it exists again, and only then."""
    configurator = configured()
    name = "direct|client|10.0.0.1"
    configurator.clusters.acquire(name)
    first = configurator.clusters.get(name)
    configurator.apply_addresses({}, ["Kubernetes//Pod/shop/p-1"])
    assert name not in configurator.clusters
    configurator.apply_addresses(encoded(workload("p-9", "10.0.0.1", service_account="other")), [])
    second = configurator.clusters.get(name)
    assert first is not None
    assert second is not None
    assert second.version != first.version, "the new pod is another identity"


def outside(address: str) -> workload_pb2.Address:
    """What a ServiceEntry says of an address outside the cluster."""
    found = service(name="api", vip=address, ports=[workload_pb2.Port(service_port=443, target_port=443)])
    found.service.load_balancing.mode = workload_pb2.LoadBalancing.PASSTHROUGH
    return found


def machine(address: str) -> workload_pb2.Address:
    """What a WorkloadEntry says of one."""
    found = workload("vm", address)
    found.workload.uid = "Kubernetes/networking.istio.io/WorkloadEntry/shop/vm"
    return found


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (outside("192.0.2.1"), "service|client|192.0.2.1:443"),
        (machine("192.0.2.1"), "direct|client|192.0.2.1"),
    ],
)
def test_an_address_outside_the_cluster_stays_reachable_when_its_entry_has_gone(
    address: workload_pb2.Address, name: str
) -> None:
    """As for clients that come only now: to them it is an address like any other."""
    configurator = configured()
    entry = encoded(address)
    configurator.apply_addresses(entry, [])
    configurator.clusters.acquire(name)
    configurator.apply_addresses({}, list(entry))
    assert name in configurator.clusters
    (hop,) = configurator.destinations[name].priorities[0]
    assert (str(hop.address), hop.identities) == ("192.0.2.1", ())


def test_pods_that_went_take_no_place_from_destinations_outside_the_mesh() -> None:
    configurator = configured()
    for number in range(MAX_STRAY + 10):
        address = f"10.1.{number >> 8}.{number & 255}"
        entry = encoded(workload("short", address))
        configurator.apply_addresses(entry, [])
        configurator.clusters.acquire(f"direct|client|{address}")
        configurator.apply_addresses({}, list(entry))
    configurator.clusters.acquire("direct|client|10.1.200.1")
    assert "direct|client|10.1.200.1" in configurator.clusters


def test_a_new_pod_that_was_asked_for_too_early() -> None:
    configurator = configured()
    name = "direct|client|10.0.0.7"
    configurator.clusters.acquire(name)
    assert not configurator.destinations[name].known
    configurator.apply_addresses(encoded(workload("p-7", "10.0.0.7")), [])
    assert configurator.destinations[name].priorities[0][0].identities


WAYPOINT = "shop/gate.shop.svc.cluster.local"


def sandwiched() -> workload_pb2.Address:
    """The record of local pod 1 as a waypoint's, whose app takes all tunnels."""
    found = workload("p-1", "10.0.0.1", service=WAYPOINT)
    found.workload.application_tunnel.port = 15088
    return found


def behind_waypoint(ports: range) -> Configurator:
    """Pod 1 is the waypoint of the service, and has sent something on to each of its ports."""
    hostname = workload_pb2.NamespacedHostname(namespace="shop", hostname=WAYPOINT.partition("/")[2])
    all_ports = [workload_pb2.Port(service_port=port, target_port=8080) for port in ports]
    led = service(ports=all_ports, waypoint=workload_pb2.GatewayAddress(hostname=hostname, hbone_mtls_port=15008))
    gate = service(name="gate", vip="10.96.0.6", ports=[workload_pb2.Port(service_port=15008, target_port=15008)])
    configurator = Configurator(Here(), 15004)
    configurator.apply_addresses(encoded(led, gate, workload("b", "10.0.0.2"), sandwiched()), [])
    configurator.add_pod(pod(1))
    for port in ports:
        configurator.clusters.acquire(f"service|shop@uid-1|{VIP}:{port}")
    return configurator


def test_what_a_waypoint_sends_on_does_not_come_back_after_its_record_has_changed() -> None:
    """Many ports, since what one change touches is in no particular order."""
    configurator = behind_waypoint(range(80, 100))

    def where() -> set[str]:
        return {str(h.address) for one in configurator.destinations.values() for group in one.priorities for h in group}

    assert where() == {"10.0.0.2"}
    configurator.apply_addresses({}, ["Kubernetes//Pod/shop/p-1"])
    assert where() == set()
    configurator.apply_addresses(encoded(sandwiched()), [])
    assert where() == {"10.0.0.2"}


def test_nothing_is_left_of_a_waypoint_whose_record_goes_before_its_pod() -> None:
    configurator = behind_waypoint(range(80, 81))
    configurator.apply_addresses({}, ["Kubernetes//Pod/shop/p-1"])
    configurator.remove_pod("uid-1")
    assert (len(configurator.clusters), configurator.destinations) == (0, {})


def test_strays_are_limited_for_each_namespace() -> None:
    configurator = configured()
    for number in range(MAX_STRAY + 10):
        configurator.clusters.acquire(f"service|greedy|{VIP}:{number + 1000}")
    made = [name for name in configurator.clusters if name.startswith("service|greedy")]
    assert len(made) == MAX_STRAY
    configurator.clusters.acquire(f"service|greedy|{VIP}:80")
    configurator.clusters.acquire(f"service|modest|{VIP}:81")
    assert f"service|greedy|{VIP}:80" in configurator.clusters, "a real destination is never a stray"
    assert f"service|modest|{VIP}:81" in configurator.clusters
    for name in list(configurator.destinations):
        configurator.clusters.release(name)
    assert (len(configurator.clusters), configurator.destinations) == (0, {})
    configurator.clusters.acquire(f"service|greedy|{VIP}:1000")
    assert f"service|greedy|{VIP}:1000" in configurator.clusters


class _Source:
    def __init__(self) -> None:
        self.secrets = ResourceMap(types.SECRET)
        self.demanded: list[str] = []

    def demand(self, identity: str) -> None:
        self.demanded.append(identity)


async def test_connections_do_not_wait_for_ever_for_a_certificate() -> None:
    source = _Source()
    served = NodeSecrets(source, patience=0.0).secrets
    told: list[str] = []
    served.subscribe(told.extend)
    served.acquire("spiffe://a")  # a listener waits as long as it takes
    served.acquire("client|spiffe://a")
    await asyncio.sleep(0.02)
    assert told == ["client|spiffe://a"]
    assert served.is_given_up("client|spiffe://a")
    secret = secret_pb2.Secret(name="spiffe://a")
    secret.tls_certificate.certificate_chain.inline_string = "chain"
    source.secrets.set("spiffe://a", secret)
    assert not served.is_given_up("client|spiffe://a")


async def test_secrets_have_a_second_name_for_clients() -> None:
    source = _Source()
    served = NodeSecrets(source).secrets
    served.acquire("client|spiffe://a")
    assert source.demanded == ["spiffe://a"]
    secret = secret_pb2.Secret(name="spiffe://a")
    secret.tls_certificate.certificate_chain.inline_string = "chain"
    source.secrets.set("spiffe://a", secret)
    source.secrets.set("ROOTCA", secret_pb2.Secret(name="ROOTCA", validation_context={}))
    assert set(served) == {"spiffe://a", "client|spiffe://a", "ROOTCA"}
    client = served.get("client|spiffe://a")
    assert client is not None
    assert secret_pb2.Secret.FromString(client.body()).name == "client|spiffe://a"
    source.secrets.remove("spiffe://a")
    assert set(served) == {"ROOTCA"}


def test_an_upstream_without_identity_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="cannot be verified"):
        mutual_client([])


def test_what_tunnels_tell_of_a_pod() -> None:
    client = pod(1)
    record = Workload(
        uid="u",
        name=client.name,
        namespace=client.namespace,
        workload_name="cart",
        workload_type="deployment",
        canonical_name="cart, the",
        canonical_revision="v2",
    )
    assert baggage(client, record, "east", Locality(region="eu", zone="eu-1")) == (
        "k8s.cluster.name=east,k8s.namespace.name=shop,k8s.deployment.name=cart,service.name=cart%2C%20the,service.version=v2,"
        "cloud.region=eu,cloud.availability_zone=eu-1"
    )
    assert baggage(client, None, "east", Locality()) == "k8s.cluster.name=east,k8s.namespace.name=shop,k8s.pod.name=p-1"
    other = dataclasses.replace(record, workload_type="replicaset", canonical_name="", canonical_revision="")
    assert "k8s.pod.name=p-1" in baggage(client, other, "east", Locality())
