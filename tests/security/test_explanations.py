"""What a decision says beside yes and no: places, notes, and the field that came nearest."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tulle.security.decision import decide
from tulle.security.envoy_rbac import tcp_filters
from tulle.security.evaluation import CompiledPolicy, Dialect, Facts
from tulle.security.match import address_bits, glob_regex, read_address, read_network
from tulle.security.mesh import MeshSettings
from tulle.security.paths import template_problem
from tulle.security.policies import PolicySet

from . import world

ANY = Dialect(True)


def test_the_nearest_field_is_the_first_that_fails_in_the_entry_where_most_hold() -> None:
    sources = [
        {"source": {"namespaces": ["b"], "ipBlocks": ["10.0.0.0/8"], "principals": ["x"]}},
        {"source": {"namespaces": ["a"], "ipBlocks": ["10.0.0.0/8"], "notNamespaces": ["a"]}},
        {"source": {"namespaces": ["a"], "ipBlocks": ["10.0.0.0/8"], "notPrincipals": ["*"]}},
    ]
    compiled = CompiledPolicy(world.policy({"rules": [{"from": sources}]}), ANY)
    trace = compiled.trace(Facts(world.client("a/x"), "10.1.2.3"))
    assert (trace.matched, trace.action) == (False, "ALLOW")
    assert trace.mismatch is not None
    assert trace.mismatch.path == "spec.rules[0].from[1].source.notNamespaces"
    longer = [{"source": {"namespaces": ["b"], "principals": ["x"]}}, {"source": {"namespaces": ["c"]}}]
    trace = CompiledPolicy(world.policy({"rules": [{"from": longer}]}), ANY).trace(Facts(world.client("a/x")))
    assert trace.mismatch is not None
    assert trace.mismatch.path == "spec.rules[0].from[0].source.principals"


def test_a_policy_without_rules_says_its_action() -> None:
    trace = CompiledPolicy(world.policy({}), ANY).trace(Facts())
    assert (trace.matched, trace.action, str(trace)) == (
        False,
        "ALLOW",
        "AuthorizationPolicy/hello/policy (ALLOW) has no rule that can match",
    )


def test_where_a_foreign_peer_is_refused() -> None:
    policies, pod = PolicySet(MeshSettings()), world.workload()
    direct = decide(policies, world.request("example.org/a/x", pod))
    through = decide(policies, world.request("example.org/a/x", pod, via=world.WAYPOINT))
    assert [hop.where for hop in direct.hops] == ["ztunnel of hello/helloworld-v1"]
    assert [hop.where for hop in through.hops] == ["waypoint hello/waypoint"]


def test_notes_of_a_refusal() -> None:
    explain = PolicySet(MeshSettings(explain_refusals=True), [world.policy({})])
    refused = decide(explain, world.request("a/x", call=world.http("GET /"), http_declared=True))
    assert refused.notes == (
        "explainRefusals: the refusal reaches the client as HTTP 503 with a reason instead of a TCP reset",
    )
    principals = [{"source": {"principals": ["cluster.local/ns/test/sa/default"]}}]
    lifted = world.policy(
        {
            "selector": {"matchLabels": {"app": "helloworld"}},
            "rules": [{"from": principals, "to": [{"operation": {"methods": ["GET"]}}]}],
        }
    )
    pod = world.workload()
    request = world.request("web/x", pod, via=world.WAYPOINT, to=world.service(pod), call=world.http("GET /"))
    refused = decide(PolicySet(MeshSettings(lift_selector_policies=True), [lifted]), request)
    assert (refused.allowed, refused.notes) == (
        False,
        ("liftSelectorPolicies: AuthorizationPolicy/hello/policy is enforced at the waypoint",),
    )


def test_small_forms() -> None:
    assert glob_regex("*") == "[^/]+"
    assert template_problem("/a{**}") == "the operator must be the whole segment, found 'a{**}'"
    deny = tcp_filters([world.policy({"action": "DENY", "rules": [{}]})], MeshSettings()).deny
    assert deny is not None
    assert deny["stat_prefix"] == "tulle_deny."
    assert template_problem("/X{*}") == "the operator must be the whole segment, found 'X{*}'"
    assert str(read_network("::ffff:10.1.2.0/120")) == "10.1.2.0/24"


def test_the_rule_that_came_nearest_is_named() -> None:
    rules: list[dict[str, object]] = [{"from": [{"source": {"namespaces": [name]}}]} for name in ("b", "c")]
    rules[1]["to"] = [{"operation": {"ports": ["80"]}}]
    trace = CompiledPolicy(world.policy({"rules": rules}), ANY).trace(Facts(world.client("a/x"), destination_port=80))
    assert (trace.rule, trace.nearness) == ("spec.rules[1]", 0.5)


def test_an_issuer_cannot_bring_the_separator_along() -> None:
    compiled = CompiledPolicy(world.policy({"rules": [{"from": [{"source": {"requestPrincipals": ["i/*"]}}]}]}), ANY)
    assert compiled.matches(Facts(claims={"iss": "i", "sub": "\x00s"}))
    assert not compiled.matches(Facts(claims={"iss": "i\x00x", "sub": "s"}))


def test_without_an_allow_the_denies_that_were_asked_are_shown() -> None:
    policies = PolicySet(
        MeshSettings(), [world.policy({"action": "DENY", "rules": [{"to": [{"operation": {"ports": ["1"]}}]}]})]
    )
    (hop,) = decide(policies, world.request("a/x")).hops
    assert [trace.meta.name for trace in hop.policies] == ["policy"]


@given(
    st.one_of(
        st.ip_addresses().map(str),
        st.text("0123456789.:af%", max_size=20),
        st.sampled_from(("", "::ffff:10.1.2.3", "01.2.3.4", "1.2.3", "1.2.3.4\x00")),
    )
)
def test_addresses_are_read_alike_fast_and_slow(text: str) -> None:
    slow = read_address(text)
    assert address_bits(text) == (None if slow is None else (slow.version, int(slow)))


def test_how_many_fields_are_missing_is_counted() -> None:
    """In each group that fails, those of its nearest entry."""
    source = {"namespaces": ["b"], "principals": ["x"], "notNamespaces": ["c"]}
    rule = {"from": [{"source": source}], "to": [{"operation": {"ports": ["80"]}}, {"operation": {"methods": ["GET"]}}]}
    compiled = CompiledPolicy(world.policy({"rules": [rule]}), ANY)
    assert compiled.trace(Facts(world.client("a/x"), method="PUT")).failing == 3
    assert compiled.trace(Facts(world.client("b/x"), method="GET")).failing == 1
    trace = compiled.trace(Facts(world.client("b/x"), method="PUT"))
    assert (trace.failing, trace.note) == (2, "")


def test_a_waypoint_says_whose_policies_it_looked_for() -> None:
    to_service = world.request("a/x", via=world.WAYPOINT, to=world.service(world.workload()))
    to_pod = world.request("a/x", via=world.WAYPOINT)
    reasons = [decide(PolicySet(MeshSettings()), one).hops[0].reason for one in (to_service, to_pod)]
    assert reasons == [
        f"no ALLOW policy applies for this {what} and no DENY matches" for what in ("Service", "workload")
    ]
