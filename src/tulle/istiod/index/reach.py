"""Whom a policy may concern: the workloads it selects and the waypoint targets it names.

Used when a policy appears, changes or goes. It may name too many, never too few: what is named is recomputed, and an equal result ends
there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

from tulle.istiod.index.records import Uid, WaypointKey
from tulle.istiod.index.state import ServiceTarget, Target, WorkloadTarget
from tulle.security.model import AuthorizationPolicy, PeerAuthentication, RequestAuthentication, TargetRef

if TYPE_CHECKING:
    from tulle.istiod.index.mesh import MeshIndex


class Reach(Struct, frozen=True):
    workloads: frozenset[Uid] = frozenset()
    targets: frozenset[tuple[WaypointKey, Target]] = frozenset()


AnyPolicy: TypeAlias = AuthorizationPolicy | PeerAuthentication | RequestAuthentication


def policy_reach(policy: AnyPolicy, root_namespace: str, mesh: MeshIndex) -> Reach:
    """Workloads and waypoint targets whose result may depend on the policy (spec B2, C5, C6)."""
    refs = () if isinstance(policy, PeerAuthentication) else policy.target_refs
    if refs or isinstance(policy, RequestAuthentication):
        return Reach(targets=frozenset(one for ref in refs for one in _named(ref, policy.meta.namespace, mesh)))
    namespace = None if policy.meta.namespace == root_namespace else policy.meta.namespace
    workloads = mesh.tables.selected(namespace, dict(policy.selector or ()))
    return Reach(frozenset(workloads), frozenset(_targets_of(workloads, mesh)))


def _named(ref: TargetRef, namespace: str, mesh: MeshIndex) -> set[tuple[WaypointKey, Target]]:
    if ref.kind == "GatewayClass":
        keys = [key for key, waypoint in mesh.waypoints.items() if waypoint.class_name == ref.name]
        return {(key, target) for key in keys for target in mesh.bound.get(key, ())}
    if ref.kind == "Gateway":
        return {((namespace, ref.name), target) for target in mesh.bound.get((namespace, ref.name), ())}
    found: set[tuple[WaypointKey, Target]] = set()
    for key in mesh.tables.services_in.get(namespace, ()):
        state = mesh.services.get(key)
        if state and state.record.kind == ref.kind and state.record.name == ref.name:
            found.update((waypoint.key, ServiceTarget(key)) for waypoint in state.waypoints)
    return found


def _targets_of(workloads: set[Uid], mesh: MeshIndex) -> set[tuple[WaypointKey, Target]]:
    found: set[tuple[WaypointKey, Target]] = set()
    for uid in workloads:
        state = mesh.workloads.get(uid)
        if state is None:
            continue
        if state.binding.waypoint is not None:
            found.add((state.binding.waypoint.key, WorkloadTarget(uid)))
        for membership in state.services:
            service = mesh.services.get(membership.service)
            found.update((w.key, ServiceTarget(membership.service)) for w in (service.waypoints if service else ()))
    return found
