"""Policies that are accepted and mean something else than they say (TUL0002-TUL0006, TUL0008-TUL0010)."""

from __future__ import annotations

from collections.abc import Iterator

from tulle.cli.analyze.messages import Message
from tulle.cli.explain.documents import Key
from tulle.cli.explain.world import World
from tulle.istiod.index.state import WorkloadState
from tulle.security.evaluation import ZTUNNEL_DIALECT, CompiledPolicy, Facts
from tulle.security.identity import Identity
from tulle.security.model import Action, AuthorizationPolicy, labels_match
from tulle.security.policies import Applied, How
from tulle.security.reduction import Effect, Place, never_matches, reduce_policy, uses_http
from tulle.security.terms import Attribute, Term, terms


def key_of(policy: AuthorizationPolicy) -> Key:
    return Key("AuthorizationPolicy", policy.meta.namespace, policy.meta.name)


def by_name(world: World) -> list[AuthorizationPolicy]:
    return sorted(world.index.policies.values(), key=lambda policy: policy.meta.key)


def _applied(world: World) -> Iterator[tuple[WorkloadState, Applied]]:
    """Each policy with each captured workload that it applies to."""
    for uid in sorted(world.index.workloads):
        state = world.index.workloads[uid]
        if state.record.hbone:
            view = world.index.view(state.record, state.services, state.binding)
            for item in world.index.policy_set.applied(view):
                yield state, item


def reach(world: World) -> dict[str, set[How]]:
    """How each policy reaches workloads; nothing for one that reaches none."""
    found: dict[str, set[How]] = {}
    for _, item in _applied(world):
        found.setdefault(item.policy.meta.key, set()).add(item.how)
    return found


def layer7_at_ztunnel(world: World) -> Iterator[Message]:
    """TUL0002 and TUL0003: HTTP fields in a policy that only ztunnel enforces."""
    reached = reach(world)
    for policy in by_name(world):
        if (
            policy.target_refs
            or policy.dry_run
            or policy.action not in (Action.ALLOW, Action.DENY)
            or not uses_http(policy)
        ):
            continue
        if How.LIFTED in reached.get(policy.meta.key, ()) and len(reached[policy.meta.key]) == 1:
            continue
        reduction = reduce_policy(policy, Place.ZTUNNEL)
        fields = ", ".join(reduction.fields)
        if policy.action is Action.ALLOW and reduction.policy is not None and not reduction.policy.rules:
            text = (
                f"This policy denies everything: ztunnel cannot test {fields}, so each of its rules is dropped and nobody is allowed. "
                "Deploy a waypoint, enrol the Service and attach the policy by targetRefs"
            )
            yield Message("TUL0002", key_of(policy), text)
            continue
        toothless = policy.action is Action.DENY and any(one.effect is Effect.NO_EFFECT for one in reduction.dropped)
        if toothless and How.ZTUNNEL_CLOSED not in reached.get(policy.meta.key, ()):
            subject = "This DENY" if never_matches(policy) else "A part of this DENY"
            text = f"{subject} denies nothing: ztunnel cannot test {fields}. Attach it to a waypoint by targetRefs"
            yield Message("TUL0003", key_of(policy), text)


def not_enrolled(world: World) -> Iterator[Message]:
    """TUL0004: a Gateway target is accepted as soon as the waypoint is ready, even if nothing is sent through it (C7)."""
    for policy in by_name(world):
        for ref in policy.target_refs:
            key = (policy.meta.namespace, ref.name)
            if ref.kind == "Gateway" and key in world.index.waypoints and not world.index.bound.get(key):
                text = (
                    f"Nothing is enrolled to Gateway {'/'.join(key)}, so this policy is accepted and never asked; "
                    f"label a namespace or Service istio.io/use-waypoint={ref.name}"
                )
                yield Message("TUL0004", key_of(policy), text)
            elif ref.kind in ("Service", "ServiceEntry") and (
                text := _unbound(world, policy.meta.namespace, ref.kind, ref.name)
            ):
                yield Message("TUL0004", key_of(policy), text)


def _unbound(world: World, namespace: str, kind: str, name: str) -> str:
    states = [
        state
        for state in world.index.services.values()
        if (state.record.kind, state.record.namespace, state.record.name) == (kind, namespace, name)
    ]
    if not states or any(state.binding.waypoint for state in states):
        return ""
    why = states[0].binding.message or "it has no label istio.io/use-waypoint, nor has its namespace"
    return f"{kind} {namespace}/{name} is not behind a waypoint, so this policy is not enforced: {why}"


