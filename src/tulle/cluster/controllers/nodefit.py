"""Whether a pod may run on a node, and how much it would like to: pure functions for the scheduler and for DaemonSets.

Each refusal is a reason in the words of the real scheduler, since `kubectl describe pod` shows them.
"""

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal, InvalidOperation

from tulle.kube.objects import LabelSelectorRequirement, Node, Pod, Taint, Toleration
from tulle.kube.objects.pod import NodeSelectorTerm
from tulle.kube.selectors import matches_labels, matches_requirement

NOT_READY = "node.kubernetes.io/not-ready"
UNREACHABLE = "node.kubernetes.io/unreachable"
UNSCHEDULABLE = "node.kubernetes.io/unschedulable"

_QUANTITY = re.compile(r"(?P<number>[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?)(?P<unit>[A-Za-z]*)")
_LARGEST = Decimal(2**63 - 1)
_UNITS = {
    "n": Decimal("1e-9"),
    "u": Decimal("1e-6"),
    "m": Decimal("1e-3"),
    "": Decimal(1),
    "k": Decimal(10**3),
    "M": Decimal(10**6),
    "G": Decimal(10**9),
    "T": Decimal(10**12),
    "P": Decimal(10**15),
    "E": Decimal(10**18),
    "Ki": Decimal(2**10),
    "Mi": Decimal(2**20),
    "Gi": Decimal(2**30),
    "Ti": Decimal(2**40),
    "Pi": Decimal(2**50),
    "Ei": Decimal(2**60),
}


def quantity(value: float | str) -> Decimal:
    """A resource quantity in its base unit (cores, bytes, pieces). Raises ValueError."""
    found = _QUANTITY.fullmatch(str(value))
    if found is None or found["unit"] not in _UNITS:
        raise ValueError(f"{value!r} is not a quantity such as 100m, 2 or 128Mi")
    return _bounded(found["number"]) * _UNITS[found["unit"]]


def _bounded(number: str) -> Decimal:
    """At most what an int64 holds, as the API has it: more would not fit a node, and far more not the arithmetic."""
    try:
        return min(Decimal(number), _LARGEST)
    except InvalidOperation:
        return Decimal(0) if "e-" in number.lower() else _LARGEST


def is_ready(node: Node) -> bool:
    """Whether the node's Ready condition is True."""
    return any(c.type == "Ready" and c.status == "True" for c in node.status.conditions)


def taints(node: Node) -> tuple[Taint, ...]:
    """The node's taints, and those that its state means even before a controller wrote them down."""
    found = list(node.spec.taints)
    keys = {taint.key for taint in found}
    if not is_ready(node) and not keys & {NOT_READY, UNREACHABLE}:
        found.append(Taint(key=NOT_READY, effect="NoSchedule"))
    if node.spec.unschedulable and UNSCHEDULABLE not in keys:
        found.append(Taint(key=UNSCHEDULABLE, effect="NoSchedule"))
    return tuple(found)


def tolerates(toleration: Toleration, taint: Taint) -> bool:
    """core/v1 Toleration: an empty effect or key fits all; Exists ignores the value."""
    if toleration.effect and toleration.effect != taint.effect:
        return False
    if toleration.key and toleration.key != taint.key:
        return False
    if toleration.operator == "Exists":
        return True
    return bool(toleration.key) and toleration.operator in ("", "Equal") and toleration.value == taint.value


def untolerated(
    node_taints: Iterable[Taint], tolerations: Iterable[Toleration], effects: frozenset[str]
) -> Taint | None:
    """The first taint of the given effects that no toleration covers."""
    accepted = tuple(tolerations)
    for taint in node_taints:
        if taint.effect in effects and not any(tolerates(one, taint) for one in accepted):
            return taint
    return None


def matches_term(term: NodeSelectorTerm, node: Node) -> bool:
    """One term of a node selector; an empty term matches nothing."""
    if not term.match_expressions and not term.match_fields:
        return False
    fields = {"metadata.name": node.metadata.name}
    return _all(term.match_expressions, node.metadata.labels) and _all(term.match_fields, fields)


