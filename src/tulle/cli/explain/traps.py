"""Traps of policies: what is written, accepted, and not enforced, or enforced otherwise than written (C3, C5, C6, B3)."""

from __future__ import annotations

from collections.abc import Iterator

from tulle.cli.explain import patches, repairs
from tulle.cli.explain.documents import Key
from tulle.cli.explain.evaluate import Evaluation
from tulle.cli.explain.findings import Finding, note
from tulle.cli.explain.patches import Change
from tulle.cli.explain.places import Sort, Via
from tulle.cli.explain.world import World
from tulle.istiod.index import labels as names
from tulle.istiod.index.records import ServiceKey
from tulle.istiod.index.waypoints import Reason, Waypoint
from tulle.security.attachment import GATEWAY_GROUP, WAYPOINT_CLASS
from tulle.security.model import Action, AuthorizationPolicy
from tulle.security.policies import Applied, How
from tulle.security.reduction import Effect, Place, never_matches, reduce_policy, uses_http
from tulle.security.terms import Attribute, terms


def layer7_at_ztunnel(world: World, evaluation: Evaluation) -> Iterator[Finding]:
    """HTTP fields where only connections are seen."""
    for item in _applied(world, evaluation):
        if item.how is How.LIFTED or not uses_http(item.policy):
            continue
        fields = ", ".join(reduce_policy(item.policy, Place.ZTUNNEL).fields)
        meta = item.policy.meta
        if item.policy.action is Action.DENY:
            yield from _layer7_deny(world, evaluation, item, fields)
        elif not world.index.policy_set.reduced(item).rules:
            text = f"{meta} uses {fields}, which ztunnel cannot see: its rules are dropped, so it allows nobody and alone denies everyone"
            yield Finding("l7-allow-denies-all", text)
        else:
            text = f"{meta} uses {fields}, which ztunnel cannot see: the rules with them are dropped, the others hold"
            yield Finding("l7-rules-dropped", text)


def _layer7_deny(world: World, evaluation: Evaluation, item: Applied, fields: str) -> Iterator[Finding]:
    effects = {one.effect for one in reduce_policy(item.policy, Place.ZTUNNEL).dropped}
    if item.how is How.ZTUNNEL_CLOSED:
        text = f"{item.policy.meta} uses {fields}: until a waypoint is ready, ztunnel denies without them, which is more than written"
        yield note("l7-deny-closed", text)
    elif Effect.NO_EFFECT in effects:
        subject = "it" if never_matches(item.policy) else "that part of it"
        text = f"{item.policy.meta} is a DENY by {fields}, which ztunnel cannot see: {subject} denies nothing"
        fix = next(repairs.to_waypoint(world, evaluation, item.policy), None)
        yield Finding("l7-deny-no-op", text, fix=fix and _completed(world, item.policy, evaluation, fix))
    else:
        text = f"{item.policy.meta} uses {fields}: ztunnel denies without them, which is more than written"
        yield Finding("l7-deny-widened", text)


def _completed(world: World, policy: AuthorizationPolicy, evaluation: Evaluation, fix: Change) -> Change:
    """A waypoint alone does not read a selector policy: attach it too."""
    key = Key(repairs.POLICY, policy.meta.namespace, policy.meta.name)
    if key in fix.edits or world.settings.lift_selector_policies:
        return fix
    return fix.then(repairs.retarget(world, key, evaluation.way.target))


def _applied(world: World, evaluation: Evaluation) -> Iterator[Applied]:
    seen: set[str] = set()
    for fate in evaluation.fates:
        if not fate.leg.request.captured:
            continue
        for item in world.index.policy_set.applied(fate.leg.request.workload):
            if item.policy.meta.key not in seen:
                seen.add(item.policy.meta.key)
                yield item


def passed_by(world: World, evaluation: Evaluation) -> Iterator[Finding]:
    """Policies with targetRefs for what is asked for, and no waypoint on the way to enforce them."""
    way = evaluation.way
    if way.stop is not None or way.waypoint is not None:
        return
    missed = sorted(str(policy.meta) for policy in world.index.policies.values() if _aims_at(world, evaluation, policy))
    if not missed:
        return
    why, fix = _why_passed_by(world, evaluation)
    yield Finding(
        "target-not-enforced", f"{', '.join(missed)} is accepted but not enforced on this way: {why}", fix=fix
    )


def _aims_at(world: World, evaluation: Evaluation, policy: AuthorizationPolicy) -> bool:
    for key in _services(evaluation):
        state = world.index.services.get(key)
        if state is None:
            continue
        waypoint = state.binding.waypoint
        for ref in policy.target_refs:
            own = policy.meta.namespace == key[0] and (ref.kind, ref.name) == (state.record.kind, state.record.name)
            gateway = (
                waypoint is not None and (policy.meta.namespace, ref.name) == waypoint.key and ref.kind == "Gateway"
            )
            of_class = waypoint is not None and (ref.group, ref.kind, ref.name) == (
                GATEWAY_GROUP,
                "GatewayClass",
                WAYPOINT_CLASS,
            )
            if own or gateway or of_class:
                return True
    return False


