"""Which policies apply where.

A ``PolicySet`` is one consistent picture of everything that the mesh enforces: it answers for every workload what its
ztunnel gets and for every Service what its waypoint enforces. It is immutable, indexed by namespace and label, and blind to
the order of its inputs, so a control plane can build a new one at every change and compare the answers.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .attachment import attaches_at_waypoint, selects
from .fallback import closed_for_ztunnel
from .lifting import Qualification, for_service_ports, no_common_allow, qualify, waypoint_allow, waypoint_only
from .mesh import MeshSettings
from .model import Action, AuthorizationPolicy, PeerAuthentication
from .peer_authentication import PeerAuthentications
from .reduction import Place, reduce_policy
from .views import ServiceView, WaypointView, WorkloadView
from .ztunnel import Conversion, Scope, ZtunnelPolicy, convert, scope_of

if TYPE_CHECKING:
    from .gate import Gate

__all__ = ["Applied", "How", "PolicySet", "ServiceView", "WaypointView", "WorkloadView"]


class How(enum.Enum):
    """How a policy without targetRefs reaches a workload."""

    ZTUNNEL = "enforced by ztunnel"
    ZTUNNEL_CLOSED = "enforced by ztunnel without its HTTP parts until a waypoint is ready, so it denies more"
    LIFTED = "enforced by the waypoint in ztunnel's place (liftSelectorPolicies)"


@dataclass(frozen=True, slots=True)
class Applied:
    """A policy that applies to a workload, how, and why so."""

    policy: AuthorizationPolicy
    how: How
    reason: str


@dataclass(slots=True)
class _Local:
    """A policy without targetRefs and what was found out about it."""

    policy: AuthorizationPolicy
    qualification: Qualification
    conversion: Conversion | None = None


class PolicySet:
    """Everything that the mesh enforces, immutable and independent of the order of its inputs."""

    def __init__(
        self,
        settings: MeshSettings,
        policies: Iterable[AuthorizationPolicy] = (),
        peer_authentications: Iterable[PeerAuthentication] = (),
        before: PolicySet | None = None,
    ) -> None:
        """``before``: a set that this one follows; what was found out about policies that are in both is not found out again."""
        self.settings = settings
        self.peer_authentications = PeerAuthentications(settings.root_namespace, peer_authentications)
        self._targeted: dict[str, list[AuthorizationPolicy]] = {}
        self._wide: dict[str, list[AuthorizationPolicy]] = {}
        self._selecting: dict[tuple[str, tuple[str, str]], list[AuthorizationPolicy]] = {}
        self._local: dict[int, _Local] = {}
        self._qualifications: dict[str, Qualification] = {}
        # While `before` is there, so are its policies, and an id is that of one of them or of a new one.
        known = before._local if before is not None and before.settings == settings else {}
        for policy in _ordered(policies):
            self._place(policy, known)
        self._sent: Mapping[str, ZtunnelPolicy] | None = None
        #: What has been compiled from this set, by ``gate``; it lives and dies with the set.
        self.gates: dict[tuple[int, int, int], Gate] = {}

    def _place(self, policy: AuthorizationPolicy, known: Mapping[int, _Local]) -> None:
        namespace = policy.meta.namespace
        if policy.target_refs:
            self._targeted.setdefault(namespace, []).append(policy)
            return
        if policy.dry_run or policy.action not in (Action.ALLOW, Action.DENY):
            return
        local = known.get(id(policy)) or _Local(policy, qualify(policy))
        self._local[id(policy)] = local
        self._qualifications[policy.meta.key] = local.qualification
        if policy.selector is None:
            self._wide.setdefault(namespace, []).append(policy)
        elif policy.selector:
            # One pair of the selector is enough to find it again; the rest is compared then.
            self._selecting.setdefault((namespace, policy.selector[0]), []).append(policy)

    # -- what ztunnel gets -------------------------------------------------------------------------------------------

    def ztunnel_policies(self, workloads: Iterable[WorkloadView] = ()) -> Mapping[str, ZtunnelPolicy]:
        """What istiod sends, by ``namespace/name``: converted policies and PeerAuthentications, and the replacements
        that ``workloads`` need."""
        if self._sent is None:
            sent = dict(self.peer_authentications.ztunnel_policies())
            for local in self._local.values():
                policy = local.policy
                if local.conversion is None:
                    place = self._ztunnel_place(policy)
                    local.conversion = convert(self._closed(policy), self.settings.root_namespace, place)
                if local.conversion.policy is not None:
                    sent[local.conversion.policy.key] = local.conversion.policy
            self._sent = sent
        found = dict(self._sent)
        for workload in workloads:
            found.update(self.replacements(workload))
        return found

    def replacements(self, workload: WorkloadView) -> Mapping[str, ZtunnelPolicy]:
        """The generated policies among ``for_workload(workload)``.

        Send them before the workload that names them: ztunnel skips a name that it does not know.
        """
        root = self.settings.root_namespace
        converted = (convert(policy, root).policy for policy in self.replacing(self.applied(workload), workload))
        return {policy.key: policy for policy in converted if policy is not None}

    def for_workload(self, workload: WorkloadView) -> tuple[str, ...]:
        """Names for Workload.authorization_policies: selector policies, converted PeerAuthentications, replacements."""
        applied = self.applied(workload)
        root = self.settings.root_namespace
        kept = (
            item.policy.meta.key
            for item in applied
            if item.how is not How.LIFTED and scope_of(item.policy, root) is Scope.WORKLOAD_SELECTOR
        )
        replacing = (policy.meta.key for policy in self.replacing(applied, workload))
        return (*kept, *self.peer_authentications.names_for(workload), *replacing)

    def applied(self, workload: WorkloadView) -> tuple[Applied, ...]:
        """Every ALLOW and DENY without targetRefs that applies to a workload, namespace- and mesh-wide ones included."""
        return tuple(self._apply(policy, workload) for policy in self._matching(workload))

    def replacing(self, applied: Iterable[Applied], workload: WorkloadView) -> tuple[AuthorizationPolicy, ...]:
        """What ztunnel enforces in the place of the lifted policies among ``applied``."""
        items = tuple(applied)
        lifted = [item.policy for item in items if item.how is How.LIFTED]
        if not lifted:
            return ()
        waypoints = _distinct(workload.waypoints)
        allows = tuple(waypoint_allow(workload.namespace, waypoint) for waypoint in waypoints)
        open_way = any(item.how is not How.LIFTED and self._lets_something_in(item) for item in items)
        if open_way and any(policy.action is Action.DENY for policy in lifted):
            return (*allows, waypoint_only(workload.namespace, waypoints))
        return allows

    def reduced(self, item: Applied) -> AuthorizationPolicy:
        """The form of a policy that ztunnel enforces."""
        policy = self._closed(item.policy)
        reduced = reduce_policy(policy, self._ztunnel_place(policy)).policy
        return policy if reduced is None else reduced

    def note_at_ztunnel(self, item: Applied) -> str:
        """How the form that ztunnel enforces differs from the policy as written, "" if it does not."""
        notes = []
        reduction = reduce_policy(item.policy, self._ztunnel_place(item.policy))
        if reduction.dropped:
            effects = "; ".join(dict.fromkeys(dropped.effect.value for dropped in reduction.dropped))
            notes.append(f"ztunnel cannot test {', '.join(reduction.fields)}: {effects}")
        if self._closed(item.policy) != item.policy:
            notes.append("restated for ztunnel to deny at least what a waypoint would")
        return "; ".join(notes)

    def _closed(self, policy: AuthorizationPolicy) -> AuthorizationPolicy:
        """With lifting a policy may be enforced at either place, so ztunnel must not read it more narrowly."""
        if not self.settings.lift_selector_policies:
            return policy
        return closed_for_ztunnel(policy, self.settings.trust_domains)

    def _lets_something_in(self, item: Applied) -> bool:
        return item.policy.action is Action.ALLOW and bool(self.reduced(item).rules)

    # -- what a waypoint enforces ------------------------------------------------------------------------------------

    def for_service(self, service: ServiceView, waypoint: WaypointView) -> tuple[AuthorizationPolicy, ...]:
        """What the waypoint enforces for requests to a Service: targetRefs (C6), and lifted policies (see lifting)."""
        attached = self._attached(waypoint, service, service.namespace)
        lifted = self._lifted(service.workloads, waypoint, service.namespace)
        return (*attached, *(for_service_ports(policy, service.ports) for policy in lifted))

    def for_pod_ip(self, workload: WorkloadView, waypoint: WaypointView) -> tuple[AuthorizationPolicy, ...]:
        """What a waypoint enforces for requests addressed to the workload itself (A4, workload waypoints)."""
        attached = self._attached(waypoint, None, workload.namespace)
        return (*attached, *self._lifted((workload,), waypoint, workload.namespace))

    def _attached(
        self, waypoint: WaypointView, service: ServiceView | None, namespace: str
    ) -> tuple[AuthorizationPolicy, ...]:
        root = self.settings.root_namespace
        namespaces = dict.fromkeys((root, waypoint.namespace, namespace))
        return tuple(
            policy
            for name in namespaces
            for policy in self._targeted.get(name, ())
            if attaches_at_waypoint(policy, waypoint, service, root)
        )

    def _lifted(
        self, workloads: Iterable[WorkloadView], waypoint: WaypointView, namespace: str
    ) -> tuple[AuthorizationPolicy, ...]:
        """Everything that the ztunnels of the workloads would enforce, as soon as one policy of theirs is lifted.

        The policies that stay at ztunnel judge the waypoint there, not the client, so the waypoint must judge the client
        by them, or lifting one policy would undo another. A request may reach any of the endpoints: all their DENY policies
        count, and of their ALLOW policies those that each endpoint that has any shares.
        """
        if not self.settings.lift_selector_policies:
            return ()
        denies: dict[str, AuthorizationPolicy] = {}
        allows: list[dict[str, AuthorizationPolicy]] = []
        for workload in _unlike(workloads):
            if all(waypoint.key != other.key for other in workload.waypoints):
                continue
            applied = self.applied(workload)
            if all(item.how is not How.LIFTED for item in applied):
                continue
            own = {item.policy.meta.key: self._at_waypoint(item) for item in applied}
            denies.update((key, policy) for key, policy in own.items() if policy.action is Action.DENY)
            allows.append({key: policy for key, policy in own.items() if policy.action is Action.ALLOW})
        return (*denies.values(), *_common([own for own in allows if own], namespace))

    def _at_waypoint(self, item: Applied) -> AuthorizationPolicy:
        """A policy that stays at ztunnel loses here what it loses there, but needs no widening: a waypoint reads it in full."""
        if item.how is How.LIFTED:
            return item.policy
        reduced = reduce_policy(item.policy, self._ztunnel_place(item.policy)).policy
        return item.policy if reduced is None else reduced

    # -- the indexes -------------------------------------------------------------------------------------------------

    def _matching(self, workload: WorkloadView) -> list[AuthorizationPolicy]:
        root = self.settings.root_namespace
        found: list[AuthorizationPolicy] = []
        for namespace in dict.fromkeys((root, workload.namespace)):
            found += self._wide.get(namespace, ())
            for pair in workload.labels.items():
                for policy in self._selecting.get((namespace, pair), ()):
                    if selects(namespace, policy.selector, workload.namespace, workload.labels, root):
                        found.append(policy)
        return sorted(found, key=lambda policy: policy.meta.key)

    def _apply(self, policy: AuthorizationPolicy, workload: WorkloadView) -> Applied:
        if not self.settings.lift_selector_policies:
            return Applied(policy, How.ZTUNNEL, "ztunnel enforces policies without targetRefs")
        qualification = self._qualifications[policy.meta.key]
        if not qualification.qualifies:
            return Applied(policy, How.ZTUNNEL, f"not lifted: {qualification.reason}")
        if workload.waypoints:
            names = ", ".join(waypoint.key for waypoint in _distinct(workload.waypoints))
            return Applied(policy, How.LIFTED, f"lifted to waypoint {names}: {qualification.reason}")
        reason = "not lifted: the workload is not reached through a ready waypoint"
        return Applied(policy, How.ZTUNNEL_CLOSED if policy.action is Action.DENY else How.ZTUNNEL, reason)

    def _ztunnel_place(self, policy: AuthorizationPolicy) -> Place:
        """A DENY that a waypoint enforces must not fall open when the waypoint goes away."""
        if not self.settings.lift_selector_policies or policy.action is not Action.DENY:
            return Place.ZTUNNEL
        return Place.ZTUNNEL_CLOSED if self._qualifications[policy.meta.key].qualifies else Place.ZTUNNEL


def _ordered(policies: Iterable[AuthorizationPolicy]) -> list[AuthorizationPolicy]:
    """By name; objects of the same name, which no API server would hold, by their whole content."""
    by_key: dict[tuple[str, str], list[AuthorizationPolicy]] = {}
    for policy in policies:
        by_key.setdefault((policy.meta.namespace, policy.meta.name), []).append(policy)
    return [policy for key in sorted(by_key) for policy in _by_content(by_key[key])]


def _by_content(same: list[AuthorizationPolicy]) -> list[AuthorizationPolicy]:
    return same if len(same) == 1 else sorted(same, key=repr)


def _distinct(waypoints: Iterable[WaypointView]) -> tuple[WaypointView, ...]:
    by_key = {waypoint.key: waypoint for waypoint in waypoints}
    return tuple(by_key[key] for key in sorted(by_key))


def _unlike(workloads: Iterable[WorkloadView]) -> Iterable[WorkloadView]:
    """One workload of each sort: replicas have the same labels, so the same policies."""
    sorts = {(w.namespace, frozenset(w.labels.items()), w.waypoints): w for w in workloads}
    return sorts.values()


def _common(allows: list[dict[str, AuthorizationPolicy]], namespace: str) -> tuple[AuthorizationPolicy, ...]:
    if not allows:
        return ()
    shared = set(allows[0]).intersection(*allows[1:])
    if not shared:
        return (no_common_allow(namespace),)
    return tuple(policy for key, policy in allows[0].items() if key in shared)
