"""The Service ruleset as a pure function: what is rendered, and that any change leads to what a fresh start would render."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from network import objects as o
from tulle.cluster.node.network.catalogue import Catalogue
from tulle.cluster.node.network.services import EMPTY, Fragment, Placement, base_ruleset, chain_name, render, transition
from tulle.kube.informer import Change
from tulle.kube.objects import Service

HERE = Placement("n0", frozenset({"10.96.0.10"}))
KEY = ("d", "web")


def fragment(
    service: Service | None, *addresses: str, port: int = 8080, name: str = "http", protocol: str = "TCP"
) -> Fragment:
    catalogue = Catalogue()
    catalogue.slice_changed(Change(("d", "web-1"), None, o.slice_of("d/web", list(addresses), port, name, protocol)))
    return render(KEY, service, catalogue.backends(KEY), HERE)


def web(**spec: object) -> Service:
    return o.service("d/web", "10.96.1.1", o.port(80, node_port=30080), **spec)


def test_one_port_with_two_endpoints() -> None:
    chain = chain_name(KEY, o.port(80))
    got = fragment(web(), "10.244.0.2", "10.244.1.3")
    assert got.elements == {
        ("vips", "10.96.1.1 . tcp . 80"): f"goto {chain}",
        ("node-ports", "tcp . 30080"): f"goto {chain}",
    }
    assert got.chains == {
        chain: ("meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.244.0.2 . 8080, 1 : 10.244.1.3 . 8080 }",)
    }


@pytest.mark.parametrize(
    "service",
    [
        None,
        o.service("d/web", "None", o.port(80)),
        o.service("d/web", "", o.port(80), type="ExternalName", external_name="example.org"),
        o.service("d/web", "10.96.0.10", o.port(80)),
        o.service("d/web", "fd00::1", o.port(80)),
        o.service("d/web", "10.96.1.1", o.port(80, name="other")),
        o.service("d/web", "10.96.1.1", o.port(80, protocol="SCTP")),
        o.service("d/web", "10.96.1.1", o.port(80), internal_traffic_policy="Local"),
    ],
)
def test_nothing_to_translate(service: Service | None) -> None:
    assert fragment(service, "10.244.0.2") == EMPTY


@pytest.mark.parametrize(
    "address", ["fd00::7", "10.244.0.300", "not an address", "10.244.0.2%eth0", "10.0.0.1 }; flush ruleset"]
)
def test_an_address_that_no_rule_can_have_is_left_out(address: str) -> None:
    assert fragment(web(), "10.244.0.2", address) == fragment(web(), "10.244.0.2")


@pytest.mark.parametrize("number", [0, -1, 65536])
def test_a_port_that_no_rule_can_have_is_left_out(number: int) -> None:
    assert fragment(web(), "10.244.0.2", port=number) == EMPTY


def test_no_endpoints_no_element() -> None:
    assert fragment(web()) == EMPTY


def test_terminating_endpoints_serve_when_no_other_does() -> None:
    catalogue = Catalogue()
    part = o.slice_of("d/web", ["10.244.0.2"], 8080, ready=False)
    catalogue.slice_changed(Change(("d", "web-1"), None, part))
    assert render(KEY, web(), catalogue.backends(KEY), HERE) == EMPTY


def test_udp_flows_are_known() -> None:
    service = o.service("d/web", "10.96.1.1", o.port(53, "dns", "UDP"))
    got = fragment(service, "10.244.0.2", port=5353, name="dns", protocol="UDP")
    assert got.udp == {("10.96.1.1", 53, "10.244.0.2")}


def test_size_is_linear_in_endpoints() -> None:
    def size(count: int, **spec: object) -> int:
        got = fragment(web(**spec), *(f"10.244.{n // 200}.{n % 200 + 2}" for n in range(count)))
        return len(base_ruleset("10.244.0.0/24", "10.96.0.0/16", "169.254.77.2", [], [got]))

    for spec in ({}, {"session_affinity": "ClientIP"}):
        small, large = size(10, **spec), size(100, **spec)
        assert large < 12 * small


class Kernel:
    """A model of the table: applies scripts line by line and refuses what nft would refuse."""

    def __init__(self) -> None:
        self.chains: dict[str, list[str]] = {}
        self.sets: dict[str, str] = {}
        self.elements: dict[tuple[str, str], str] = {}

    def apply(self, lines: list[str]) -> None:
        for line in (part for entry in lines for part in entry.split("\n")):
            verb, kind, _, _, name, *rest = line.split(" ", 5)
            getattr(self, f"{verb}_{kind}")(name, rest[0] if rest else "")
        for rules in [*self.chains.values(), list(self.elements.values())]:
            for target in re.findall(r"(?:goto |@)([\w-]+)", " ".join(rules)):
                assert target in self.chains or target in self.sets, f"{target} does not exist"

    def add_set(self, name: str, definition: str) -> None:
        self.sets[name] = definition

    def delete_set(self, name: str, _: str) -> None:
        assert not any(f"@{name} " in rule for rules in self.chains.values() for rule in rules), "set in use"
        del self.sets[name]

    def add_chain(self, name: str, _: str) -> None:
        self.chains.setdefault(name, [])

    def flush_chain(self, name: str, _: str) -> None:
        self.chains[name] = []

    def delete_chain(self, name: str, _: str) -> None:
        used = [rule for rules in self.chains.values() for rule in rules] + list(self.elements.values())
        assert not any(re.search(rf"goto {name}\b(?!-)", rule) for rule in used), "chain in use"
        del self.chains[name]

    def add_rule(self, name: str, rule: str) -> None:
        self.chains[name].append(rule)

    def add_element(self, name: str, element: str) -> None:
        key, _, value = element.strip("{ }").partition(" : ")
        assert self.elements.get((name, key), value) == value, "element exists with another value"
        self.elements[name, key] = value

    def delete_element(self, name: str, element: str) -> None:
        del self.elements[name, element.strip("{ }")]


states = st.builds(
    lambda addresses, ports, affinity, present: fragment(
        o.service("d/web", "10.96.1.1", *(o.port(p, node_port=p + 30000) for p in ports), session_affinity=affinity)
        if present
        else None,
        *addresses,
    ),
    st.sets(st.sampled_from([f"10.244.0.{n}" for n in range(2, 6)])),
    st.sets(st.sampled_from([80, 81, 82])),
    st.sampled_from(["", "ClientIP"]),
    st.booleans(),
)


@given(st.lists(states, max_size=6))
def test_any_history_ends_as_a_fresh_start_would(history: list[Fragment]) -> None:
    kernel, before = Kernel(), EMPTY
    for state in history:
        kernel.apply(transition(before, state))
        before = state
    assert kernel.elements == dict(before.elements)
    assert {name: tuple(rules) for name, rules in kernel.chains.items()} == dict(before.chains)
    assert kernel.sets == dict(before.sets)
    assert transition(before, before) == []
