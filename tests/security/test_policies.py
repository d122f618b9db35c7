"""Which names a workload gets, what lifting puts in their place, and what a waypoint gets."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.security.lifting import qualify
from tulle.security.mesh import MeshSettings
from tulle.security.model import Action, AuthorizationPolicy
from tulle.security.policies import How, PolicySet

from . import strategies, world

LIFT = MeshSettings(lift_selector_policies=True)
APP = {"selector": {"matchLabels": {"app": "helloworld"}}}
GET = [{"operation": {"methods": ["GET"]}}]
PRINCIPAL = [{"source": {"principals": ["cluster.local/ns/test/sa/default"]}}]
V1 = {**APP, "rules": [{"from": [{"source": {"namespaces": ["test"]}}], "to": GET}]}
V2 = {**APP, "rules": [{"from": PRINCIPAL, "to": GET}]}
DENY = {**APP, "action": "DENY", "rules": [{"to": [{"operation": {"methods": ["DELETE"]}}]}]}
STRICT = world.peer_authentication({"mtls": {"mode": "STRICT"}}, "default", "istio-system")


def test_names_without_lifting() -> None:
    policies = PolicySet(
        MeshSettings(),
        [world.policy(V2, "v2"), world.policy(V1, "v1"), world.policy({"rules": [{}]}, "wide")],
        [STRICT],
    )
    assert policies.for_workload(world.workload()) == (
        "hello/v1",
        "hello/v2",
        "istio-system/istio_converted_static_strict",
    )
    assert set(policies.ztunnel_policies()) == {
        "hello/v1",
        "hello/v2",
        "hello/wide",
        "istio-system/istio_converted_static_strict",
    }


def test_names_with_lifting() -> None:
    policies = PolicySet(LIFT, [world.policy(V1, "v1"), world.policy(V2, "v2")], [STRICT])
    target = world.workload()
    assert policies.for_workload(target) == (
        "hello/v1",
        "istio-system/istio_converted_static_strict",
        "hello/tulle_waypoint_allow_hello_waypoint",
    )
    assert set(policies.replacements(target)) == {"hello/tulle_waypoint_allow_hello_waypoint"}
    assert set(policies.for_workload(target)) <= set(policies.ztunnel_policies([target]))
    assert [item.how for item in policies.applied(target)] == [How.ZTUNNEL, How.LIFTED]


def test_names_when_no_waypoint_is_ready() -> None:
    policies = PolicySet(LIFT, [world.policy(V1, "v1"), world.policy(V2, "v2")])
    target = world.workload(waypoints=())
    assert policies.for_workload(target) == ("hello/v1", "hello/v2")
    assert policies.replacements(target) == {}


def test_one_allow_for_each_waypoint() -> None:
    both = (world.WAYPOINT, world.waypoint(name="second"))
    policies = PolicySet(LIFT, [world.policy(V2, "v2")])
    assert policies.for_workload(world.workload(waypoints=both)) == (
        "hello/tulle_waypoint_allow_hello_second",
        "hello/tulle_waypoint_allow_hello_waypoint",
    )


def test_a_lifted_deny_beside_an_open_allow_gets_a_guard() -> None:
    open_allow = world.policy({"rules": [{"from": PRINCIPAL}]}, "open")
    policies = PolicySet(LIFT, [world.policy(DENY, "deny"), open_allow])
    target = world.workload()
    assert policies.for_workload(target) == (
        "hello/tulle_waypoint_allow_hello_waypoint",
        "hello/tulle_waypoint_only_hello_waypoint",
    )
    guard = policies.replacements(target)["hello/tulle_waypoint_only_hello_waypoint"]
    assert guard.action is Action.DENY


def test_a_waypoint_gets_nothing_of_selector_policies_without_lifting() -> None:
    policies = PolicySet(MeshSettings(), [world.policy(V2, "v2"), world.policy(DENY, "deny")])
    assert policies.for_service(world.service(world.workload()), world.WAYPOINT) == ()


def test_a_waypoint_gets_the_lifted_policies_and_what_stays_at_ztunnel() -> None:
    policies = PolicySet(LIFT, [world.policy(V1, "v1"), world.policy(V2, "v2"), world.policy(DENY, "deny")])
    found = policies.for_service(world.service(world.workload()), world.WAYPOINT)
    assert {policy.meta.name: len(policy.rules) for policy in found} == {"deny": 1, "v1": 0, "v2": 1}
    assert policies.for_pod_ip(world.workload(), world.WAYPOINT) == found


def test_nothing_is_added_where_nothing_is_lifted() -> None:
    policies = PolicySet(LIFT, [world.policy(V1, "v1")])
    assert policies.for_service(world.service(world.workload()), world.WAYPOINT) == ()


def test_another_waypoint_gets_nothing_of_them() -> None:
    policies = PolicySet(LIFT, [world.policy(V2, "v2")])
    assert policies.for_service(world.service(world.workload()), world.waypoint(name="second")) == ()


def test_endpoints_without_a_common_allow_are_closed() -> None:
    one = world.workload(labels={"app": "helloworld", "v": "1"})
    two = world.workload(labels={"app": "helloworld", "v": "2"})
    first = world.policy({**V2, "selector": {"matchLabels": {"v": "1"}}}, "first")
    second = world.policy({**V2, "selector": {"matchLabels": {"v": "2"}}}, "second")
    (closed,) = PolicySet(LIFT, [first, second]).for_service(world.service(one, two), world.WAYPOINT)
    assert (closed.meta.name, closed.action, closed.rules) == ("tulle_no_common_allow", Action.ALLOW, ())


@pytest.mark.parametrize(
    ("spec", "qualifies", "reason"),
    [
        (V2, True, "every source names principals and nothing that is not an identity"),
        (V1, False, "spec.rules[0].from[0].source names no principals"),
        (DENY, True, "a DENY always qualifies"),
        ({**APP, "rules": [{"from": PRINCIPAL}]}, False, "no HTTP fields"),
        ({**APP, "rules": [{"to": GET}]}, False, "spec.rules[0] has no from"),
        ({"rules": V2["rules"]}, False, "no selector"),
        ({"selector": {}, "rules": V2["rules"]}, False, "no selector"),
        ({"targetRefs": [{"kind": "Service", "name": "s"}], "rules": V2["rules"]}, False, "targetRefs"),
        ({**APP, "action": "AUDIT", "rules": V2["rules"]}, False, "its action is AUDIT"),
        (
            {**APP, "rules": [{"from": [{"source": {"principals": ["*"], "namespaces": ["a"]}}], "to": GET}]},
            False,
            "source.namespaces is not an identity",
        ),
        (
            {**APP, "rules": [{"from": [{"source": {"principals": ["*"], "requestPrincipals": ["*"]}}]}]},
            True,
            "every source names principals and nothing that is not an identity",
        ),
    ],
)
def test_qualification(spec: dict[str, Any], qualifies: bool, reason: str) -> None:
    found = qualify(world.policy(spec))
    assert found.qualifies is qualifies
    assert found.reason == reason if qualifies else reason in found.reason


def test_a_dry_run_is_not_lifted() -> None:
    policy = replace(world.policy(V2), dry_run=True)
    assert not qualify(policy).qualifies
    assert PolicySet(LIFT, [policy]).for_workload(world.workload()) == ()


def test_many_policies_are_indexed() -> None:
    """A workload is compared only with policies that share a label with it."""
    many = [world.policy({"selector": {"matchLabels": {"app": f"a{i}"}}, "rules": [{}]}, f"p{i}") for i in range(500)]
    policies = PolicySet(MeshSettings(), many)
    assert policies.for_workload(world.workload(labels={"app": "a7"})) == ("hello/p7",)
    assert len(policies.ztunnel_policies()) == 500


@given(strategies.policies(), strategies.policies(), st.booleans(), st.booleans())
def test_a_set_that_follows_another_says_what_it_would_say_by_itself(
    stay: list[AuthorizationPolicy], come: list[AuthorizationPolicy], lift: bool, same: bool
) -> None:
    settings = LIFT if lift else MeshSettings()
    before = PolicySet(settings if same else MeshSettings(lift_selector_policies=not lift), stay[1:] + come[:1])
    before.ztunnel_policies()
    now = [*stay, *(replace(policy, meta=replace(policy.meta, name=f"new-{policy.meta.name}")) for policy in come)]
    following, alone = PolicySet(settings, now, before=before), PolicySet(settings, now)
    assert following.ztunnel_policies() == alone.ztunnel_policies()
    assert following.applied(world.workload()) == alone.applied(world.workload())
