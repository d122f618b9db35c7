"""The exact shape of what is compiled, where only the shape tells right from nearly right."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tulle.security import rule_index
from tulle.security.decision import decide
from tulle.security.envoy_match import Inputs, permission, principal
from tulle.security.envoy_rbac import http_filters
from tulle.security.evaluation import CompiledPolicy, Dialect, Facts
from tulle.security.lifting import for_service_ports, no_common_allow, qualify, waypoint_only
from tulle.security.match import ascii_lower, element_regex, header_elements
from tulle.security.mesh import MeshSettings
from tulle.security.model import AuthorizationPolicy, Condition, Meta, Operation, Rule, Source
from tulle.security.policies import PolicySet
from tulle.security.rule_index import RuleIndex
from tulle.security.terms import Attribute, Term
from tulle.security.ztunnel import Scope

from . import world

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
        ("a, X\t,b", ("a, X\t,b", "a", "X", "b")),
        (",", (",", "", "")),
        ("a,\x0bb", ("a,\x0bb", "a", "\x0bb")),
    ],
)
def test_elements_of_a_header(value: str, elements: tuple[str, ...]) -> None:
    assert header_elements(value) == elements


@pytest.mark.parametrize("pattern", ["*", "a,b", " a", "a\t", "* a", "a ,*", ""])
def test_patterns_that_only_a_whole_value_matches(pattern: str) -> None:
    assert element_regex(pattern) is None


@pytest.mark.parametrize(
    ("pattern", "hits", "misses"),
    [
        ("a.b", ("a.b", "x, a.b", "a.b,x", "x,\ta.b ,y"), ("axb", "a.bc", "x,ca.b", "a .b")),
        ("\x0ba", ("\x0ba", "x, \x0ba"), ("a", "x,a")),
        ("a*", ("a", "abc,x", "x, abc , y"), ("ba", "x,ba", "xa,y")),
        ("*a", ("a", "bca,x", "x, bca , y"), ("ab", "x,ab", "ax,y")),
    ],
)
def test_expression_of_an_element(pattern: str, hits: tuple[str, ...], misses: tuple[str, ...]) -> None:
    regex = element_regex(pattern)
    assert regex is not None
    assert [text for text in hits if not re.fullmatch(regex, text)] == []
    assert [text for text in misses if re.fullmatch(regex, text)] == []


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
    for make, attribute, what in (
        (principal, Attribute.HOST, "no principal"),
        (permission, Attribute.NAMESPACE, "no permission"),
    ):
        term = Term(attribute, ("x",), False, "spec.rules[0]", "x")
        more = (False,) if make is principal else ()
        with pytest.raises(AssertionError, match=rf"spec\.rules\[0\].*{what}"):
            make(term, "hello", MeshSettings(), Inputs(), *more)


def test_what_is_known_of_the_destination_is_written_as_a_constant() -> None:
    inputs = Inputs(port=80, addresses=("10.96.0.9",))
    for attribute, hit, miss in (
        (Attribute.DESTINATION_PORT, "80", "81"),
        (Attribute.DESTINATION_IP, "10.96.0.0/16", "10.97.0.0/16"),
    ):
        term = Term(attribute, (hit, miss), False, "spec.rules[0]", "x")
        assert permission(term, "hello", MeshSettings(), inputs) == [{"any": True}, {"not_rule": {"any": True}}]


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


# -- the index -------------------------------------------------------------------------------------------------------

DIALECT = Dialect(True, ("cluster.local",), True)


def _from(field: str, value: str) -> dict[str, Any]:
    return {"from": [{"source": {field: [value]}}]}


def _to(field: str, value: str) -> dict[str, Any]:
    return {"to": [{"operation": {field: [value]}}]}


def _when(key: str, value: str) -> dict[str, Any]:
    return {"when": [{"key": key, "values": [value]}]}


KINDS: dict[str, Any] = {
    "principal": lambda i: _from("principals", f"cluster.local/ns/n{i}/sa/x"),
    "principal prefix": lambda i: _from("principals", f"cluster.local/ns/n{i}/*"),
    "principal suffix": lambda i: _from("principals", f"*/ns/n{i}/sa/x"),
    "namespace": lambda i: _from("namespaces", f"n{i}"),
    "namespace head": lambda i: _from("namespaces", f"n{i}*x"),
    "namespace tail": lambda i: _from("namespaces", f"*x*y*n{i}"),
    "service account": lambda i: _from("serviceAccounts", f"n{i}/x"),
    "address": lambda i: _from("ipBlocks", f"10.{i}.0.0/16"),
    "remote address": lambda i: _from("remoteIpBlocks", f"2001:db8:{i:x}::/48"),
    "token": lambda i: _from("requestPrincipals", f"i{i}/s"),
    "token subject": lambda i: _from("requestPrincipals", f"i/s{i}"),
    "token issuer": lambda i: _from("requestPrincipals", f"i{i}/*"),
    "port": lambda i: _to("ports", str(1000 + i)),
    "method": lambda i: _to("methods", f"M{i}"),
    "path": lambda i: _to("paths", f"/{i}/*"),
    "template": lambda i: _to("paths", f"/{i}/{{*}}"),
    "host": lambda i: _to("hosts", f"H{i}.example"),
    "header": lambda i: _when("request.headers[x]", f"v{i}"),
    "claim": lambda i: _when("request.auth.claims[g]", f"v{i}"),
    "sni": lambda i: _when("connection.sni", f"v{i}.example"),
    "destination": lambda i: _when("destination.ip", f"10.{i}.0.5"),
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_the_index_tests_few_rules_of_many(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    policies = [world.policy({"rules": [KINDS[kind](i)]}, f"p{i}") for i in range(40)]
    index = RuleIndex([CompiledPolicy(policy, DIALECT) for policy in policies], DIALECT)
    tested: list[object] = []
    plain = rule_index._holds

    def counted(rule: Any, facts: Facts) -> bool:
        tested.append(rule)
        return plain(rule, facts)

    monkeypatch.setattr(rule_index, "_holds", counted)
    claims = {"iss": "none", "sub": "none", "g": "none"}
    index.passes(
        Facts(
            world.client("none/none"),
            "192.0.2.1",
            "192.0.2.1",
            "192.0.2.9",
            9,
            "none",
            "none",
            "/none",
            (("x", "none"),),
            claims,
            "none",
        )
    )
    assert len(tested) == 0


def test_a_rule_is_filed_under_its_rarest_part() -> None:
    """Forty rules share an account and a port; the path tells them apart, wherever it stands and however many it names."""
    shared: dict[str, Any] = {"from": [{"source": {"principals": ["cluster.local/ns/a/sa/x"]}}]}
    rules = [
        {**shared, "to": [{"operation": {"ports": ["80"], "paths": [f"/{i}"], "hosts": ["h", "i"]}}]} for i in range(40)
    ]
    policies = [world.policy({"rules": [rule]}, f"p{i}") for i, rule in enumerate(rules)]
    index = RuleIndex([CompiledPolicy(policy, DIALECT) for policy in policies], DIALECT)
    facts = Facts(world.client("a/x"), "192.0.2.1", destination_port=80, host="h", method="GET", path="/7")
    found = [rule for probe in index._probes for rules_ in probe.find(facts) for rule in rules_]
    assert (index._rest, len(found)) == ((), 1)
    assert index.passes(facts)


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