def _all(requirements: Iterable[LabelSelectorRequirement], values: Mapping[str, str]) -> bool:
    return all(matches_requirement(requirement, values) for requirement in requirements)


def matches_node_selection(pod: Pod, node: Node) -> bool:
    """The pod's nodeSelector and required node affinity."""
    if not matches_labels(pod.spec.node_selector, node.metadata.labels):
        return False
    affinity = pod.spec.affinity.node_affinity if pod.spec.affinity else None
    if affinity is None or affinity.required is None:
        return True
    return any(matches_term(term, node) for term in affinity.required.node_selector_terms)


def preference(pod: Pod, node: Node) -> int:
    """The summed weights of the preferred node affinity terms that the node matches."""
    affinity = pod.spec.affinity.node_affinity if pod.spec.affinity else None
    if affinity is None:
        return 0
    return sum(term.weight for term in affinity.preferred if matches_term(term.preference, node))


def requests(pod: Pod) -> dict[str, Decimal]:
    """What the pod asks of a node: containers and sidecars together, or the largest init container if that is more."""
    total: dict[str, Decimal] = {}
    for container in pod.spec.containers:
        _add(total, container.resources.requests)
    largest: dict[str, Decimal] = {}
    for container in pod.spec.init_containers:
        if container.restart_policy == "Always":
            _add(total, container.resources.requests)
            continue
        for name, value in container.resources.requests.items():
            largest[name] = max(largest.get(name, Decimal(0)), quantity(value))
    return {name: max(total.get(name, Decimal(0)), largest.get(name, Decimal(0))) for name in {*total, *largest}}


def _add(total: dict[str, Decimal], more: Mapping[str, int | float | str]) -> None:
    for name, value in more.items():
        total[name] = total.get(name, Decimal(0)) + quantity(value)


def host_ports(pod: Pod) -> set[tuple[str, str, int]]:
    """(address, protocol, port) of every host port, those of a host network pod included."""
    found = set()
    for container in pod.spec.containers:
        for port in container.ports:
            number = port.host_port or (port.container_port if pod.spec.host_network else 0)
            if number:
                found.add((port.host_ip or "0.0.0.0", port.protocol, number))  # noqa: S104 - the API's word for "any"
    return found


def ports_conflict(pod: Pod, others: Iterable[Pod]) -> bool:
    """Whether a host port that the pod wants is taken on its address, or on any."""
    wanted = host_ports(pod)
    if not wanted:
        return False
    any_address = "0.0.0.0"  # noqa: S104 - compared, never bound
    for other in others:
        for address, protocol, port in host_ports(other):
            for own_address, own_protocol, own_port in wanted:
                same = address == own_address or any_address in (address, own_address)
                if same and (protocol, port) == (own_protocol, own_port):
                    return True
    return False


def refusals(pod: Pod, node: Node, others: list[Pod]) -> list[str]:
    """Why the pod may not run on the node beside ``others``; empty when it may."""
    taint = untolerated(taints(node), pod.spec.tolerations, frozenset({"NoSchedule", "NoExecute"}))
    if taint is not None:
        if taint.key == UNSCHEDULABLE:
            return ["node(s) were unschedulable"]
        return [f"node(s) had untolerated taint {{{taint.key}: {taint.value}}}"]
    if not matches_node_selection(pod, node):
        return ["node(s) didn't match Pod's node affinity/selector"]
    if ports_conflict(pod, others):
        return ["node(s) didn't have free ports for the requested pod ports"]
    return _insufficient(pod, node, others)


def _insufficient(pod: Pod, node: Node, others: list[Pod]) -> list[str]:
    room = node.status.allocatable or node.status.capacity
    reasons = []
    if "pods" in room and len(others) + 1 > quantity(room["pods"]):
        reasons.append("Too many pods")
    wanted = {name: value for name, value in requests(pod).items() if value > 0}
    if not wanted:
        return reasons
    used = [requests(other) for other in others]
    for name, value in sorted(wanted.items()):
        taken = sum((one.get(name, Decimal(0)) for one in used), Decimal(0))
        if taken + value > quantity(room.get(name, 0)):
            reasons.append(f"Insufficient {name}")
    return reasons
