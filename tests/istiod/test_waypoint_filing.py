"""Policies filed by client: a route holds every policy that can match its client, and the routes together do not grow out of hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from envoy.config.route.v3 import route_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.security import rbac_reference, strategies, world
from tulle.istiod.waypoint_config import filing, names, rbac, routes
from tulle.istiod.waypoint_config.view import ActionRules, PortView, TargetView, WaypointConfigView
from tulle.istiod.waypoint_targets import rules_of
from tulle.security.mesh import MeshSettings
from tulle.security.model import AuthorizationPolicy

CLIENTS = (*(f"spiffe://{principal}" for principal in strategies.PRINCIPALS), "spiffe://other/ns/x/sa/y", "")
SERVICE = {"targetRefs": [{"kind": "Service", "group": "", "name": "helloworld"}]}
PORT = PortView(80, "HTTP", ())
VIEW = WaypointConfigView("hello", "waypoint", "spiffe://td/ns/hello/sa/waypoint", "td", ())


def http(policies: list[AuthorizationPolicy]) -> ActionRules:
    return rules_of(policies, MeshSettings()).http


def parts(rules: ActionRules) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for part in fields(rules):
        if getattr(rules, part.name) is not None:
            yield part.name, getattr(rules, part.name)["policies"]


def about(client: str) -> dict[str, Any]:
    return {"from": [{"source": {"principals": [client.removeprefix("spiffe://")]}}]}


def for_clients(number: int) -> list[AuthorizationPolicy]:
    return [world.policy({**SERVICE, "rules": [about(f"td/ns/n/sa/{i}")]}, f"p{i}") for i in range(number)]


@settings(max_examples=60)
@given(st.lists(strategies.specs(), max_size=8), st.data())
def test_what_a_route_leaves_out_could_not_have_matched_and_the_routes_stay_small(
    specs: list[dict[str, Any]], data: st.DataObject
) -> None:
    rules = http([world.policy(spec, f"p{number}") for number, spec in enumerate(specs)])
    filed = filing.file(rules)
    client = data.draw(st.sampled_from((*CLIENTS, *filed.by_client)))
    kept = dict(parts(filed.by_client.get(client, filed.rest)))
    for part, policies in parts(rules):
        assert kept[part].items() <= policies.items()
        for name in policies.keys() - kept[part].keys():
            seen = rbac_reference.Seen({names.PEER_PRINCIPAL: client}, "10.244.1.7", "10.244.1.7", "", 80, (), None)
            held = policies[name]["principals"]
            assert not any(_possible(principal, seen) for principal in held), (client, name)
    assert kept.keys() == dict(parts(rules)).keys()
    together = sum(len(held) for each in (filed.rest, *filed.by_client.values()) for _, held in parts(each))
    assert together <= 4 * sum(len(held) for _, held in parts(rules))


def _possible(principal: Mapping[str, Any], seen: rbac_reference.Seen) -> bool:
    """Whether the principal can hold for that client, whatever else the request is: what is no identity is taken to hold."""
    match principal:
        case {"or_ids": {"ids": ids}}:
            return any(_possible(one, seen) for one in ids)
        case {"and_ids": {"ids": ids}}:
            return all(_possible(one, seen) for one in ids)
        case {"filter_state": {"string_match": _}} | {"not_id": {"any": True}}:
            return rbac_reference.principal_holds(principal, seen)
        case _:
            return True


def test_a_client_is_held_against_its_own_policies_and_those_about_anybody() -> None:
    policies = [*for_clients(100), world.policy({**SERVICE, "action": "DENY", "rules": [{}]}, "all")]
    filed = filing.file(http(policies))
    mine = filed.by_client["spiffe://td/ns/n/sa/7"]
    assert {part: list(held) for part, held in parts(mine)} == {
        "deny": ["ns[hello]-policy[all]-rule[0]"],
        "allow": ["ns[hello]-policy[p7]-rule[0]"],
    }
    assert {part: list(held) for part, held in parts(filed.rest)} == {
        "deny": ["ns[hello]-policy[all]-rule[0]"],
        "allow": [],
    }


def test_an_allow_of_which_nothing_is_left_still_denies() -> None:
    assert filing.file(http(for_clients(1))).rest.allow == {"action": "ALLOW", "policies": {}}
    configs = dict(rbac.per_route(filing.file(http(for_clients(1))).rest))
    assert list(configs) == [names.ALLOW_FILTER]


def test_policies_that_filing_would_multiply_stay_together() -> None:
    path = {"to": [{"operation": {"paths": ["/a"]}}]}
    anybody = [world.policy({**SERVICE, "rules": [path]}, f"any{i}") for i in range(100)]
    assert not filing.file(http([*for_clients(100), *anybody])).by_client


def test_the_table_chooses_by_client_alone() -> None:
    target = TargetView("Service", "hello", "s", "s", ("10.96.0.1",), (PORT,), rules_of(for_clients(3), MeshSettings()))
    (host,) = routes.for_port(VIEW, target, PORT).virtual_hosts
    assert not host.routes
    chosen = host.matcher.matcher_tree.exact_match_map.map
    assert sorted(chosen) == [f"spiffe://td/ns/n/sa/{i}" for i in range(3)]
    without = TargetView("Service", "hello", "s", "s", ("10.96.0.1",), (PORT,))
    table: route_pb2.RouteConfiguration = routes.for_port(VIEW, without, PORT)
    assert len(table.virtual_hosts[0].routes) == 1
