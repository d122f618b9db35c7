"""What a waypoint reads more widely than ztunnel must not fall open when ztunnel enforces it."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tulle.security.decision import Request, decide
from tulle.security.evaluation import CompiledPolicy, Dialect, Facts
from tulle.security.fallback import closed_for_ztunnel, widened_namespace
from tulle.security.match import glob_regex, read_string
from tulle.security.mesh import MeshSettings
from tulle.security.model import AuthorizationPolicy
from tulle.security.policies import How, PolicySet

from . import strategies, world

LIFT = MeshSettings(lift_selector_policies=True)
DOMAINS = ("cluster.local", "old.example")


@pytest.mark.parametrize(
    ("pattern", "widened"),
    [
        ("test", "test"),
        ("*", "*"),
        ("te*", "te*"),
        ("*st", "*st"),
        ("t*t", "t*"),
        ("a*b*c", "a*"),
        ("*a*b", "*b"),
        ("*mid*", "*"),
        ("**", "*"),
    ],
)
def test_a_star_in_the_middle_is_widened_to_one_at_an_end(pattern: str, widened: str) -> None:
    assert widened_namespace(pattern) == widened


@given(st.text("ab*", min_size=1, max_size=5), st.text("ab", min_size=1, max_size=5))
def test_the_widened_pattern_covers_the_waypoints_reading(pattern: str, namespace: str) -> None:
    if re.fullmatch(glob_regex(pattern), namespace):
        assert read_string(widened_namespace(pattern)).matches(namespace)


def _ztunnel(spec: dict[str, Any], peer: str, settings: MeshSettings = LIFT, **more: Any) -> bool:
    policies = PolicySet(settings, [world.policy({"selector": {"matchLabels": {"app": "helloworld"}}, **spec})])
    return decide(policies, world.request(peer, world.workload(waypoints=()), **more)).allowed


@pytest.mark.parametrize("to", [{"methods": ["DELETE"]}, {"ports": ["5000"]}], ids=["lifted", "layer 4"])
@pytest.mark.parametrize(
    "rule",
    [
        {"from": [{"source": {"namespaces": ["t*t"]}}]},
        {"when": [{"key": "source.namespace", "values": ["t*t"]}]},
        {"from": [{"source": {"principals": ["old.example/ns/test/sa/default"]}}]},
        {"when": [{"key": "source.principal", "values": ["old.example/ns/test/sa/default"]}]},
    ],
    ids=["namespaces", "source.namespace", "principals", "source.principal"],
)
def test_a_deny_keeps_its_force_at_ztunnel(rule: dict[str, Any], to: dict[str, Any]) -> None:
    settings = MeshSettings(lift_selector_policies=True, trust_domain_aliases=("old.example",))
    spec = {"action": "DENY", "rules": [{**rule, "to": [{"operation": to}]}]}
    assert not _ztunnel(spec, "test/default", settings)
    assert _ztunnel(spec, "web/default", settings)
    upstream = MeshSettings(trust_domain_aliases=("old.example",))
    assert _ztunnel(spec, "test/default", upstream), "without lifting ztunnel reads both as upstream does"


@pytest.mark.parametrize(
    "rule",
    [
        {"from": [{"source": {"notNamespaces": ["t*t"]}}]},
        {"when": [{"key": "source.namespace", "notValues": ["t*t"]}]},
        {"from": [{"source": {"notPrincipals": ["old.example/ns/test/sa/default"]}}]},
        {"when": [{"key": "source.principal", "notValues": ["old.example/ns/test/sa/default"]}]},
    ],
)
def test_an_allow_excludes_at_ztunnel_what_it_excludes_at_a_waypoint(rule: dict[str, Any]) -> None:
    settings = MeshSettings(lift_selector_policies=True, trust_domain_aliases=("old.example",))
    assert not _ztunnel({"rules": [rule]}, "test/default", settings)
    assert _ztunnel({"rules": [rule]}, "web/default", settings)


def test_what_is_not_at_risk_is_left_as_written() -> None:
    """A DENY's exclusions and an ALLOW's grants are narrower at ztunnel already."""
    for action, fields in (("DENY", "not{}"), ("ALLOW", "{}")):
        name = fields.format("Namespaces") if "not" in fields else "namespaces"
        principals = fields.format("Principals") if "not" in fields else "principals"
        source = {name: ["t*t"], principals: ["old.example/ns/a/sa/b"]}
        values = "notValues" if action == "DENY" else "values"
        when = [{"key": "source.namespace", values: ["t*t"]}, {"key": "source.ip", "values": ["10.0.0.0/8"]}]
        policy = world.policy({"action": action, "rules": [{"from": [{"source": source}], "when": when}]})
        assert closed_for_ztunnel(policy, DOMAINS) == policy


def test_the_restatement_is_told() -> None:
    policies = PolicySet(
        LIFT, [world.policy({"action": "DENY", "rules": [{"from": [{"source": {"namespaces": ["t*t"]}}]}]})]
    )
    decision = decide(policies, world.request("test/default", world.workload(waypoints=())))
    assert "restated for ztunnel" in decision.reason


l4 = strategies.policies(
    st.builds(lambda rules: {"action": "ALLOW", "rules": rules}, strategies.l4_rules), st.just("hello")
)
anyone = strategies.clients.filter(lambda peer: peer != "plaintext")


@given(l4, anyone, st.sampled_from(strategies.IPS), st.sampled_from((80, 5000)))
def test_ztunnel_allows_nothing_that_the_waypoints_reading_would_deny(
    found: list[AuthorizationPolicy], peer: str, source: str, port: int
) -> None:
    request = world.request(peer, world.workload(waypoints=()), port=port, source_ip=source)
    if not decide(PolicySet(LIFT, found), request).allowed:
        return
    facts = Facts(world.client(peer), source, source, world.POD_IP, port)
    readings = [CompiledPolicy(policy, Dialect(waypoint=True)).matches(facts) for policy in found]
    assert not readings or any(readings)


@given(
    strategies.policies(),
    strategies.specs(),
    strategies.requests(),
    st.booleans(),
    st.sampled_from(("hello", "istio-system")),
)
def test_one_deny_more_never_allows_more(
    found: list[AuthorizationPolicy], spec: dict[str, Any], request: Request, lift: bool, namespace: str
) -> None:
    """With lifting, the first lifted policy moves the judgement of the client to the waypoint, where an ALLOW that ztunnel
    could not apply to the client begins to count; ``test_lifting_safety`` holds what passes then against the policies as
    written. From there on a DENY only takes away."""
    settings = MeshSettings(lift_selector_policies=lift)
    extra = world.policy({**spec, "action": "DENY"}, "extra", namespace)
    before, after = PolicySet(settings, found), PolicySet(settings, [*found, extra])
    lifted = [any(item.how is How.LIFTED for item in each.applied(request.workload)) for each in (before, after)]
    assume(lifted[0] == lifted[1])
    if decide(after, request).allowed:
        assert decide(before, request).allowed
