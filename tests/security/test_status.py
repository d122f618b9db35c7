"""Status conditions (C7): status, reason and the gist of the message."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tulle.security.mesh import MeshSettings
from tulle.security.model import TargetRef
from tulle.security.status import RefOutcome, RefResult, waypoint_condition, ztunnel_condition

from . import world

UPSTREAM = MeshSettings()
LIFT = MeshSettings(lift_selector_policies=True)
APP = {"selector": {"matchLabels": {"app": "helloworld"}}}
GET = [{"operation": {"methods": ["GET"]}}]
V1 = {**APP, "rules": [{"from": [{"source": {"namespaces": ["test"]}}], "to": GET}]}
V2 = {**APP, "rules": [{"from": [{"source": {"principals": ["cluster.local/ns/test/sa/default"]}}], "to": GET}]}
DENY = {**APP, "action": "DENY", "rules": [{"to": [{"operation": {"methods": ["DELETE"], "paths": ["/x"]}}]}]}


@pytest.mark.parametrize(
    ("spec", "settings", "status", "reason", "words"),
    [
        ({"rules": [{}]}, UPSTREAM, True, "Accepted", ["attached to ztunnel"]),
        ({}, UPSTREAM, True, "Accepted", ["attached to ztunnel"]),
        (V1, UPSTREAM, True, "UnsupportedValue", ["found: methods", "denies all traffic", "targetRefs"]),
        ({"rules": [{"to": GET}, {}]}, UPSTREAM, True, "UnsupportedValue", ["omitted", "more restrictive"]),
        (DENY, UPSTREAM, True, "UnsupportedValue", ["found: methods, paths", "This policy has no effect"]),
        (
            {"action": "DENY", "rules": [*DENY["rules"], {"from": [{"source": {"namespaces": ["test"]}}]}]},
            UPSTREAM,
            True,
            "UnsupportedValue",
            ["found: methods, paths", "Rules with nothing else in a clause have no effect"],
        ),
        (
            {"action": "DENY", "rules": [{"to": [{"operation": {"methods": ["GET"], "ports": ["80"]}}]}]},
            UPSTREAM,
            True,
            "UnsupportedValue",
            ["enforced without them", "more restrictive"],
        ),
        ({"action": "AUDIT", "rules": [{}]}, UPSTREAM, False, "UnsupportedValue", ["AUDIT"]),
        (
            {"action": "CUSTOM", "provider": {"name": "p"}, "rules": [{}]},
            UPSTREAM,
            False,
            "UnsupportedValue",
            ["CUSTOM"],
        ),
        (V1, LIFT, True, "UnsupportedValue", ["not lifted", "names no principals", "denies all traffic"]),
        (V2, LIFT, True, "UnsupportedValue", ["not lifted", "no ready waypoint", "denies all traffic"]),
        (DENY, LIFT, True, "UnsupportedValue", ["no ready waypoint", "more restrictive"]),
    ],
)
def test_ztunnel(spec: dict[str, Any], settings: MeshSettings, status: bool, reason: str, words: list[str]) -> None:
    condition = ztunnel_condition(world.policy(spec, generation=7), settings)
    assert condition is not None
    assert (condition.type, condition.status, condition.reason) == ("ZtunnelAccepted", status, reason)
    assert condition.observed_generation == 7
    for word in words:
        assert word in condition.message


def test_the_lifted_notice() -> None:
    condition = ztunnel_condition(world.policy(V2), LIFT, [world.WAYPOINT])
    assert condition is not None
    assert (condition.status, condition.reason) == (True, "Accepted")
    assert (
        "enforced by waypoint hello/waypoint in ztunnel's place, because liftSelectorPolicies is on"
        in condition.message
    )
    partly = ztunnel_condition(world.policy(V2), LIFT, [world.WAYPOINT], everywhere=False)
    assert partly is not None
    assert "found: methods" in partly.message


def test_a_dry_run() -> None:
    condition = ztunnel_condition(replace(world.policy({"rules": [{}]}), dry_run=True), UPSTREAM)
    assert condition is not None
    assert (condition.status, condition.reason, condition.message) == (
        False,
        "UnsupportedValue",
        "ambient dry-run is not enabled",
    )


SERVICE, CLASS = TargetRef("", "Service", "a"), TargetRef("gateway.networking.k8s.io", "GatewayClass", "b")
OK = RefResult(SERVICE, RefOutcome.ACCEPTED, "hello/waypoint")


@pytest.mark.parametrize(
    ("results", "status", "reason", "words"),
    [
        ([OK], True, "Accepted", "bound to hello/waypoint"),
        (
            [RefResult(SERVICE, RefOutcome.TARGET_NOT_FOUND)],
            False,
            "TargetNotFound",
            "Service.core:hello/a was not found",
        ),
        ([RefResult(SERVICE, RefOutcome.ANCESTOR_NOT_BOUND)], False, "AncestorNotBound", "istio.io/use-waypoint"),
        ([RefResult(CLASS, RefOutcome.INVALID)], False, "Invalid", "GatewayClass.gateway.networking.k8s.io:hello/b"),
        ([OK, OK], True, "Accepted", "bound to hello/waypoint"),
        (
            [OK, RefResult(CLASS, RefOutcome.INVALID)],
            True,
            "PartiallyInvalid",
            "Invalid targetRefs: GatewayClass.gateway.networking.k8s.io:hello/b",
        ),
        (
            [RefResult(SERVICE, RefOutcome.TARGET_NOT_FOUND), RefResult(CLASS, RefOutcome.INVALID)],
            False,
            "Invalid",
            "Invalid targetRefs: Service.core:hello/a, GatewayClass",
        ),
    ],
)
def test_waypoint(results: list[RefResult], status: bool, reason: str, words: str) -> None:
    policy = world.policy({"targetRefs": [{"kind": "Service", "name": "a"}]})
    condition = waypoint_condition(policy, results)
    assert condition is not None
    assert (condition.type, condition.status, condition.reason) == ("WaypointAccepted", status, reason)
    assert words in condition.message
    assert ztunnel_condition(policy, UPSTREAM) is None


def test_a_selector_policy_has_no_waypoint_condition() -> None:
    assert waypoint_condition(world.policy(V1), []) is None


def test_what_is_widened_for_ztunnel_is_told() -> None:
    policy = world.policy({"action": "DENY", "rules": [{"from": [{"source": {"namespaces": ["t*t"]}}]}]})
    told = ztunnel_condition(policy, MeshSettings(lift_selector_policies=True))
    assert told is not None
    assert told.message.startswith("attached to ztunnel; because liftSelectorPolicies is on, namespaces with a star")
    plain = ztunnel_condition(policy, MeshSettings())
    assert plain is not None
    assert plain.message == "attached to ztunnel"
