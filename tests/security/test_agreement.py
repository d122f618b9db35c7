"""The decision, ztunnel's evaluation and the emitted RBAC agree, and the order of inputs does not matter."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tulle.security.decision import Request, decide
from tulle.security.mesh import MeshSettings
from tulle.security.model import AuthorizationPolicy, PeerAuthentication
from tulle.security.policies import PolicySet

from . import strategies, world
from .agreement import check

settings = st.builds(
    MeshSettings,
    path_normalization=st.sampled_from(("NONE", "BASE", "MERGE_SLASHES", "DECODE_AND_MERGE_SLASHES")),
    lift_selector_policies=st.booleans(),
    head_is_get=st.booleans(),
    explain_refusals=st.booleans(),
)


@given(settings, strategies.policies(), strategies.peer_authentications, strategies.requests())
def test_three_readings_agree(
    mesh: MeshSettings, found: list[AuthorizationPolicy], modes: list[PeerAuthentication], request: Request
) -> None:
    policies = PolicySet(mesh, found, modes)
    check(policies, request, decide(policies, request))


@given(settings, strategies.peer_authentications, st.sampled_from((80, 5000, 9090)))
def test_peer_authentication_and_its_conversion_agree(
    mesh: MeshSettings, modes: list[PeerAuthentication], port: int
) -> None:
    policies = PolicySet(mesh, (), modes)
    request = world.request("plaintext", port=port)
    decision = decide(policies, request)
    check(policies, request, decision)
    assert decision.allowed != policies.peer_authentications.effective(request.workload, port).strict


@given(settings, strategies.policies(), strategies.peer_authentications, strategies.requests(), st.randoms())
def test_the_order_of_inputs_does_not_matter(
    mesh: MeshSettings,
    found: list[AuthorizationPolicy],
    modes: list[PeerAuthentication],
    request: Request,
    random: st.DataObject,
) -> None:
    first = PolicySet(mesh, found, modes)
    random.shuffle(found)  # type: ignore[attr-defined]
    random.shuffle(modes)  # type: ignore[attr-defined]
    second = PolicySet(mesh, found, modes)
    target = request.workload
    assert first.for_workload(target) == second.for_workload(target)
    assert first.ztunnel_policies([target]) == second.ztunnel_policies([target])
    assert first.for_service(world.service(target), world.WAYPOINT) == second.for_service(
        world.service(target), world.WAYPOINT
    )
    assert decide(first, request) == decide(second, request)