def _services(evaluation: Evaluation) -> list[ServiceKey]:
    """The Services that are asked for, or that stand before the pod that is."""
    target = evaluation.way.target
    found = [target.service.record.key] if target.service else []
    for endpoint in target.endpoints:
        found += [one.service for one in endpoint.state.services]
    return list(dict.fromkeys(found))


def _why_passed_by(world: World, evaluation: Evaluation) -> tuple[str, Change | None]:
    client, target = evaluation.way.client, evaluation.way.target
    if target.via in (Via.POD, Via.HEADLESS):
        text = f"the request goes to {target.via.value}, and a waypoint for Services serves the Service's address only"
        return text, _no_bypass(world, evaluation)
    if client.sort in (Sort.GATEWAY, Sort.SIDECAR):
        return evaluation.way.detour, ingress_label(world, evaluation) if evaluation.way.detour else None
    if not client.in_mesh:
        return f"{client.what} is outside the mesh, and only clients of the mesh are sent through a waypoint", next(
            repairs.enrol_client(world, evaluation), None
        )
    reason = (
        evaluation.way.detour or f"{target.what} is not enrolled: no label {names.USE_WAYPOINT} on it or its namespace"
    )
    return reason, next(repairs.enrol_service(world, evaluation), None)


def _no_bypass(world: World, evaluation: Evaluation) -> Change | None:
    """An ALLOW of the waypoint's identity alone at the pods, so that there is no way around it."""
    bound = (state for key in _services(evaluation) if (state := world.index.services.get(key)))
    service, waypoint = next(((one, one.binding.waypoint) for one in bound if one.binding.waypoint), (None, None))
    fate = evaluation.worst
    if service is None or waypoint is None or fate is None:
        return None
    record = fate.leg.endpoint.state.record
    members = world.index.tables.members_of(service.record.key)
    labels = repairs.shared_labels(
        world.index.workloads[uid] for uid in sorted(members) if uid in world.index.workloads
    )
    principal = world.index.waypoint_view(waypoint).identity.principal
    manifest = {
        "apiVersion": "security.istio.io/v1",
        "kind": repairs.POLICY,
        "metadata": {"name": f"only-{waypoint.name}", "namespace": record.namespace},
        "spec": {
            "selector": {"matchLabels": labels},
            "action": "ALLOW",
            "rules": [{"from": [{"source": {"principals": [principal]}}]}],
        },
    }
    return patches.create(world, manifest, f"let only waypoint {waypoint.namespace}/{waypoint.name} reach the pods", 3)


def ingress_label(world: World, evaluation: Evaluation) -> Change | None:
    """Ingress through the waypoint (A4)."""
    service = evaluation.way.target.service
    if service is None or service.record.kind != "Service":
        return None
    key = Key("Service", service.record.namespace, service.record.name)
    title = f"send ingress traffic to {evaluation.way.target.what} through its waypoint"
    return patches.label(world, key, names.INGRESS_USE_WAYPOINT, "true", title, 1)


def binding(world: World, evaluation: Evaluation) -> Iterator[Finding]:
    """A waypoint that is asked for and not there, skipped, foreign, or asked for by a label that means nothing."""
    way = evaluation.way
    service = way.target.service
    if service is not None:
        found = service.binding
        if found.reason not in (None, Reason.ACCEPTED):
            yield Finding(
                f"waypoint-{found.reason}",
                f"{found.reason}: {found.message} (fails open: layer 7 policies are not enforced)",
            )
        elif found.waypoint is not None and found.waypoint.namespace != service.record.namespace:
            text = (
                f"the waypoint is of namespace {found.waypoint.namespace}: policies for Gateway {found.waypoint.name} must be there, "
                f"policies for {way.target.what} in {service.record.namespace}, and pods see "
                f"{world.index.waypoint_view(found.waypoint).identity.principal}"
            )
            yield note("cross-namespace-waypoint", text)
            yield from _astray(world, service.record.namespace, found.waypoint)
        if found.canary is not None:
            canary = found.canary.waypoint
            yield note(
                "canary-waypoint",
                f"{found.canary.weight}% go through canary waypoint {canary.namespace}/{canary.name} instead",
            )
        yield from _unknown_label(world, service.record.namespace)
    if (
        way.detour
        and way.client.sort in (Sort.GATEWAY, Sort.SIDECAR)
        and way.waypoint is None
        and service
        and service.binding.waypoint
    ):
        yield Finding("ingress-skips-waypoint", way.detour, fix=ingress_label(world, evaluation))
    if way.target.via in (Via.POD, Via.HEADLESS) and way.waypoint is None:
        yield from _pod_address(world, evaluation)


def _astray(world: World, namespace: str, waypoint: Waypoint) -> Iterator[Finding]:
    """Policies for the waypoint's Gateway that stand beside the Service, where there is no such Gateway."""
    if world.manifest("Gateway", namespace, waypoint.name) is not None:
        return
    for policy in world.index.policies.values():
        if policy.meta.namespace == namespace and any(
            (ref.group, ref.kind, ref.name) == (GATEWAY_GROUP, "Gateway", waypoint.name) for ref in policy.target_refs
        ):
            text = f"{policy.meta} is for Gateway {waypoint.name} in {namespace}, which does not exist: nothing enforces it"
            yield Finding("policy-astray", text)


