"""What became of an AuthorizationPolicy: the facts behind its two status conditions (spec C7). Pure; the wording is the policy engine's."""

from __future__ import annotations

from tulle.istiod.index import labels as names
from tulle.istiod.index.mesh import MeshIndex
from tulle.istiod.index.state import ServiceState
from tulle.security.lifting import qualify
from tulle.security.model import AuthorizationPolicy, TargetRef
from tulle.security.status import Condition, RefOutcome, RefResult, waypoint_condition, ztunnel_condition
from tulle.security.views import WaypointView


def conditions_of(index: MeshIndex, policy: AuthorizationPolicy) -> tuple[Condition | None, Condition | None]:
    """The conditions ZtunnelAccepted and WaypointAccepted; None where the policy must not have one."""
    lifted, everywhere = _lifted_to(index, policy)
    results = [_result(index, policy, ref) for ref in policy.target_refs]
    return (
        ztunnel_condition(policy, index.settings, lifted, everywhere),
        waypoint_condition(policy, results),
    )


def _lifted_to(index: MeshIndex, policy: AuthorizationPolicy) -> tuple[tuple[WaypointView, ...], bool]:
    """The waypoints that enforce a selector policy in ztunnel's place, and whether they do for every workload it selects."""
    if not index.settings.lift_selector_policies or not policy.selector or not qualify(policy).qualifies:
        return (), True
    namespace = None if policy.meta.namespace == index.settings.root_namespace else policy.meta.namespace
    found: dict[str, WaypointView] = {}
    everywhere = True
    for uid in index.tables.selected(namespace, dict(policy.selector)):
        state = index.workloads.get(uid)
        if state is None:
            continue
        view = index.view(state.record, state.services, state.binding)
        found.update((waypoint.key, waypoint) for waypoint in view.waypoints)
        everywhere = everywhere and bool(view.waypoints)
    return tuple(found[key] for key in sorted(found)), everywhere


def _result(index: MeshIndex, policy: AuthorizationPolicy, ref: TargetRef) -> RefResult:
    namespace = policy.meta.namespace
    match ref.kind:
        case "Gateway":
            waypoint = index.waypoints.get((namespace, ref.name))
            if waypoint is None or not waypoint.ready:
                return RefResult(ref, RefOutcome.TARGET_NOT_FOUND)
            return RefResult(ref, RefOutcome.ACCEPTED, f"{namespace}/{ref.name}")
        case "GatewayClass":
            return _class_result(index, policy, ref)
        case "Service" | "ServiceEntry":
            return _service_result(_services(index, namespace, ref), ref)
        case _:
            return RefResult(ref, RefOutcome.INVALID)


def _class_result(index: MeshIndex, policy: AuthorizationPolicy, ref: TargetRef) -> RefResult:
    found = index.tables.classes.get(ref.name)
    if found is None:
        return RefResult(ref, RefOutcome.TARGET_NOT_FOUND)
    if policy.meta.namespace != index.settings.root_namespace or found.controller != names.MESH_CONTROLLER:
        return RefResult(ref, RefOutcome.INVALID)
    return RefResult(ref, RefOutcome.ACCEPTED, f"GatewayClass {ref.name}")


def _services(index: MeshIndex, namespace: str, ref: TargetRef) -> list[ServiceState]:
    keys = index.tables.services_in.get(namespace, ())
    found = (index.services[key] for key in keys if key in index.services)
    return [state for state in found if (state.record.kind, state.record.name) == (ref.kind, ref.name)]


def _service_result(services: list[ServiceState], ref: TargetRef) -> RefResult:
    if not services:
        return RefResult(ref, RefOutcome.TARGET_NOT_FOUND)
    waypoint = next((state.binding.waypoint for state in services if state.binding.waypoint), None)
    if waypoint is None:
        return RefResult(ref, RefOutcome.ANCESTOR_NOT_BOUND)
    return RefResult(ref, RefOutcome.ACCEPTED, f"{waypoint.namespace}/{waypoint.name}")
