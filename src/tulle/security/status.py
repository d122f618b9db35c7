"""Status conditions on AuthorizationPolicies, as text (C7).

A policy that is accepted but cannot do what it says is the commonest trap of ambient mode, so the message names the fields,
the effect and what to do. Each use of ``liftSelectorPolicies`` is told here too.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .fallback import closed_for_ztunnel
from .lifting import qualify
from .mesh import MeshSettings
from .model import Action, AuthorizationPolicy, TargetRef
from .reduction import Effect, Place, never_matches, reduce_policy
from .views import WaypointView

ZTUNNEL_ACCEPTED = "ZtunnelAccepted"
WAYPOINT_ACCEPTED = "WaypointAccepted"


@dataclass(frozen=True, slots=True)
class Condition:
    """A status condition; ``status`` is True or False as the API writes it."""

    type: str
    status: bool
    reason: str
    message: str
    observed_generation: int


class RefOutcome(enum.Enum):
    """What became of one targetRef; the value is the reason that stands in the condition."""

    ACCEPTED = "Accepted"
    TARGET_NOT_FOUND = "TargetNotFound"
    ANCESTOR_NOT_BOUND = "AncestorNotBound"
    INVALID = "Invalid"


@dataclass(frozen=True, slots=True)
class RefResult:
    """One targetRef of a policy and its outcome; ``bound_to`` is the waypoint (``namespace/name``) when accepted."""

    ref: TargetRef
    outcome: RefOutcome
    bound_to: str = ""


def ztunnel_condition(
    policy: AuthorizationPolicy,
    settings: MeshSettings,
    lifted_to: Iterable[WaypointView] = (),
    everywhere: bool = True,
) -> Condition | None:
    """The condition ZtunnelAccepted; None for a policy with targetRefs.

    ``lifted_to``: the waypoints that enforce the policy in ztunnel's place for at least one workload, and ``everywhere``
    whether they do so for every workload that it selects.
    """
    if policy.target_refs:
        return None
    if policy.action not in (Action.ALLOW, Action.DENY):
        message = (
            f"ztunnel does not support the {policy.action.value} action; use targetRefs to enforce it at a waypoint"
        )
        return _condition(policy, ZTUNNEL_ACCEPTED, False, "UnsupportedValue", message)
    if policy.dry_run:
        return _condition(policy, ZTUNNEL_ACCEPTED, False, "UnsupportedValue", "ambient dry-run is not enabled")
    lifted = tuple(lifted_to)
    if lifted and settings.lift_selector_policies:
        message = _lifted(lifted, everywhere, _at_ztunnel(policy, settings))
        return _condition(policy, ZTUNNEL_ACCEPTED, True, "Accepted", message)
    unsupported = _at_ztunnel(policy, settings)
    if not unsupported:
        return _condition(
            policy, ZTUNNEL_ACCEPTED, True, "Accepted", f"attached to ztunnel{_restated(policy, settings)}"
        )
    return _condition(policy, ZTUNNEL_ACCEPTED, True, "UnsupportedValue", unsupported)


def _lifted(waypoints: Sequence[WaypointView], everywhere: bool, otherwise: str) -> str:
    names = ", ".join(sorted({waypoint.key for waypoint in waypoints}))
    message = (
        f"enforced by waypoint {names} in ztunnel's place, because liftSelectorPolicies is on; "
        "ztunnel accepts only the waypoint for the selected workloads. Upstream Istio would need targetRefs here"
    )
    return message if everywhere else f"{message}. For workloads that no ready waypoint serves: {otherwise}"


def _at_ztunnel(policy: AuthorizationPolicy, settings: MeshSettings) -> str:
    """What ztunnel cannot do with the policy; "" when it enforces it in full."""
    qualification = qualify(policy)
    closed = settings.lift_selector_policies and policy.action is Action.DENY and qualification.qualifies
    reduction = reduce_policy(policy, Place.ZTUNNEL_CLOSED if closed else Place.ZTUNNEL)
    if not reduction.dropped:
        return ""
    fields = ", ".join(reduction.fields)
    effects = {item.effect for item in reduction.dropped}
    message = f"ztunnel does not support HTTP attributes (found: {fields}). {_effect(policy, effects)}"
    if settings.lift_selector_policies:
        why = "no ready waypoint reaches the workloads yet" if qualification.qualifies else qualification.reason
        message += f" The policy is not lifted to a waypoint: {why}."
    return message + _restated(policy, settings)


def _restated(policy: AuthorizationPolicy, settings: MeshSettings) -> str:
    """What ``fallback`` makes of the policy; "" when it is sent as written."""
    if not settings.lift_selector_policies or closed_for_ztunnel(policy, settings.trust_domains) == policy:
        return ""
    return (
        "; because liftSelectorPolicies is on, namespaces with a star in the middle and principals of trust domain aliases "
        "are widened there, so that it denies at least what a waypoint would"
    )


def _effect(policy: AuthorizationPolicy, effects: set[Effect]) -> str:
    advice = "Deploy a waypoint, enrol the Service, and attach the policy with targetRefs."
    if policy.action is Action.ALLOW:
        left = reduce_policy(policy, Place.ZTUNNEL).policy
        if left is not None and not left.rules:
            return (
                "Every rule is omitted, so this policy denies all traffic to the workloads that it applies to, unless "
                f"another ALLOW policy allows it. {advice}"
            )
        return f"Rules with these attributes are omitted, which is more restrictive than written. {advice}"
    if Effect.NO_EFFECT in effects:
        subject = (
            "This policy has no effect"
            if never_matches(policy)
            else "Rules with nothing else in a clause have no effect"
        )
        return f"{subject} at ztunnel. {advice}"
    return f"The policy is enforced without them, which is more restrictive than written. {advice}"


def waypoint_condition(policy: AuthorizationPolicy, results: Sequence[RefResult]) -> Condition | None:
    """The condition WaypointAccepted from the outcome of each targetRef; None for a policy without any."""
    if not policy.target_refs:
        return None
    if len(results) == 1:
        (result,) = results
        accepted = result.outcome is RefOutcome.ACCEPTED
        return _condition(policy, WAYPOINT_ACCEPTED, accepted, result.outcome.value, _ref_message(policy, result))
    bound = [result for result in results if result.outcome is RefOutcome.ACCEPTED]
    invalid = [result for result in results if result.outcome is not RefOutcome.ACCEPTED]
    listed = ", ".join(_ref_name(policy, result.ref) for result in invalid)
    if not invalid:
        names = ", ".join(dict.fromkeys(result.bound_to for result in bound))
        return _condition(policy, WAYPOINT_ACCEPTED, True, "Accepted", f"bound to {names}")
    if bound:
        return _condition(policy, WAYPOINT_ACCEPTED, True, "PartiallyInvalid", f"Invalid targetRefs: {listed}")
    return _condition(policy, WAYPOINT_ACCEPTED, False, "Invalid", f"Invalid targetRefs: {listed}")


def _ref_name(policy: AuthorizationPolicy, ref: TargetRef) -> str:
    """``Kind.group:ns/name``, as C7 has it; the core group is written ``core``."""
    return f"{ref.kind}.{ref.group or 'core'}:{policy.meta.namespace}/{ref.name}"


def _ref_message(policy: AuthorizationPolicy, result: RefResult) -> str:
    name = _ref_name(policy, result.ref)
    match result.outcome:
        case RefOutcome.ACCEPTED:
            return f"bound to {result.bound_to}"
        case RefOutcome.TARGET_NOT_FOUND:
            return f"{name} was not found; create it, or correct the targetRef"
        case RefOutcome.ANCESTOR_NOT_BOUND:
            return (
                f"{name} is not bound to a waypoint; label it or its namespace with istio.io/use-waypoint, or deploy the "
                "waypoint that is named there"
            )
        case RefOutcome.INVALID:
            return (
                f"{name} cannot be targeted: a GatewayClass must be istio-waypoint and the policy in the root namespace"
            )


def _condition(policy: AuthorizationPolicy, type_: str, status: bool, reason: str, message: str) -> Condition:
    return Condition(type_, status, reason, message, policy.meta.generation)
