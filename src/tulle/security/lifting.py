"""Lifting: selector policies with HTTP fields that a waypoint enforces in ztunnel's place.

This is the setting ``liftSelectorPolicies``, one of Tulle's four departures from upstream. The module answers two questions:
does a policy qualify at all, and which policies must ztunnel get instead, so that the waypoint cannot be bypassed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from .model import Action, AuthorizationPolicy, Meta, Operation, Rule, Source
from .reduction import uses_http
from .terms import SOURCE_FIELDS, Attribute, read_key
from .views import WaypointView

ALLOW_PREFIX = "tulle_waypoint_allow_"
ONLY_PREFIX = "tulle_waypoint_only_"
NO_COMMON_ALLOW = "tulle_no_common_allow"

# No port at all: it keeps a list of ports non-empty when none of them is reachable through a Service.
NO_PORT = "0"
Values: TypeAlias = tuple[str, ...]
Targets: TypeAlias = Mapping[int, set[str]]
"""Service port -> the ports that it means on pods."""
_IDENTITIES = frozenset({Attribute.PRINCIPAL, Attribute.REQUEST_PRINCIPAL})


@dataclass(frozen=True, slots=True)
class Qualification:
    """Whether a policy may be lifted, and why or why not."""

    qualifies: bool
    reason: str


def qualify(policy: AuthorizationPolicy) -> Qualification:
    """Whether a waypoint may enforce the policy in ztunnel's place, once there is one.

    ALLOW: every rule has ``from`` and every source names principals and nothing that is not an identity. DENY: always.
    """
    if policy.target_refs:
        return Qualification(False, "it has targetRefs, so waypoints enforce it anyway")
    if not policy.selector:
        return Qualification(False, "it has no selector with labels")
    if policy.dry_run:
        return Qualification(False, "it is a dry run")
    if policy.action not in (Action.ALLOW, Action.DENY):
        return Qualification(False, f"its action is {policy.action.value}")
    if not uses_http(policy):
        return Qualification(False, "it has no HTTP fields, so ztunnel enforces it in full")
    if policy.action is Action.DENY:
        return Qualification(True, "a DENY always qualifies")
    for rule in policy.rules:
        if problem := _unqualified(rule):
            return Qualification(False, problem)
    return Qualification(True, "every source names principals and nothing that is not an identity")


def _unqualified(rule: Rule) -> str | None:
    if not rule.sources:
        return f"{rule.path} has no from"
    for index, source in enumerate(rule.sources):
        path = f"{rule.path}.from[{index}].source"
        if not source.principals:
            return f"{path} names no principals"
        for field in SOURCE_FIELDS:
            if getattr(source, field.attr) and field.attribute not in _IDENTITIES:
                return f"{path}.{field.json} is not an identity"
    return None


def waypoint_allow(namespace: str, waypoint: WaypointView) -> AuthorizationPolicy:
    """The ALLOW of the waypoint's identity that takes the place of lifted policies in a workload's namespace."""
    name = f"{ALLOW_PREFIX}{waypoint.namespace}_{waypoint.name}"
    return _generated(namespace, name, Action.ALLOW, Source(principals=(waypoint.identity.principal,)))


def waypoint_only(namespace: str, waypoints: Sequence[WaypointView]) -> AuthorizationPolicy:
    """A DENY of every peer but the waypoints.

    A lifted DENY is enforced at the waypoint alone, so an ALLOW that stays at ztunnel must not open a way around it.
    """
    ordered = sorted(waypoints, key=lambda waypoint: waypoint.key)
    name = ONLY_PREFIX + "_".join(f"{waypoint.namespace}_{waypoint.name}" for waypoint in ordered)
    principals = tuple(waypoint.identity.principal for waypoint in ordered)
    return _generated(namespace, name, Action.DENY, Source(not_principals=principals))


def no_common_allow(namespace: str) -> AuthorizationPolicy:
    """An ALLOW of nothing, for a Service whose endpoints have no ALLOW policy in common."""
    return AuthorizationPolicy(Meta("AuthorizationPolicy", namespace, NO_COMMON_ALLOW))


def _generated(namespace: str, name: str, action: Action, source: Source) -> AuthorizationPolicy:
    return AuthorizationPolicy(
        Meta("AuthorizationPolicy", namespace, name), action, selector=(), rules=(Rule(sources=(source,)),)
    )


def for_service_ports(policy: AuthorizationPolicy, ports: tuple[tuple[int, int], ...]) -> AuthorizationPolicy:
    """Restate a selector policy, which speaks of pods, for a place that sees a Service.

    Target ports become the service ports that lead to them. A service port that means other ports on other pods (a named target port)
    is allowed only if every one of them is, and denied if any of them is. A destination IP cannot be restated: an ALLOW rule with one is
    dropped, a DENY loses the restriction.
    """
    targets: dict[int, set[str]] = {}
    for port, target in ports:
        targets.setdefault(port, set()).add(str(target))
    restated = (_restate(rule, policy.action, targets) for rule in policy.rules)
    rules = tuple(rule for rule in restated if rule is not None)
    return policy if rules == policy.rules else replace(policy, rules=rules)


def _restate(rule: Rule, action: Action, ports: Targets) -> Rule | None:
    conditions = []
    for index, condition in enumerate(rule.conditions):
        key = read_key(condition.key)
        attribute = None if key is None else key.attribute
        if attribute is Attribute.DESTINATION_IP:
            if action is Action.ALLOW:
                return None
            continue
        placed = condition if condition.position is not None else replace(condition, position=index)
        if attribute is Attribute.DESTINATION_PORT and ports:
            values, not_values = _service_ports(action, condition.values, condition.not_values, ports)
            placed = replace(placed, values=values, not_values=not_values)
        conditions.append(placed)
    operations = tuple(_restate_operation(operation, action, ports) for operation in rule.operations)
    return replace(rule, operations=operations, conditions=tuple(conditions))


def _restate_operation(operation: Operation, action: Action, ports: Targets) -> Operation:
    if not ports or not (operation.ports or operation.not_ports):
        return operation
    found, others = _service_ports(action, operation.ports, operation.not_ports, ports)
    return replace(operation, ports=found, not_ports=others)


def _service_ports(action: Action, values: Values, others: Values, ports: Targets) -> tuple[Values, Values]:
    """The service ports for which the rule is, and those for which it is not: an ALLOW is for fewer where pods differ, a DENY for more."""
    if action is Action.DENY:
        return _leading_to(values, ports, any), _leading_to(others, ports, all)
    return _leading_to(values, ports, all), _leading_to(others, ports, any)


def _leading_to(values: Values, ports: Targets, enough: Callable[[Iterable[bool]], bool]) -> Values:
    if not values:
        return ()
    return tuple(str(port) for port, found in ports.items() if enough(one in values for one in found)) or (NO_PORT,)
