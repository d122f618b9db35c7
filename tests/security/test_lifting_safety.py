"""Lifting must never let in what the policies, read in full on the client's own identity, would refuse."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from tulle.security.decision import HttpRequest, Request, decide
from tulle.security.evaluation import CompiledPolicy, Dialect, Facts
from tulle.security.mesh import MeshSettings
from tulle.security.model import Action, AuthorizationPolicy
from tulle.security.paths import normalize
from tulle.security.policies import How, PolicySet

from . import strategies, world

LIFT = MeshSettings(lift_selector_policies=True)
others = strategies.policies(strategies.specs(strategies.selectors), st.sampled_from(("hello", "istio-system")))
selector_policies = st.builds(
    lambda policy, more: [policy, *more], strategies.lifted("lifted", {"app": "helloworld"}), others
)
peers = strategies.clients.filter(lambda peer: peer not in ("plaintext", "hello/waypoint"))


def ideal(policies: list[AuthorizationPolicy], request: Request, call: HttpRequest, destination: str) -> bool:
    """What one proxy beside the pod that sees everything would say."""
    facts = Facts(
        request.client,
        request.source_ip,
        call.remote_ip or request.source_ip,
        destination,
        request.port,
        call.host,
        call.method,
        normalize(call.path, "BASE"),
        call.headers,
        call.claims,
        request.sni,
    )
    labels = request.workload.labels
    mine = [policy for policy in policies if all(labels.get(key) == value for key, value in policy.selector or ())]
    matching = [policy for policy in mine if CompiledPolicy(policy, Dialect(waypoint=True)).matches(facts)]
    if any(policy.action is Action.DENY for policy in matching):
        return False
    allows = any(policy.action is Action.ALLOW for policy in mine)
    return not allows or any(policy.action is Action.ALLOW for policy in matching)


@given(selector_policies, strategies.requests(peers=peers, http=strategies.calls, ready=st.just(True)))
def test_what_passes_would_have_passed_beside_the_pod(found: list[AuthorizationPolicy], request: Request) -> None:
    policies = PolicySet(LIFT, found)
    assume(any(item.how is How.LIFTED for item in policies.applied(request.workload)))
    assert request.http is not None
    if decide(policies, request).allowed:
        assert ideal(found, request, request.http, world.POD_IP)


@given(selector_policies, peers, strategies.calls, st.sampled_from((80, 5000, 9090)))
def test_the_direct_way_opens_nothing(
    found: list[AuthorizationPolicy], peer: str, call: HttpRequest, port: int
) -> None:
    policies = PolicySet(LIFT, found)
    request = world.request(peer, port=port, call=call)
    assume(any(item.how is How.LIFTED for item in policies.applied(request.workload)))
    if decide(policies, request).allowed:
        assert ideal(found, request, call, world.POD_IP)


@given(selector_policies, peers, strategies.calls)
def test_losing_the_waypoint_only_closes(found: list[AuthorizationPolicy], peer: str, call: HttpRequest) -> None:
    policies = PolicySet(LIFT, found)
    request = world.request(peer, call=call)
    assume(any(item.how is How.LIFTED for item in policies.applied(request.workload)))
    without = replace(request, workload=world.workload(waypoints=()))
    if decide(policies, without).allowed:
        assert ideal(found, request, call, world.POD_IP)


@given(selector_policies, others, peers, strategies.calls, st.booleans())
def test_endpoints_with_different_policies_never_share_a_way_in(
    first: list[AuthorizationPolicy], second: list[AuthorizationPolicy], peer: str, call: HttpRequest, swap: bool
) -> None:
    """Whichever endpoint a Service's request lands on, its own policies must have allowed it, if one of them is lifted."""
    found = first + [replace(policy, meta=replace(policy.meta, name=f"q{i}")) for i, policy in enumerate(second)]
    policies = PolicySet(LIFT, found)
    one, two = world.workload(), world.workload(labels={"app": "helloworld", "version": "v2"})
    target = two if swap else one
    assume(any(item.how is How.LIFTED for item in policies.applied(target)))
    request = world.request(peer, target, via=world.WAYPOINT, to=world.service(one, two), call=call)
    if decide(policies, request).allowed:
        assert ideal(found, request, call, world.POD_IP)
