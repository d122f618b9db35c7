"""What the mesh answers to whom."""

from __future__ import annotations

import pytest

from tulle.xds.proto import workload_pb2
from tulle.ztunnel.dns.lookup import Place, addresses, find

from .world import PLACE, World

CART = "cart.shop.svc.cluster.local"
API = "api.example.com"


@pytest.fixture
def world() -> World:
    return World()


def asked(world: World, name: str, namespace: str = "shop", place: Place = PLACE, version: int = 4) -> list[str] | None:
    """Addresses as text in order; None for what goes on to the resolver."""
    found = find(world.mesh, place, name, namespace)
    if found is None:
        return None
    return sorted(str(address) for address in addresses(world.mesh, place, found.service, version))


def test_short_names_are_the_clients_own_namespaces(world: World) -> None:
    world.service("shop", CART, "10.96.0.5")
    assert asked(world, "cart") == ["10.96.0.5"]
    assert asked(world, "cart", "web") is None
    assert asked(world, "cart.shop", "web") == ["10.96.0.5"]
    assert asked(world, CART, "web") == ["10.96.0.5"]


def test_a_removed_service_is_no_longer_known(world: World) -> None:
    world.service("shop", CART, "10.96.0.5")
    world.remove(f"shop/{CART}")
    assert asked(world, CART) is None


def test_a_service_entry_without_an_address_is_the_resolvers_matter(world: World) -> None:
    world.service("shop", API)
    assert asked(world, API) is None


def test_the_narrowest_wildcard_wins_and_the_literal_name_over_all(world: World) -> None:
    world.service("shop", "*.com", "240.0.0.1")
    world.service("shop", "*.example.com", "240.0.0.2")
    assert asked(world, API) == ["240.0.0.2"]
    assert asked(world, "example.com") == ["240.0.0.1"]
    world.service("shop", API, "240.0.0.3")
    assert asked(world, API) == ["240.0.0.3"]


def test_one_host_in_several_namespaces(world: World) -> None:
    for namespace, vip in (("aaa", "240.0.0.1"), ("shop", "240.0.0.2"), ("zzz", "240.0.0.3")):
        world.service(namespace, API, vip, canonical=namespace == "zzz")
    assert asked(world, API, "shop") == ["240.0.0.2"], "the client's own first"
    assert asked(world, API, "web", Place(preferred_namespace="aaa")) == ["240.0.0.1"], "then the preferred"
    assert asked(world, API, "web") == ["240.0.0.3"], "then the canonical one"


def test_a_service_that_is_private_to_its_namespace_is_unknown_elsewhere(world: World) -> None:
    world.service("shop", API, "240.0.0.1", visibility=workload_pb2.NAMESPACE)
    assert asked(world, API, "shop") == ["240.0.0.1"]
    assert asked(world, API, "web") is None


def test_only_addresses_of_the_clients_network_and_of_the_version_asked_for(world: World) -> None:
    world.service("shop", CART, "10.96.0.5", "far/10.96.0.6", "fd00::5")
    assert asked(world, CART) == ["10.96.0.5"]
    assert asked(world, CART, place=Place(network="far")) == ["10.96.0.6"]
    assert asked(world, CART, version=6) == ["fd00::5"]


def test_a_headless_service_is_its_ready_endpoints(world: World) -> None:
    world.service("shop", CART, ip_families=workload_pb2.IPV4_ONLY)
    world.endpoint("a", f"shop/{CART}", "10.244.0.2", "fd00::2")
    world.endpoint("b", f"shop/{CART}", "10.244.0.3")
    world.endpoint("c", f"shop/{CART}", "10.244.0.4", healthy=False)
    assert asked(world, CART) == ["10.244.0.2", "10.244.0.3"]
    assert asked(world, CART, version=6) == [], "pods have such addresses, but the Service says it has none"


def test_a_headless_service_may_publish_endpoints_that_are_not_ready(world: World) -> None:
    balancing = workload_pb2.LoadBalancing(health_policy=workload_pb2.LoadBalancing.ALLOW_ALL)
    world.service("shop", CART, load_balancing=balancing)
    world.endpoint("c", f"shop/{CART}", "10.244.0.4", healthy=False)
    assert asked(world, CART) == ["10.244.0.4"]


def test_a_block_of_addresses_is_no_answer(world: World) -> None:
    message = workload_pb2.Service(name="api", namespace="shop", hostname=API)
    message.addresses.add(address=bytes((192, 0, 2, 0)), length=24)
    encoded = workload_pb2.Address(service=message).SerializeToString()
    world.mesh.apply_addresses({f"shop/{API}": encoded}, [])
    assert asked(world, API) is None


def test_what_was_meant_is_named_when_a_search_domain_was_on_it(world: World) -> None:
    world.service("shop", API, "240.0.0.1")
    world.service("shop", "*.org", "240.0.0.2")
    searched = find(world.mesh, PLACE, f"{API}.shop.svc.cluster.local", "shop")
    assert searched is not None
    assert searched.alias == API
    wildcard = find(world.mesh, PLACE, "any.org.svc.cluster.local", "shop")
    assert wildcard is not None
    assert wildcard.alias == ""


def test_letters_of_a_hostname_do_not_matter(world: World) -> None:
    world.service("shop", "API.Example.com", "240.0.0.1")
    assert asked(world, API) == ["240.0.0.1"]
