"""The exact shape of what is compiled, where only the shape tells right from nearly right."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.security.decision import allows, decide
from tulle.security.envoy_match import Inputs, permission, principal
from tulle.security.envoy_rbac import http_filters
from tulle.security.evaluation import CompiledPolicy, Dialect, Facts
from tulle.security.gate import gate_for
from tulle.security.lifting import for_service_ports, no_common_allow, qualify, waypoint_only
from tulle.security.match import (
    ascii_lower,
    element_predicate,
    element_regex,
    header_elements,
    read_network,
    string_predicate,
)
from tulle.security.mesh import MeshSettings
from tulle.security.model import AuthorizationPolicy, Condition, Meta, Operation, Rule, Source
from tulle.security.paths import template_problem
from tulle.security.policies import PolicySet
from tulle.security.terms import Attribute, Term
from tulle.security.ztunnel import Scope

from . import world
from .rbac_reference import from_re2

META = Meta("AuthorizationPolicy", "hello", "p")


def _matcher(policy: AuthorizationPolicy, part: str) -> Any:
    allow = http_filters([policy], MeshSettings(), Inputs()).allow
    assert allow is not None
    (rule,) = allow["rules"]["policies"].values()
    (only,) = rule[part]
    return only


# -- headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "elements"),
    [
        ("a", ("a",)),
        (" a ", (" a ",)),
        ("a,b", ("a,b", "a", "b")),
        ("a, X\t,b", ("a, X\t,b", "a", "X", "X\t", " X", "b")),
        (",", (",", "")),
        ("a,\x0bb", ("a,\x0bb", "a", "\x0bb")),
    ],
)
def test_elements_of_a_header(value: str, elements: tuple[str, ...]) -> None:
    assert header_elements(value) == elements


@pytest.mark.parametrize("pattern", ["*", "a,b", " a", "a\t", " a*", "*a ", "a ,*", ""])
def test_patterns_that_only_a_whole_value_matches(pattern: str) -> None:
    assert element_regex(pattern) is None


@pytest.mark.parametrize(
    ("pattern", "hits", "misses"),
    [
        ("a.b", ("a.b", "x, a.b", "a.b,x", "x,\ta.b ,y"), ("axb", "a.bc", "x,ca.b", "a .b")),
        ("X", ("X", "a, X"), ("x",)),
        ("\x0ba", ("\x0ba", "x, \x0ba"), ("a", "x,a")),
        ("a*", ("a", "abc,x", "x, abc , y"), ("ba", "x,ba", "xa,y")),
        ("*a", ("a", "bca,x", "x, bca , y"), ("ab", "x,ab", "ax,y")),
        ("a *", ("a b", "x, a b", "a ,x", "x,a  b"), ("a", "x,ab", "a,x")),
        ("* a", ("b a", "b a ,x", "x, a,y", "x, b a"), ("a", "x,ba", "x,a")),
    ],
)
def test_expression_of_an_element(pattern: str, hits: tuple[str, ...], misses: tuple[str, ...]) -> None:
    regex = element_regex(pattern)
    assert regex is not None
    assert [text for text in hits if not re.fullmatch(from_re2(regex), text)] == []
    assert [text for text in misses if re.fullmatch(from_re2(regex), text)] == []
    matches = element_predicate(pattern)
    assert [text for text in hits if not matches(text)] == []
    assert [text for text in misses if matches(text)] == []


#: Envoy has taken the blanks around a whole value away before it looks at it.
_VALUES = st.text(st.sampled_from("ab ,\t"), max_size=7).map(lambda text: text.strip(" \t"))


@given(st.text(st.sampled_from("ab *,\t"), min_size=1, max_size=4), _VALUES)
def test_an_element_is_matched_by_the_expression_and_the_predicate_alike(pattern: str, value: str) -> None:
    regex = element_regex(pattern)
    whole = string_predicate(pattern)(value)
    expected = whole or (regex is not None and re.fullmatch(from_re2(regex), value) is not None)
    assert element_predicate(pattern)(value) is expected
    # What rules are found by must lead to every rule that matches.
    assert not expected or any(string_predicate(pattern)(text) for text in header_elements(value))


# -- Envoy -----------------------------------------------------------------------------------------------------------


def test_an_entry_without_terms_never_matches() -> None:
    no_source = AuthorizationPolicy(META, rules=(Rule(sources=(Source(),)),))
    assert _matcher(no_source, "principals") == {"not_id": {"any": True}}
    no_operation = AuthorizationPolicy(META, rules=(Rule(operations=(Operation(),)),))
    assert _matcher(no_operation, "permissions") == {"not_rule": {"any": True}}
    no_key = AuthorizationPolicy(META, rules=(Rule(conditions=(Condition("unknown", ("x",)),)),))
    assert _matcher(no_key, "principals") == {"not_id": {"any": True}}


@pytest.mark.parametrize(
    ("value", "matcher"),
    [
        ("[x]", {"list_match": {"one_of": {"string_match": {"exact": "x"}}}}),
        ("[x", {"string_match": {"exact": "[x"}}),
        ("x]", {"string_match": {"exact": "x]"}}),
    ],
)
def test_filter_metadata(value: str, matcher: dict[str, Any]) -> None:
    when = [{"key": "experimental.envoy.filters.network.x[a.b]", "values": [value]}]
    found = _matcher(world.policy({"rules": [{"when": when}]}), "permissions")
    assert found == {"metadata": {"filter": "envoy.filters.network.x", "path": [{"key": "a.b"}], "value": matcher}}


def test_an_attribute_on_the_wrong_side_is_an_error() -> None:
    host, namespace = (
        Term(attribute, ("x",), False, "spec.rules[0]", "x") for attribute in (Attribute.HOST, Attribute.NAMESPACE)
    )
    with pytest.raises(AssertionError, match=r"spec\.rules\[0\].*no principal"):
        principal(host, "hello", MeshSettings(), Inputs(), False)
    with pytest.raises(AssertionError, match=r"spec\.rules\[0\].*no permission"):
        permission(namespace, MeshSettings(), Inputs())


def test_what_is_known_of_the_destination_is_written_as_a_constant() -> None:
    inputs = Inputs(port=80, addresses=("10.96.0.9",))
    for attribute, hit, miss in (
        (Attribute.DESTINATION_PORT, "80", "81"),
        (Attribute.DESTINATION_IP, "10.96.0.0/16", "10.97.0.0/16"),
    ):
        term = Term(attribute, (hit, miss), False, "spec.rules[0]", "x")
        assert permission(term, MeshSettings(), inputs) == [{"any": True}, {"not_rule": {"any": True}}]


# -- lifting ---------------------------------------------------------------------------------------------------------


def test_generated_policies_name_their_kind() -> None:
    assert str(no_common_allow("hello").meta) == "AuthorizationPolicy/hello/tulle_no_common_allow"


def test_several_waypoints_in_any_order() -> None:
    two = (world.waypoint(name="b"), world.waypoint(name="a"))
    assert waypoint_only("hello", two) == waypoint_only("hello", two[::-1])
    assert waypoint_only("hello", two).meta.name == "tulle_waypoint_only_hello_a_hello_b"


def _restated(action: str, rule: dict[str, Any], ports: tuple[tuple[int, int], ...] = ((80, 8080),)) -> Any:
    policy = world.policy({"action": action, "rules": [rule]})
    restated = for_service_ports(policy, ports)
    return restated.rules[0] if restated.rules else None


def test_conditions_are_restated_for_a_service() -> None:
    port = {"key": "destination.port", "values": ["8080"], "notValues": ["9090"]}
    address = {"key": "destination.ip", "values": ["10.0.0.0/8"]}
    source = {"key": "source.ip", "values": ["10.0.0.0/8"]}
    assert _restated("ALLOW", {"when": [address, port]}) is None
    found = _restated("DENY", {"when": [address, source, port]})
    assert [(c.key, c.values, c.not_values, c.position) for c in found.conditions] == [
        ("source.ip", ("10.0.0.0/8",), (), 1),
        ("destination.port", ("80",), ("0",), 2),
    ]


def test_a_place_is_kept_for_conditions_without_one() -> None:
    conditions = (Condition("destination.ip", ("10.0.0.0/8",)), Condition("source.ip", ("10.0.0.0/8",)))
    policy = world.policy({"action": "DENY", "rules": [{}]})
    (rule,) = for_service_ports(
        AuthorizationPolicy(policy.meta, policy.action, rules=(Rule(conditions=conditions),)), ()
    ).rules
    assert [(c.key, c.position) for c in rule.conditions] == [("source.ip", 1)]


def test_a_service_port_that_means_other_ports_on_other_pods_is_never_more_open_than_each() -> None:
    """Port 80 is 8080 on one pod and 9090 on another: an ALLOW of 8080 is none of 80, and a DENY of all but 8080 is one of 80."""
    several = ((80, 8080), (80, 9090), (81, 8080))
    for written in (
        {"to": [{"operation": {"ports": ["8080"]}}]},
        {"when": [{"key": "destination.port", "values": ["8080"]}]},
    ):
        assert _listed(_restated("ALLOW", written, several)) == ("81",)
        assert _listed(_restated("DENY", written, several)) == ("80", "81")
    for written in (
        {"to": [{"operation": {"notPorts": ["8080"]}}]},
        {"when": [{"key": "destination.port", "notValues": ["8080"]}]},
    ):
        assert _listed(_restated("ALLOW", written, several)) == ("80", "81")
        assert _listed(_restated("DENY", written, several)) == ("81",)


def _listed(rule: Any) -> Any:
    held = rule.operations[0] if rule.operations else rule.conditions[0]
    return (held.ports or held.not_ports) if rule.operations else (held.values or held.not_values)


def test_without_port_mapping_nothing_is_restated() -> None:
    policy = world.policy({"rules": [{"to": [{"operation": {"ports": ["8080"]}}]}]})
    assert for_service_ports(policy, ()) is policy


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"targetRefs": [{"kind": "Service", "name": "x"}]}, "it has targetRefs, so waypoints enforce it anyway"),
        ({}, "it has no selector with labels"),
        ({"selector": {"matchLabels": {"a": "b"}}, "action": "AUDIT", "rules": [{}]}, "its action is AUDIT"),
        ({"selector": {"matchLabels": {"a": "b"}}}, "it has no HTTP fields, so ztunnel enforces it in full"),
    ],
)
def test_why_a_policy_is_not_lifted(spec: dict[str, Any], reason: str) -> None:
    assert (qualify(world.policy(spec)).qualifies, qualify(world.policy(spec)).reason) == (False, reason)


def test_a_dry_run_is_not_lifted() -> None:
    policy = world.policy(
        {"selector": {"matchLabels": {"a": "b"}}, "rules": [{}]}, annotations={"istio.io/dry-run": "true"}
    )
    assert (qualify(policy).qualifies, qualify(policy).reason) == (False, "it is a dry run")


DIALECT = Dialect(True, ("cluster.local",), True)


# -- notes and dry runs ----------------------------------------------------------------------------------------------


def test_generated_policies_are_for_the_workloads_that_name_them() -> None:
    """A wider scope would let the waypoint of one workload into its whole namespace."""
    rules = [{"to": [{"operation": {"methods": ["DELETE"]}}]}]
    lifted = {"selector": {"matchLabels": {"app": "helloworld"}}, "action": "DENY", "rules": rules}
    policies = PolicySet(
        MeshSettings(lift_selector_policies=True), [world.policy(lifted, "d"), world.policy({"rules": [{}]}, "a")]
    )
    sent = policies.replacements(world.workload())
    assert {(policy.name, policy.scope) for policy in sent.values()} == {
        ("tulle_waypoint_allow_hello_waypoint", Scope.WORKLOAD_SELECTOR),
        ("tulle_waypoint_only_hello_waypoint", Scope.WORKLOAD_SELECTOR),
    }


@pytest.mark.parametrize(
    ("method", "switch", "notes"),
    [
        ("HEAD", True, ("headIsGet: AuthorizationPolicy/hello/get takes HEAD for GET",)),
        ("GET", True, ()),
        ("HEAD", False, ()),
    ],
)
def test_the_use_of_head_is_get_is_told(method: str, switch: bool, notes: tuple[str, ...]) -> None:
    target = {"targetRefs": [{"kind": "Service", "name": "helloworld"}]}
    found = [
        world.policy({**target, "rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}, "get"),
        world.policy({**target, "rules": [{"from": [{"source": {"namespaces": ["t*t"]}}]}]}, "star"),
    ]
    pod = world.workload()
    request = world.request(
        "test/x", pod, via=world.WAYPOINT, to=world.service(pod), call=world.http(f"{method} /hello")
    )
    assert decide(PolicySet(MeshSettings(head_is_get=switch), found), request).notes == notes


def test_dry_runs_are_shadow_rules_and_nothing_else() -> None:
    dry = world.policy({"action": "DENY", "rules": [{}]}, "dry", annotations={"istio.io/dry-run": "true"})
    deny = http_filters([dry], MeshSettings(), Inputs()).deny
    assert deny == {
        "shadow_rules": {
            "action": "DENY",
            "policies": {
                "ns[hello]-policy[dry]-rule[0]": {"permissions": [{"any": True}], "principals": [{"any": True}]}
            },
        },
        "shadow_rules_stat_prefix": "tulle_dry_run_deny_",
    }


def test_rules_are_named_by_their_place() -> None:
    policy = world.policy({"rules": [{}] * 12}, "p")
    allow = http_filters([policy], MeshSettings(), Inputs()).allow
    assert allow is not None
    assert list(allow["rules"]["policies"]) == [f"ns[hello]-policy[p]-rule[{i}]" for i in range(12)]


def test_ascii_letters_and_no_others_lose_their_case() -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    assert ascii_lower(letters + "@[`{\u212aÄ") == letters.lower() + "@[`{\u212aÄ"


# -- explanations ----------------------------------------------------------------------------------------------------


def test_before_a_pod_that_is_not_captured_nothing_stands_but_a_waypoint() -> None:
    deny = {"action": "DENY", "rules": [{}]}
    target = {"targetRefs": [{"kind": "Service", "name": "helloworld"}]}
    pod = world.workload()
    for found, passes in (([world.policy(deny)], True), ([world.policy({**target, **deny})], False)):
        policies = PolicySet(MeshSettings(), found)
        through = world.request("test/x", pod, via=world.WAYPOINT, to=world.service(pod), call=world.http("GET /"))
        decision = decide(policies, replace(through, captured=False))
        assert decision.allowed == allows(policies, replace(through, captured=False)) == passes
        direct = replace(world.request("plaintext", pod), captured=False)
        decision = decide(policies, direct)
        assert (decision.allowed, allows(policies, direct)) == (True, True)
        assert decision.hops[0].where == "pod hello/helloworld-v1"
        assert decision.reason == "it is not captured, so no ztunnel enforces anything before it"


def test_behind_a_waypoint_ztunnel_sees_the_waypoints_address() -> None:
    block = {"rules": [{"from": [{"source": {"ipBlocks": [f"{world.WAYPOINT_IP}/32"]}}]}]}
    policies, pod = PolicySet(MeshSettings(), [world.policy(block)]), world.workload()
    through = world.request("test/x", pod, via=world.WAYPOINT, to=world.service(pod), call=world.http("GET /"))
    assert decide(policies, through).allowed == allows(policies, through) is True
    direct = world.request("test/x", pod)
    assert decide(policies, direct).allowed == allows(policies, direct) is False


def test_where_there_is_no_mode_no_policy_was_asked() -> None:
    strict = world.peer_authentication({"mtls": {"mode": "STRICT"}})
    assert decide(PolicySet(MeshSettings(), (), [strict]), world.request("plaintext")).hops[-1].policies == ()


def test_entries_that_are_all_disabled_under_an_inherited_strict_are_not_converted() -> None:
    """B3, quirk a: they have no effect, and so need no policy of their own."""
    own = {"selector": {"matchLabels": {"app": "helloworld"}}, "portLevelMtls": {9090: {"mode": "DISABLE"}}}
    strict = world.peer_authentication({"mtls": {"mode": "STRICT"}})
    found = PolicySet(MeshSettings(), (), [strict, world.peer_authentication(own, "w")]).peer_authentications
    assert list(found.ztunnel_policies()) == ["istio-system/istio_converted_static_strict"]


def test_a_token_without_issuer_is_nobodys() -> None:
    term = Term(Attribute.REQUEST_PRINCIPAL, ("/s",), False, "spec.rules[0]", "requestPrincipals")
    assert principal(term, "hello", MeshSettings(), Inputs(), False) == [{"not_id": {"any": True}}]


def test_an_action_without_policies_has_no_filter() -> None:
    deny = world.policy({"action": "DENY", "rules": [{}]})
    filters = http_filters([deny], MeshSettings(), Inputs())
    assert (filters.allow, filters.audit, filters.custom) == (None, None, None)


def test_what_stands_for_lifted_policies_is_told() -> None:
    principals = [{"source": {"principals": ["cluster.local/ns/test/sa/default"]}}]
    selector = {"selector": {"matchLabels": {"app": "helloworld"}}}
    l7 = {**selector, "rules": [{"from": principals, "to": [{"operation": {"methods": ["GET"]}}]}]}
    l4 = {**selector, "rules": [{"from": principals}]}
    policies = PolicySet(
        MeshSettings(lift_selector_policies=True),
        [world.policy(l7, "k7"), world.policy(l7, "l7"), world.policy(l4, "l4")],
    )
    decision = decide(policies, world.request("web/x"))
    assert decision.notes == (
        "liftSelectorPolicies: ztunnel accepts the waypoint in the place of AuthorizationPolicy/hello/k7, AuthorizationPolicy/hello/l7",
    )
    qualification = qualify(world.policy(l7))
    assert qualification.reason == "every source names principals and nothing that is not an identity"


def test_where_a_mode_comes_from() -> None:
    spec = {"selector": {"matchLabels": {"app": "helloworld"}}}
    modes = {9090: {"mode": "STRICT"}, 9091: {"mode": "PERMISSIVE"}}
    policies = PolicySet(MeshSettings(), (), [world.peer_authentication({**spec, "portLevelMtls": modes}, "w")])
    effective = policies.peer_authentications.effective
    pod = world.workload()
    assert effective(pod, 5000).reason == "no PeerAuthentication applies, so plaintext is accepted (PERMISSIVE)"
    assert effective(pod, 9090).reason == "PeerAuthentication/hello/w requires mTLS (spec.portLevelMtls[9090])"
    assert effective(pod, 9091).reason == "PeerAuthentication/hello/w accepts plaintext (spec.portLevelMtls[9091])"


def test_a_match_is_as_near_as_can_be() -> None:
    trace = CompiledPolicy(world.policy({"rules": [{}]}), DIALECT).trace(Facts())
    assert (trace.matched, trace.rule, trace.nearness) == (True, "spec.rules[0]", 1.0)
    assert trace.action == "ALLOW"


def test_modes_are_read_once() -> None:
    policies = PolicySet(MeshSettings(), (), [world.peer_authentication({"mtls": {"mode": "STRICT"}})])
    gate = gate_for(policies, world.request("plaintext"))
    assert gate.mode(5000) is gate.mode(5000)


def test_addresses_come_from_where_the_proxy_puts_them() -> None:
    term = Term(Attribute.SOURCE_IP, ("10.0.0.0/8",), False, "spec.rules[0]", "ipBlocks")
    prefix = {"address_prefix": "10.0.0.0", "prefix_len": 8}
    for attribute, inputs, expected in (
        (Attribute.SOURCE_IP, Inputs(), {"direct_remote_ip": prefix}),
        (Attribute.REMOTE_IP, Inputs(source_ip_key="a"), {"remote_ip": prefix}),
        (Attribute.SOURCE_IP, Inputs(source_ip_key="a"), {"filter_state": {"key": "a", "address_match": {"ranges": [prefix]}}}),
        (Attribute.REMOTE_IP, Inputs(remote_ip_key="b"), {"filter_state": {"key": "b", "address_match": {"ranges": [prefix]}}}),
    ):  # fmt: skip
        assert principal(replace(term, attribute=attribute), "hello", MeshSettings(), inputs, False) == [expected]


def test_each_way_to_a_pod_has_its_own_gate() -> None:
    """The same views, asked in turn: a gate of one way must not answer for another."""
    target = {"targetRefs": [{"kind": "Service", "name": "helloworld"}], "action": "DENY"}
    policies = PolicySet(
        MeshSettings(), [world.policy({**target, "rules": [{"to": [{"operation": {"paths": ["/admin"]}}]}]})]
    )
    pod = world.workload()
    service, call = world.service(pod), world.http("GET /admin")
    direct = world.request("test/x", pod, call=call)
    to_pod = world.request("test/x", pod, via=world.WAYPOINT, call=call)
    to_service = world.request("test/x", pod, via=world.WAYPOINT, to=service, call=call)
    for _ in range(2):
        for request, passes in ((direct, True), (to_service, False), (to_pod, True)):
            assert (allows(policies, request), decide(policies, request).allowed) == (passes, passes)
            assert len(decide(policies, request).hops) == (1 if request is direct or not passes else 2)


def test_every_verdict_shows_what_was_asked() -> None:
    allow, deny = (
        world.policy({"rules": [{"from": [{"source": {"namespaces": ["a"]}}]}]}, "allow"),
        world.policy({"action": "DENY", "rules": [{"from": [{"source": {"namespaces": ["b"]}}]}]}, "deny"),
    )
    policies = PolicySet(MeshSettings(), [allow, deny])
    for peer in ("a/x", "b/x", "c/x"):
        (hop,) = decide(policies, world.request(peer)).hops
        assert [trace.meta.name for trace in hop.policies] == ["allow", "deny"]


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("/{**}/{*}", "{**} must be the last operator"),
        ("/X/{*}", None),
        (" /X/{*}", "segment ' ' holds a character that no path segment may hold"),
        ("/a{*}", "the operator must be the whole segment, found 'a{*}'"),
        ("/{*}/a*", "'*', '{' and '}' may stand only in the operators {*} and {**}, found 'a*'"),
    ],
)
def test_what_is_wrong_with_a_template(template: str, problem: str | None) -> None:
    assert template_problem(template) == problem


def test_an_unreadable_network_is_named() -> None:
    with pytest.raises(ValueError, match=r"^'10\.0\.0\.0/x' is not an IP address or CIDR$"):
        read_network("10.0.0.0/x")