def waypoint_not_allowed(world: World) -> Iterator[Message]:
    """TUL0005: behind a waypoint, ALLOW policies at the pods that leave the waypoint's identity out (C8)."""
    told: set[tuple[str, str]] = set()
    for uid in sorted(world.index.workloads):
        state = world.index.workloads[uid]
        view = world.index.view(state.record, state.services, state.binding)
        if not state.record.hbone or not view.waypoints:
            continue
        applied = world.index.policy_set.applied(view)
        at_ztunnel = [world.index.policy_set.reduced(item) for item in applied if item.how is not How.LIFTED]
        allows = [one for one in at_ztunnel if one.action is Action.ALLOW]
        allows += [one for one in world.index.policy_set.replacing(applied, view) if one.action is Action.ALLOW]
        for waypoint in view.waypoints:
            if not allows or any(_lets_in(world, state, one, waypoint.identity) for one in allows):
                continue
            for policy in (one for one in allows if (one.meta.key, waypoint.key) not in told):
                told.add((policy.meta.key, waypoint.key))
                text = (
                    f"Pods behind waypoint {waypoint.key} see {waypoint.identity.principal}, which no ALLOW policy on them names: requests "
                    "through the waypoint end in 503. Add that principal"
                )
                yield Message("TUL0005", key_of(policy), text)


def _lets_in(world: World, state: WorkloadState, policy: AuthorizationPolicy, identity: Identity) -> bool:
    """Whether some port of the workload may be reached by the identity."""
    ports = {port.target_port for service in state.services for port in service.ports} or {0}
    address = next(iter(state.record.addresses), "")
    compiled = CompiledPolicy(policy, ZTUNNEL_DIALECT)
    return any(
        compiled.matches(Facts(identity=identity, destination_ip=address, destination_port=port)) for port in ports
    )


def head_missing(world: World) -> Iterator[Message]:
    """TUL0006: GET without HEAD in an ALLOW (C3)."""
    if world.settings.head_is_get:
        return
    for policy in by_name(world):
        for term in terms_of(policy):
            if policy.action is Action.ALLOW and not term.negated and names_get_only(term):
                text = f"{term.path}: GET does not include HEAD, so curl -I and some health checks get 403; add HEAD if they may pass"
                yield Message("TUL0006", key_of(policy), text)


def names_get_only(term: Term) -> bool:
    """Whether a list of methods has GET and not HEAD."""
    return term.attribute is Attribute.METHOD and "GET" in term.values and "HEAD" not in term.values


def terms_of(policy: AuthorizationPolicy) -> Iterator[Term]:
    return (term for rule in policy.rules for term in terms(rule))


def principals(world: World) -> Iterator[Message]:
    """TUL0009 and TUL0010: principals that match nobody."""
    own = world.settings.trust_domain
    for policy in by_name(world):
        for term in (one for one in terms_of(policy) if one.attribute is Attribute.PRINCIPAL):
            for value in term.values:
                domain = value.removeprefix("spiffe://").partition("/")[0]
                if value.startswith("spiffe://"):
                    text = f"{term.path}: {value!r} matches no client; write {value.removeprefix('spiffe://')!r}"
                    yield Message("TUL0009", key_of(policy), text)
                elif not policy.target_refs and "*" not in domain and "/" in value and domain != own:
                    text = f"{term.path}: {value!r}: ztunnel expands no trust domain aliases and compares with {own!r} exactly"
                    yield Message("TUL0010", key_of(policy), text)


def port_level_mtls(world: World) -> Iterator[Message]:
    """TUL0008: portLevelMtls on the Service's port (B3, quirk b)."""
    for peer in sorted(world.index.peer_authentications.values(), key=lambda one: one.meta.key):
        if not peer.selector or not peer.ports:
            continue
        mapping: dict[int, int] = {}
        for state in world.index.workloads.values():
            if state.record.namespace == peer.meta.namespace and labels_match(peer.selector, state.record.labels):
                mapping.update(
                    (one.service_port, one.target_port) for service in state.services for one in service.ports
                )
        for port, _ in peer.ports:
            if port in mapping and port not in mapping.values():
                text = f"spec.portLevelMtls[{port}]: this is the Service's port; the pods' port is {mapping[port]}, and only that counts"
                yield Message("TUL0008", Key("PeerAuthentication", peer.meta.namespace, peer.meta.name), text)