def _unknown_label(world: World, namespace: str) -> Iterator[Finding]:
    labels = world.labels("Namespace", "", namespace)
    if names.WAYPOINT_ALIAS in labels and names.USE_WAYPOINT not in labels and not world.settings.waypoint_label_alias:
        text = f"namespace {namespace} has the label {names.WAYPOINT_ALIAS}={labels[names.WAYPOINT_ALIAS]}, which means nothing here"
        key = Key("Namespace", "", namespace)
        fix = patches.label(world, key, names.USE_WAYPOINT, "waypoint", f"enrol namespace {namespace}", 1)
        yield Finding(
            "unknown-waypoint-label", f"{text}; the label that enrols is {names.USE_WAYPOINT}=<name>", fix=fix
        )


def _pod_address(world: World, evaluation: Evaluation) -> Iterator[Finding]:
    target = evaluation.way.target
    for key in _services(evaluation):
        state = world.index.services.get(key)
        if state is not None and state.binding.waypoint is not None and evaluation.way.client.in_mesh:
            record, waypoint = state.record, state.binding.waypoint
            text = (
                f"the request is addressed to {target.via.value}, so waypoint {waypoint.namespace}/{waypoint.name} of "
                f"{record.kind} {record.namespace}/{record.name} is not on the way"
            )
            name = "headless-skips-waypoint" if target.via is Via.HEADLESS else "pod-ip-skips-waypoint"
            yield Finding(name, text, fix=_no_bypass(world, evaluation) if evaluation.allowed else None)


def identities(world: World, evaluation: Evaluation) -> Iterator[Finding]:
    """Principals that can match nobody, and whom the pod sees behind a waypoint."""
    fate = evaluation.worst
    if fate is None:
        return
    asked = {
        policy.meta.key: policy for hop in fate.decision.hops for policy in repairs.policies_of(world, hop.policies)
    }
    for policy in asked.values():
        for term in (term for rule in policy.rules for term in terms(rule) if term.attribute is Attribute.PRINCIPAL):
            for value in term.values:
                if value.startswith("spiffe://"):
                    yield Finding(
                        "spiffe-scheme",
                        f"{policy.meta}: {term.path}: {value!r} matches nobody; principals are written without spiffe://",
                    )
    waypoint = fate.leg.request.waypoint
    if not fate.allowed and waypoint is not None and repairs.at_ztunnel(fate):
        client = evaluation.way.client.identity
        own = client.principal if client else "the client"
        text = f"behind the waypoint the pod sees {waypoint.identity.principal}, not {own}"
        yield note("waypoint-identity", text)
    yield from _aliases(world, evaluation, tuple(asked.values()))


def _aliases(world: World, evaluation: Evaluation, asked: tuple[AuthorizationPolicy, ...]) -> Iterator[Finding]:
    own = world.settings.trust_domain
    for policy in asked:
        if policy.target_refs:
            continue
        for term in (term for rule in policy.rules for term in terms(rule) if term.attribute is Attribute.PRINCIPAL):
            for value in term.values:
                domain = value.removeprefix("spiffe://").partition("/")[0]
                if "*" not in domain and "/" in value and domain != own:
                    known = (
                        "an alias of this mesh"
                        if domain in (*world.settings.trust_domains, "cluster.local")
                        else "another trust domain"
                    )
                    text = f"{policy.meta}: {term.path}: {domain!r} is {known}; ztunnel compares with {own!r} exactly and expands no alias"
                    yield Finding("trust-domain", text)


def methods(world: World, evaluation: Evaluation) -> Iterator[Finding]:
    """HEAD, which GET does not include."""
    nearest = evaluation.nearest
    if nearest is None or nearest.mismatch is None or nearest.mismatch.attribute != Attribute.METHOD.value:
        return
    if evaluation.ask.method == "HEAD" and "GET" in nearest.mismatch.values:
        yield note("head-is-not-get", "curl -I sends HEAD, and a method list with GET does not include HEAD")


def ports(world: World, evaluation: Evaluation) -> Iterator[Finding]:
    """portLevelMtls on a Service's port, and HTTP on a port that does not say so."""
    fate = evaluation.worst
    if fate is None:
        return
    for key, wrong in repairs.misplaced_ports(world, fate):
        for service_port, target_port in wrong:
            text = f"{key}: spec.portLevelMtls[{service_port}] names the Service's port; only the pod's port counts, which is {target_port}"
            yield Finding("port-level-mtls", text)
    target = evaluation.way.target
    if evaluation.way.waypoint is not None and target.scheme == "http" and fate.leg.request.http is None:
        text = (
            f"port {target.port} of {target.what} is not declared HTTP (name it http-…, or set appProtocol), so the waypoint passes "
            "bytes on and cannot test methods, paths or headers"
        )
        yield Finding("port-not-http", text)
