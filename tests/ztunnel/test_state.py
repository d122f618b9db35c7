"""The index of the mesh, the covering prefixes, and who has to look again."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tulle.xds.client import Rejected
from tulle.xds.proto import authorization_pb2, workload_pb2
from tulle.ztunnel.config.prefixes import LIMIT, GrowingPrefixes, divide
from tulle.ztunnel.dependents import Dependents
from tulle.ztunnel.state.mesh import Mesh, PartlyRejected, address_key, service_key
from tulle.ztunnel.state.model import NetworkAddress

from .test_destination import KEY, VIP, mesh, service, workload


def test_everything_is_found_and_forgotten() -> None:
    state = mesh(service(), workload("a", "10.0.0.1"))
    at = NetworkAddress("", ip_address("10.0.0.1"))
    found = state.workload_at(at)
    assert found is not None
    assert found.name == "a"
    assert [endpoint.name for endpoint in state.endpoints(KEY)] == ["a"]
    assert state.pod("shop", "a", "cart") is found
    assert state.pod("shop", "a", "other") is None, "another service account is another workload"
    touched = state.apply_addresses({}, ["Kubernetes//Pod/shop/a", KEY])
    assert {address_key(at), service_key(KEY)} <= touched
    assert state.workload_at(at) is None
    assert state.endpoints(KEY) == []
    assert (state.workloads, state.services) == ({}, {})


def test_a_move_touches_both_addresses() -> None:
    state = mesh(workload("a", "10.0.0.1"))
    moved = workload("a", "10.0.0.2")
    touched = state.apply_addresses({moved.workload.uid: moved.SerializeToString()}, [])
    for ip in ("10.0.0.1", "10.0.0.2"):
        assert address_key(NetworkAddress("", ip_address(ip))) in touched
    assert state.workload_at(NetworkAddress("", ip_address("10.0.0.1"))) is None


@pytest.mark.parametrize("service_first", [True, False])
@pytest.mark.parametrize("theirs", ["service", "workload"])
def test_nobody_takes_a_services_address_from_it(theirs: str, service_first: bool) -> None:
    """A ServiceEntry or WorkloadEntry of another namespace may give any address, and a waypoint of its own."""
    own = service(canonical=True)
    own.service.extensions.add(name="tulle.kubernetesService")
    if theirs == "service":
        other = service(name="evil", namespace="evil")
    else:
        other = workload("b", VIP)
        other.workload.uid = "Kubernetes/networking.istio.io/WorkloadEntry/evil/b"
    state = mesh(*((own, other) if service_first else (other, own)))
    at = NetworkAddress("", ip_address(VIP))
    found = state.service_at(at, "client")
    assert found is not None
    assert found.key == KEY
    assert state.workload_at(at) is None


@pytest.mark.parametrize("pod_first", [True, False])
def test_nobody_takes_a_pods_address_from_it(pod_first: bool) -> None:
    """A WorkloadEntry may give any address, and a waypoint of its own to which all that is sent there would go."""
    pod, entry = workload("a", "10.0.0.1", tunnel_protocol=workload_pb2.NONE), workload("b", "10.0.0.1")
    entry.workload.uid = "Kubernetes/networking.istio.io/WorkloadEntry/evil/b"
    state = mesh(*((pod, entry) if pod_first else (entry, pod)))
    at = NetworkAddress("", ip_address("10.0.0.1"))
    for _ in range(2):
        found = state.workload_at(at)
        assert found is not None
        assert found.name == "a"
        state.apply_addresses({pod.workload.uid: pod.SerializeToString()}, [])  # as when it becomes ready
    state.apply_addresses({}, [pod.workload.uid])
    left = state.workload_at(at)
    assert left is not None
    assert left.name == "b"


def test_host_network_addresses_belong_to_nobody() -> None:
    state = mesh(workload("a", "10.0.0.1", network_mode=workload_pb2.HOST_NETWORK))
    assert state.workload_at(NetworkAddress("", ip_address("10.0.0.1"))) is None


def test_what_cannot_be_read_is_named_and_the_rest_is_used() -> None:
    good, bad = workload("a", "10.0.0.1"), workload("b", "10.0.0.2")
    bad.workload.addresses[0] = b"abc"
    state = Mesh()
    with pytest.raises(PartlyRejected, match="Workload/Kubernetes//Pod/shop/b") as caught:
        state.apply_addresses({"good": good.SerializeToString(), "bad": bad.SerializeToString()}, [])
    assert isinstance(caught.value, Rejected)
    assert caught.value.names == {"bad"}
    assert set(state.workloads) == {"good"}


def test_of_an_unreadable_policy_the_version_before_stays() -> None:
    state = Mesh()
    first = authorization_pb2.Authorization(name="p", namespace="a", scope=1, action=1)
    state.apply_policies({"a/p": first.SerializeToString()}, [])
    future = authorization_pb2.Authorization(name="p", namespace="a", scope=1, action=9)
    with pytest.raises(PartlyRejected):
        state.apply_policies({"a/p": future.SerializeToString()}, [])
    assert state.policies["a/p"].deny
    state.apply_policies({}, ["a/p"])
    assert state.policies == {}


def test_what_is_routed() -> None:
    state = mesh(service(), workload("a", "10.0.0.1"), workload("b", "10.0.0.2", tunnel_protocol=workload_pb2.NONE))
    addresses = {ip: NetworkAddress("", ip_address(ip)) for ip in (VIP, "10.0.0.1", "10.0.0.2", "9.9.9.9")}
    assert [ip for ip, at in addresses.items() if state.is_service(at)] == [VIP]
    assert [ip for ip, at in addresses.items() if state.is_routed_workload(at)] == ["10.0.0.1"]


@settings(deadline=None)
@given(st.lists(st.lists(st.ip_addresses(), max_size=100), max_size=5))
def test_prefixes_cover_all_and_stay_few(batches: list[list[Any]]) -> None:
    prefixes = GrowingPrefixes()
    seen: list[Any] = []
    for batch in batches:
        before = prefixes.networks()
        changed = prefixes.add(batch)
        seen += batch
        assert changed == (prefixes.networks() != before) or changed
        for address in seen:
            assert any(address in network for network in prefixes.networks() if network.version == address.version)
    coarsest = {4: 256, 6: 1 << 16}
    for version in (4, 6):
        assert len([n for n in prefixes.networks() if n.version == version]) <= max(LIMIT, coarsest[version])


def test_prefixes_of_one_cluster_are_a_handful() -> None:
    prefixes = GrowingPrefixes()
    prefixes.add(ip_address(f"10.244.{node}.{pod}") for node in range(60) for pod in range(1, 20))
    assert len(prefixes.networks()) <= 6
    assert not prefixes.add([ip_address("10.244.3.200")])


@given(st.lists(st.ip_addresses(), max_size=40), st.lists(st.ip_addresses(), max_size=40))
def test_prefixes_are_divided_without_overlap(services: list[Any], others: list[Any]) -> None:
    of_services, of_others = GrowingPrefixes(), GrowingPrefixes()
    of_services.add(services)
    of_others.add(others)
    found = divide(of_services.networks(), of_others.networks())
    for address in services:
        assert any(address in network for network in found.services if network.version == address.version)
        assert not any(address in network for network in found.direct if network.version == address.version)
    for address in others:
        everything = (*found.services, *found.direct)
        assert any(address in network for network in everything if network.version == address.version)


class Model:
    """What `Dependents` should say, the slow way."""

    def __init__(self) -> None:
        self.noted: dict[str, frozenset[Any]] = {}


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.none() | st.frozensets(st.sampled_from([("k", "1"), ("k", "2"), ("k", "3")]))
        ),
        max_size=20,
    )
)
def test_dependents_against_a_model(steps: list[tuple[str, frozenset[Any] | None]]) -> None:
    real, model = Dependents(), Model()
    for name, keys in steps:
        if keys is None:
            real.forget(name)
            model.noted.pop(name, None)
        else:
            real.note(name, keys)
            model.noted[name] = keys
        for key in (("k", "1"), ("k", "2"), ("k", "3")):
            assert real.of([key]) == {name for name, noted in model.noted.items() if key in noted}
