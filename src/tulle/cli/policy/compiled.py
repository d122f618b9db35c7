"""Policies as the messages that proxies get (C5, B3, E3), and what of them gets lost.

The ztunnel side is one `istio.security.Authorization` for each policy and each converted PeerAuthentication. The waypoint side is a set of
Envoy RBAC filters for each Service (or other target) that policies attach to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.json_format import MessageToDict

from tulle.cli.explain.world import World
from tulle.istiod.authorization_pb import authorization
from tulle.istiod.index.state import ServiceState
from tulle.istiod.waypoint_targets import INPUTS, authorizer_for, authorizer_views
from tulle.security.envoy_rbac import Filters, http_filters, tcp_filters
from tulle.security.model import Action, AuthorizationPolicy, PeerAuthentication
from tulle.security.policies import How
from tulle.security.reduction import Place, reduce_policy
from tulle.security.views import WorkloadView

TARGETS = ("ztunnel", "waypoint")


@dataclass(frozen=True)
class Compiled:
    """`ztunnel` and `waypoint` are plain values; `remarks` say what was dropped or not sent, and why."""

    ztunnel: tuple[Mapping[str, Any], ...]
    waypoint: tuple[Mapping[str, Any], ...]
    remarks: tuple[str, ...]


def compile_policies(world: World) -> Compiled:
    """Everything that the world's policies come to."""
    return Compiled(tuple(_ztunnel(world)), tuple(_waypoint(world)), tuple(_remarks(world)))


def _views(world: World) -> Iterator[WorkloadView]:
    for state in world.index.workloads.values():
        yield world.index.view(state.record, state.services, state.binding)


def _ztunnel(world: World) -> Iterator[Mapping[str, Any]]:
    sent = world.index.policy_set.ztunnel_policies(_views(world))
    for name in sorted(sent):
        attached = sorted(
            f"{state.record.namespace}/{state.record.name}"
            for state in world.index.workloads.values()
            if name in state.policies
        )
        message = MessageToDict(authorization(sent[name]))
        entry = {"name": name, "type": "istio.security.Authorization", "message": message}
        yield {**entry, "workloads": attached} if attached else entry


def _waypoint(world: World) -> Iterator[Mapping[str, Any]]:
    for target, policies in _targets(world):
        yield _filters(world, target, policies)


def _targets(world: World) -> Iterator[tuple[str, tuple[AuthorizationPolicy, ...]]]:
    """What policies attach to at waypoints, and the policies."""
    index = world.index
    covered: set[str] = set()
    for key in sorted(index.services):
        state = index.services[key]
        if state.binding.waypoint is None:
            continue
        view = index.waypoint_view(state.binding.waypoint)
        policies = index.policy_set.for_service(index.service_view(key), view)
        if policies:
            covered.update(policy.meta.key for policy in policies)
            yield f"{_what(state)} at waypoint {view.key}", policies
    loose: dict[str, list[AuthorizationPolicy]] = {}
    for policy in sorted(index.policies.values(), key=lambda policy: policy.meta.key):
        if policy.meta.key not in covered:
            for ref in policy.target_refs:
                loose.setdefault(f"{ref.kind} {policy.meta.namespace}/{ref.name}", []).append(policy)
    for target, policies_of_target in loose.items():
        yield target, tuple(policies_of_target)


def _what(state: ServiceState) -> str:
    return f"{state.record.kind} {state.record.namespace}/{state.record.name}"


def _filters(world: World, target: str, found: tuple[AuthorizationPolicy, ...]) -> Mapping[str, Any]:
    return {
        "target": target,
        "policies": [policy.meta.key for policy in found],
        "http": _named(http_filters(found, world.settings, INPUTS)),
        "tcp": _named(tcp_filters(found, world.settings, INPUTS)),
    }


def _named(filters: Filters) -> list[Mapping[str, Any]]:
    return list(filters.named())


# --- what gets lost


def _remarks(world: World) -> Iterator[str]:
    yield from _without_authorizer(world)
    lifted = _lifted(world)
    for policy in sorted(world.index.policies.values(), key=lambda policy: policy.meta.key):
        yield from _of_policy(world, policy, policy.meta.key in lifted)
    for peer in sorted(world.index.peer_authentications.values(), key=lambda peer: peer.meta.key):
        yield from _of_peer_authentication(world, peer)


def _without_authorizer(world: World) -> Iterator[str]:
    """CUSTOM policies whose authorizer cannot be asked: what they match is denied (C4)."""
    known = {one.name for one in authorizer_views(world.index)}
    for target, policies in _targets(world):
        name, problem = authorizer_for(policies, world.settings)
        if name and name not in known:
            problem = f"the Service of extension provider {name} or its port is not among what was read"
        if problem:
            asking = ", ".join(str(policy.meta) for policy in policies if policy.action is Action.CUSTOM)
            yield f"{asking}: spec.provider.name: {problem}: at {target} all that matches is denied"


def _lifted(world: World) -> set[str]:
    applied = (item for view in _views(world) for item in world.index.policy_set.applied(view))
    return {item.policy.meta.key for item in applied if item.how is How.LIFTED}


def _of_policy(world: World, policy: AuthorizationPolicy, lifted: bool) -> Iterator[str]:
    if policy.dry_run:
        yield f"{policy.meta}: a dry run is not sent to ztunnel, and only counted at a waypoint"
    if policy.target_refs:
        yield f"{policy.meta}: targetRefs: not sent to ztunnel"
        place = Place.TCP
    elif policy.action not in (Action.ALLOW, Action.DENY):
        yield f"{policy.meta}: spec.action: {policy.action.value} is not sent to ztunnel; use targetRefs to have it at a waypoint"
        return
    else:
        if lifted:
            yield f"{policy.meta}: enforced by a waypoint in ztunnel's place (liftSelectorPolicies)"
        if policy.selector == ():
            yield f"{policy.meta}: spec.selector: without labels it is attached to no workload"
        place = Place.ZTUNNEL
    for item in reduce_policy(policy, place).dropped:
        yield f"{policy.meta}: {item.path}: {item.field} cannot be tested at {place.value}: {item.effect.value}"


def _of_peer_authentication(world: World, peer: PeerAuthentication) -> Iterator[str]:
    root = world.settings.root_namespace
    if peer.meta.namespace == root and peer.selector:
        yield f"{peer.meta}: spec.selector: a selector in the root namespace applies to nothing"
    converted = f"{peer.meta.namespace}/converted_peer_authentication_{peer.meta.name}"
    if peer.ports and converted not in world.index.ztunnel_policies:
        yield f"{peer.meta}: spec.portLevelMtls: changes nothing, so no policy is made of it"
