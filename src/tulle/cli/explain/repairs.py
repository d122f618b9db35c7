"""One step towards letting a denied request pass: the changes worth trying, cheapest first in spirit.

Each repair looks at the hop that denied and at nothing else; `changes` strings them together and tries them. Costs weigh how much is
opened and how much is written: correcting a value costs less than adding one, an exemption less than removing a rule, and dropping a
restriction that the author wrote is dearer than deploying a waypoint that can enforce it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tulle.cli.explain import patches
from tulle.cli.explain.documents import Key
from tulle.cli.explain.evaluate import Evaluation, Fate
from tulle.cli.explain.patches import Change, Operation
from tulle.cli.explain.places import Sort, Target, Via, capture_of
from tulle.cli.explain.world import World
from tulle.cni.enrolment import Reason
from tulle.istiod.index import labels as names
from tulle.istiod.index.state import WorkloadState
from tulle.istiod.index.waypoints import namespace_reference
from tulle.security.evaluation import Mismatch, PolicyTrace
from tulle.security.identity import Identity
from tulle.security.lifting import qualify
from tulle.security.model import Action, AuthorizationPolicy, labels_match
from tulle.security.reduction import Place, reduce_policy, uses_http

POLICY = "AuthorizationPolicy"
PEER = "PeerAuthentication"
TEMPLATE_HASH = "pod-template-hash"


def repairs(world: World, evaluation: Evaluation) -> Iterator[Change]:
    """What may bring a denied request forward."""
    fate = evaluation.worst
    if fate is None or fate.allowed:
        return
    if evaluation.way.client.identity is None:
        yield from _plaintext(world, evaluation, fate)
    denying = fate.hop.decided_by
    matched = next((one for one in fate.hop.policies if one.matched and one.meta == denying), None)
    if matched is not None and matched.action == Action.DENY.value:
        yield from _denied(world, fate, matched)
        return
    if matched is not None and matched.action == Action.CUSTOM.value:
        return
    for trace in fate.hop.policies:
        if trace.action == Action.ALLOW.value:
            yield from _not_allowed(world, evaluation, fate, trace)
    if any(one.action == Action.ALLOW.value for one in fate.hop.policies):
        yield from _new_allow(world, evaluation, fate)


def seen_identity(fate: Fate) -> Identity | None:
    """Whom the hop that decided saw."""
    waypoint = fate.leg.request.waypoint
    return waypoint.identity if waypoint is not None and at_ztunnel(fate) else fate.leg.request.client


def at_ztunnel(fate: Fate) -> bool:
    return fate.hop.where.startswith("ztunnel of ")


def shared_labels(states: Iterable[WorkloadState]) -> dict[str, str]:
    """The labels that all of some workloads have, to select them and no others that need not be."""
    every = [state.record.labels.items() for state in states]
    return {
        key: value
        for key, value in (every[0] if every else ())
        if key != TEMPLATE_HASH and all((key, value) in one for one in every)
    }


# --- a client without identity


def _plaintext(world: World, evaluation: Evaluation, fate: Fate) -> Iterator[Change]:
    yield from enrol_client(world, evaluation)
    record = fate.leg.endpoint.state.record
    for document, ports in misplaced_ports(world, fate):
        for wrong, right in ports:
            yield rename_port(world, document, wrong, right)
    port = fate.leg.endpoint.port
    own = next(iter(_own_peer_authentications(world, fate)), None)
    target = evaluation.way.target
    pods = f"the pods of {target.what}" if target.service is not None else target.what
    title = f"accept plaintext on port {port} of {pods} only"
    if own is not None:
        spec = world.objects[own].manifest.get("spec") or {}
        entry: Any = {"mode": "PERMISSIVE"}
        if spec.get("portLevelMtls"):
            operation = Operation("add", f"/spec/portLevelMtls/{port}", entry)
        else:
            operation = Operation("add", "/spec/portLevelMtls", {str(port): entry})
        yield patches.patch(world, own, [operation], title, 4)
        return
    if labels := shared_labels(one.leg.endpoint.state for one in evaluation.denied):
        yield patches.create(
            world,
            {
                "apiVersion": "security.istio.io/v1",
                "kind": PEER,
                "metadata": {"name": f"plaintext-{port}", "namespace": record.namespace},
                "spec": {
                    "selector": {"matchLabels": labels},
                    "mtls": {"mode": "STRICT"},
                    "portLevelMtls": {str(port): {"mode": "PERMISSIVE"}},
                },
            },
            title,
            4,
        )


def enrol_client(world: World, evaluation: Evaluation) -> Iterator[Change]:
    """The client into the mesh, if it is a pod that can be captured."""
    client = evaluation.way.client
    if client.pod is None or client.sort is not Sort.PLAIN:
        return
    record = client.pod.record
    reason = capture_of(world, client.pod).reason
    if reason is Reason.NOT_LABELLED:
        title = f"bring namespace {record.namespace} into the mesh"
        yield patches.label(world, Key("Namespace", "", record.namespace), names.DATAPLANE_MODE, "ambient", title, 2)
    elif reason is Reason.POD_OPTED_OUT:
        title = f"bring {client.what} into the mesh"
        key = Key("Pod", record.namespace, record.name)
        yield patches.label(world, key, names.DATAPLANE_MODE, "ambient", title, 2)


def _own_peer_authentications(world: World, fate: Fate) -> Iterator[Key]:
    """PeerAuthentications that select the workload, the one in force first."""
    record = fate.leg.endpoint.state.record
    found = [
        one
        for one in world.index.peer_authentications.values()
        if one.selector and one.meta.namespace == record.namespace and labels_match(one.selector, record.labels)
    ]
    for one in sorted(found, key=lambda one: (one.meta.creation, one.meta.name)):
        yield Key(PEER, one.meta.namespace, one.meta.name)


def misplaced_ports(world: World, fate: Fate) -> Iterator[tuple[Key, list[tuple[int, int]]]]:
    """portLevelMtls entries that name a Service's port where only the pod's target port counts (B3), with the port that was meant."""
    state = fate.leg.endpoint.state
    mapping = {port.service_port: port.target_port for service in state.services for port in service.ports}
    targets = set(mapping.values())
    for key in _own_peer_authentications(world, fate):
        policy = world.index.peer_authentications[key.namespace, key.name]
        wrong = [(port, mapping[port]) for port, _ in policy.ports if port in mapping and port not in targets]
        if wrong:
            yield key, wrong


def rename_port(world: World, key: Key, wrong: int, right: int) -> Change:
    """Move a portLevelMtls entry to the port that was meant."""
    value = world.objects[key].manifest["spec"]["portLevelMtls"][str(wrong)]
    title = f"name the target port {right} instead of the Service's port {wrong} in {key}"
    operations = [
        Operation("add", f"/spec/portLevelMtls/{right}", value),
        Operation("remove", f"/spec/portLevelMtls/{wrong}"),
    ]
    return patches.patch(world, key, operations, title, 1)


# --- a DENY that matches


def _denied(world: World, fate: Fate, trace: PolicyTrace) -> Iterator[Change]:
    key = Key(POLICY, trace.meta.namespace, trace.meta.name)
    if key not in world.objects or not trace.rule:
        return
    identity = seen_identity(fate)
    index = int(trace.rule.rpartition("[")[2].rstrip("]"))
    rules = world.objects[key].manifest["spec"]["rules"]
    if identity is not None:
        waypoint = identity != fate.leg.request.client
        title = f"exempt {identity.principal} from {trace.rule} of {key}"
        yield patches.patch(
            world, key, list(_exempt(rules[index], index, identity.principal)), title, 6 if waypoint else 3
        )
    if len(rules) > 1:
        yield patches.patch(
            world, key, [Operation("remove", f"/spec/rules/{index}")], f"remove {trace.rule} of {key}", 7
        )
    else:
        yield patches.delete(key, 7)


def _exempt(rule: Mapping[str, Any], index: int, principal: str) -> Iterator[Operation]:
    if not rule.get("from"):
        yield Operation("add", f"/spec/rules/{index}/from", [{"source": {"notPrincipals": [principal]}}])
        return
    for position, entry in enumerate(rule["from"]):
        path = f"/spec/rules/{index}/from/{position}/source/notPrincipals"
        if entry["source"].get("notPrincipals"):
            yield Operation("add", f"{path}/-", principal)
        else:
            yield Operation("add", path, [principal])


# --- ALLOW policies, none of which allows


def _not_allowed(world: World, evaluation: Evaluation, fate: Fate, trace: PolicyTrace) -> Iterator[Change]:
    key = Key(POLICY, trace.meta.namespace, trace.meta.name)
    policy = world.index.policies.get((key.namespace, key.name))
    if key not in world.objects or policy is None:
        return
    if trace.mismatch is not None:
        yield from _mended(world, key, trace.mismatch)
    if not at_ztunnel(fate):
        return
    if uses_http(policy) and not policy.target_refs:
        yield from to_waypoint(world, evaluation, policy)
        yield from _without_http(world, key, policy)
    waypoint = fate.leg.request.waypoint
    if waypoint is not None:
        rule = {"from": [{"source": {"principals": [waypoint.identity.principal]}}]}
        title = f"let the waypoint in by {key}, as the pod sees its identity and not the client's"
        operation = _added_rule(world.objects[key].manifest, rule)
        # Without an ALLOW policy of its own the waypoint would let in everybody.
        guarded = any(one.action == Action.ALLOW.value for one in fate.decision.hops[0].policies)
        yield patches.patch(world, key, [operation], title, 4 if guarded else 9)


def _added_rule(manifest: Mapping[str, Any], rule: Mapping[str, Any]) -> Operation:
    spec = manifest.get("spec")
    if not spec:
        return Operation("add", "/spec", {"rules": [rule]})
    return Operation("add", "/spec/rules/-", rule) if spec.get("rules") else Operation("add", "/spec/rules", [rule])


def _mended(world: World, key: Key, mismatch: Mismatch) -> Iterator[Change]:
    """The list that failed, with the value that was found in it (or out of it)."""
    if not mismatch.found:
        return
    found = mismatch.found[0]
    base = patches.pointer(mismatch.path)
    values = list(patches.at(world.objects[key].manifest, base) or ())
    field = mismatch.path.rpartition(".")[2]
    if not mismatch.negated:
        for position, value in enumerate(values):
            if _meant(value, found):
                title = f"write {found!r} instead of {value!r} in {field} of {key}"
                yield patches.patch(world, key, [Operation("replace", f"{base}/{position}", found)], title, 1)
        yield patches.patch(
            world,
            key,
            [Operation("add", f"{base}/-", found)],
            f"add {found!r} to {field} of {key} ({mismatch.path})",
            2,
        )
    elif found in values and len(values) > 1:
        operation = Operation("remove", f"{base}/{values.index(found)}")
        yield patches.patch(world, key, [operation], f"take {found!r} out of {field} of {key}", 3)
    else:
        yield patches.patch(world, key, [Operation("remove", base)], f"take {field} out of {key} ({mismatch.path})", 5)


def _meant(value: object, found: str) -> bool:
    """Whether a principal was meant for the client that it misses: written with its scheme, or with another trust domain."""
    if not isinstance(value, str):
        return False
    bare = value.removeprefix("spiffe://")
    return value != found and bare.partition("/")[2] == found.partition("/")[2] != "" and "/ns/" in found


def _without_http(world: World, key: Key, policy: AuthorizationPolicy) -> Iterator[Change]:
    dropped = reduce_policy(policy, Place.ZTUNNEL).dropped
    paths = [patches.pointer(item.path) for item in dropped]
    tops = list(dict.fromkeys("/".join(path.split("/")[:5]) for path in paths if path.split("/")[4:5] == ["to"]))
    if len(tops) == 0 or len(paths) != sum("/to/" in path for path in paths):
        return
    operations = [Operation("remove", top) for top in tops]
    fields = ", ".join(dict.fromkeys(item.field for item in dropped))
    yield patches.patch(world, key, operations, f"drop {fields} from {key}, which ztunnel cannot test", 14)


def to_waypoint(world: World, evaluation: Evaluation, policy: AuthorizationPolicy) -> Iterator[Change]:
    """A selector policy to a waypoint, where its HTTP fields can be tested: attached by targetRefs, the waypoint deployed if need be."""
    target = evaluation.way.target
    if (
        target.service is None
        or target.via is not Via.SERVICE
        or target.service.record.namespace != policy.meta.namespace
    ):
        return
    if evaluation.way.waypoint is None:
        yield from enrol_service(world, evaluation)
        return
    if world.settings.lift_selector_policies and qualify(policy).qualifies:
        return
    yield retarget(world, Key(POLICY, policy.meta.namespace, policy.meta.name), target)


def retarget(world: World, key: Key, target: Target) -> Change:
    """A policy from its selector to the Service that is asked for. Raises LookupError when none is."""
    if target.service is None:
        raise LookupError(f"{target.what} is no Service")
    record = target.service.record
    group = "" if record.kind == "Service" else "networking.istio.io"
    reference = [{"group": group, "kind": record.kind, "name": record.name}]
    operations = [Operation("add", "/spec/targetRefs", reference)]
    if "selector" in world.objects[key].manifest["spec"]:
        operations.insert(0, Operation("remove", "/spec/selector"))
    title = f"attach {key} to {target.what} by targetRefs, so that the waypoint enforces it"
    return patches.patch(world, key, operations, title, 3)


def enrol_service(world: World, evaluation: Evaluation) -> Iterator[Change]:
    """A waypoint in front of the Service that is asked for."""
    service = evaluation.way.target.service
    if service is None or not evaluation.way.client.in_mesh or service.binding.waypoint is not None:
        return
    namespace = service.record.namespace
    found = namespace_reference(world.index.tables.namespaces.get(namespace), world.settings.waypoint_label_alias)
    wanted = (found.namespace, found.name) if found and not found.opt_out else (namespace, "waypoint")
    known = world.index.waypoints.get(wanted)
    change = None if known is not None and known.ready else patches.waypoint(*wanted)
    if found is None:
        key = Key("Namespace", "", namespace)
        title = f"let namespace {namespace} use waypoint {'/'.join(wanted)}"
        labelled = patches.label(world, key, names.USE_WAYPOINT, wanted[1], title, 1)
        change = labelled if change is None else change.then(labelled)
    if change is not None:
        yield change


def _new_allow(world: World, evaluation: Evaluation, fate: Fate) -> Iterator[Change]:
    identity = seen_identity(fate)
    if identity is None:
        return
    record = fate.leg.endpoint.state.record
    service = evaluation.way.target.service
    spec: dict[str, Any] = {}
    if at_ztunnel(fate):
        if labels := shared_labels(one.leg.endpoint.state for one in evaluation.denied):
            spec["selector"] = {"matchLabels": labels}
        namespace = record.namespace
    elif service is not None and service.record.kind == "Service":
        namespace = service.record.namespace
        spec["targetRefs"] = [{"group": "", "kind": "Service", "name": service.record.name}]
    else:
        return
    spec |= {"action": "ALLOW", "rules": [{"from": [{"source": {"principals": [identity.principal]}}]}]}
    manifest = {
        "apiVersion": "security.istio.io/v1",
        "kind": POLICY,
        "metadata": {"name": f"allow-{identity.namespace}-{identity.service_account}", "namespace": namespace},
        "spec": spec,
    }
    restricted = any(uses_http(policy) for policy in policies_of(world, fate.hop.policies))
    yield patches.create(world, manifest, f"allow {identity.principal}", 12 if restricted else 5)


def policies_of(world: World, traces: Sequence[PolicyTrace]) -> Iterator[AuthorizationPolicy]:
    """The policies that were asked, as they were written."""
    for trace in traces:
        policy = world.index.policies.get((trace.meta.namespace, trace.meta.name))
        if policy is not None:
            yield policy
