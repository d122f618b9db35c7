"""Addresses that istiod gives to hosts of ServiceEntries which have none."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.istiod.addresses import V4, V6, Host, Numbers, addresses, numbers_in
from tulle.istiod.index.entries import unaddressed_hosts
from tulle.kube.client import Client
from tulle.kube.resources import SERVICE_ENTRIES

from .conftest import RunIstiod, eventually
from .wds_world import Mesh, service_entry

HOSTS = st.builds(
    Host, st.tuples(st.sampled_from("ab"), st.sampled_from("xyz")), st.sampled_from(["h.example.com", "i.example.com"])
)
STEPS = st.lists(st.tuples(st.sampled_from(["of", "claim", "release"]), HOSTS, st.integers(1, 4)))


@given(STEPS)
def test_no_two_hosts_ever_share_an_address_and_each_keeps_its_own(steps: list[tuple[str, Host, int]]) -> None:
    numbers, had = Numbers(), dict[Host, int]()
    for step, host, number in steps:
        if step == "of":
            found = numbers.of(host)
            assert found is not None
            assert had.setdefault(host, found) == found
        elif step == "claim":
            numbers.claim(host, number)
            if host not in had and number not in had.values():
                had[host] = number
        else:
            numbers.release(host.entry, keep=[host.name])
            had = {one: kept for one, kept in had.items() if one.entry != host.entry or one == host}
        assert len(set(had.values())) == len(had)
    assert all(numbers.of(host) == number for host, number in had.items())


def test_the_choice_depends_on_names_alone() -> None:
    host = Host(("a", "x"), "x.example.com")
    assert Numbers().of(host) == Numbers().of(host)
    assert Numbers().of(host) != Numbers().of(host._replace(name="y.example.com"))


def test_when_all_are_taken_there_is_none() -> None:
    numbers = Numbers()
    for number in range(1, V4.num_addresses - 1):
        numbers.claim(Host(("a", str(number)), "h"), number)
    assert numbers.of(Host(("b", "x"), "h")) is None


@given(st.integers(1, V4.num_addresses - 2))
def test_addresses_are_of_upstreams_blocks_and_are_read_back(number: int) -> None:
    v4, v6 = addresses(number)
    assert ip_address(v4) in V4
    assert ip_address(v6) in V6
    given_before = [{"host": "x.example.com", "value": value} for value in (v6, v4)]
    assert list(numbers_in({**service_entry(), "status": {"addresses": given_before}})) == [("x.example.com", number)]


@pytest.mark.parametrize(
    "status",
    [
        None,
        [],
        {"addresses": "x"},
        {"addresses": ["x", {"host": "x.example.com", "value": "10.0.0.1"}, {"value": "?"}]},
    ],
)
def test_what_others_wrote_into_the_status_is_no_number(status: Any) -> None:
    assert list(numbers_in({**service_entry(), "status": status})) == []


@pytest.mark.parametrize(
    ("entry", "hosts"),
    [
        (service_entry(), ["x.example.com"]),
        (service_entry(resolution="DNS", hosts=["*.example.com", "x.example.com"]), ["x.example.com"]),
        (service_entry(resolution="NONE"), []),
        (service_entry(addresses=["192.0.2.1"]), []),
        (service_entry(meta={"labels": {"networking.istio.io/enable-autoallocate-ip": "False"}}), []),
        (service_entry(meta={"labels": {"networking.istio.io/enable-autoallocate-ip": "true"}}), ["x.example.com"]),
    ],
)
def test_who_gets_addresses(entry: dict[str, Any], hosts: list[str]) -> None:
    assert list(unaddressed_hosts(entry)) == hosts
    status = {"addresses": [{"host": "x.example.com", "value": "240.240.0.1"}]}
    found = {one.address for one in Mesh.of({**entry, "status": status}).service(("a", "x.example.com")).addresses}
    assert (bytes([240, 240, 0, 1]) in found) == bool(hosts), "an address that is not due counts for nothing"


async def test_istiod_writes_them_and_takes_them_back(client: Client, namespace: str, run_istiod: RunIstiod) -> None:
    spec = service_entry()["spec"]
    body = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "x", "namespace": namespace},
        "spec": spec,
    }
    await client.create(SERVICE_ENTRIES, body, namespace)

    async def given_now() -> list[Any]:
        found = await client.get(SERVICE_ENTRIES, "x", namespace)
        return list((found.get("status") or {}).get("addresses") or ())

    async with run_istiod():
        first = await eventually(given_now, "the host has addresses")
        assert [one["host"] for one in first] == ["x.example.com", "x.example.com"]
    async with run_istiod():
        await client.patch(SERVICE_ENTRIES, "x", {"spec": {"hosts": ["x.example.com", "y.example.com"]}}, namespace)

        async def two_hosts() -> list[Any]:
            found = await given_now()
            return found if len(found) == 4 else []

        assert (await eventually(two_hosts, "the second host has addresses"))[:2] == first, "another istiod keeps them"
        await client.patch(SERVICE_ENTRIES, "x", {"spec": {"addresses": ["192.0.2.1"]}}, namespace)

        async def none_left() -> bool:
            return not await given_now()

        await eventually(none_left, "addresses of its own take their place")
