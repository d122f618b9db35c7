"""Required affinity and anti-affinity between pods, by the topology of their nodes."""

from collections.abc import Mapping

from tulle.kube.objects import Node, Pod
from tulle.kube.objects.pod import PodAffinityTerm
from tulle.kube.selectors import matches

Placed = list[tuple[Pod, Node]]
Namespaces = Mapping[str, Mapping[str, str]]


def affinity_refusal(pod: Pod, node: Node, placed: Placed, namespaces: Namespaces) -> list[str]:
    """Why the pod may not join those already placed; empty when it may. ``namespaces``: labels by namespace."""

    def selects(term: PodAffinityTerm, owner: Pod, candidate: Pod) -> bool:
        return term_selects(term, owner, candidate, namespaces)

    affinity = pod.spec.affinity
    anti = affinity.pod_anti_affinity.required if affinity and affinity.pod_anti_affinity else ()
    for term in anti:
        if any(_near(term, node, other) and selects(term, pod, there) for there, other in placed):
            return ["node(s) didn't match pod anti-affinity rules"]
    for there, other in placed:
        theirs = there.spec.affinity.pod_anti_affinity if there.spec.affinity else None
        for term in theirs.required if theirs else ():
            if _near(term, node, other) and selects(term, there, pod):
                return ["node(s) didn't satisfy existing pods anti-affinity rules"]
    for term in affinity.pod_affinity.required if affinity and affinity.pod_affinity else ():
        fitting = [other for there, other in placed if selects(term, pod, there)]
        # The first of a group that is attracted to itself may go anywhere.
        alone = not fitting and selects(term, pod, pod)
        if not alone and not any(_near(term, node, other) for other in fitting):
            return ["node(s) didn't match pod affinity rules"]
    return []


def _near(term: PodAffinityTerm, one: Node, other: Node) -> bool:
    value = one.metadata.labels.get(term.topology_key)
    return value is not None and value == other.metadata.labels.get(term.topology_key)


def term_selects(term: PodAffinityTerm, owner: Pod, candidate: Pod, namespaces: Namespaces) -> bool:
    """Whether ``candidate`` is meant by a term of ``owner``.

    No label selector means nobody; neither namespaces nor a namespace selector means the owner's own namespace.
    """
    if term.label_selector is None or not matches(term.label_selector, candidate.metadata.labels):
        return False
    where = candidate.metadata.namespace
    if where in term.namespaces:
        return True
    if term.namespace_selector is not None:
        return matches(term.namespace_selector, namespaces.get(where, {}))
    return not term.namespaces and where == owner.metadata.namespace
