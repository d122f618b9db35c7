"""A DaemonSet's pods and templates: which nodes get one, how a pod is tied to its node, and the history of
templates.
"""

from typing import Any

import msgspec

from tulle.cluster.controllers import nodefit
from tulle.cluster.controllers.caches import Context
from tulle.cluster.controllers.pods import from_template, owner_reference
from tulle.cluster.controllers.revisions import plain, template_hash
from tulle.kube import AlreadyExists, NotFound
from tulle.kube.objects import ControllerRevision, DaemonSet, Node, Pod, Toleration
from tulle.kube.resources import CONTROLLER_REVISIONS, DAEMON_SETS

REVISION_HASH = "controller-revision-hash"
_GENERATION_LABEL = "pod-template-generation"
_DEPRECATED_GENERATION = "deprecated.daemonset.template.generation"
_DEFAULT_HISTORY = 10
_ALWAYS_TOLERATED = (
    {"key": nodefit.NOT_READY, "operator": "Exists", "effect": "NoExecute"},
    {"key": nodefit.UNREACHABLE, "operator": "Exists", "effect": "NoExecute"},
    {"key": "node.kubernetes.io/disk-pressure", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "node.kubernetes.io/memory-pressure", "operator": "Exists", "effect": "NoSchedule"},
    {"key": "node.kubernetes.io/pid-pressure", "operator": "Exists", "effect": "NoSchedule"},
    {"key": nodefit.UNSCHEDULABLE, "operator": "Exists", "effect": "NoSchedule"},
)
_HOST_NETWORK_TOLERATED = {
    "key": "node.kubernetes.io/network-unavailable",
    "operator": "Exists",
    "effect": "NoSchedule",
}


def node_of(pod: Pod) -> str:
    """The node that a daemon pod is for, placed or not yet."""
    if pod.spec.node_name:
        return pod.spec.node_name
    affinity = pod.spec.affinity.node_affinity if pod.spec.affinity else None
    for term in affinity.required.node_selector_terms if affinity and affinity.required else ():
        for requirement in term.match_fields:
            if requirement.key == "metadata.name" and requirement.operator == "In" and len(requirement.values) == 1:
                return requirement.values[0]
    return ""


def daemon_pod(ds: DaemonSet, node: str, revision: str, owner: dict[str, Any]) -> dict[str, Any]:
    """The manifest of the pod for one node."""
    body = from_template(ds.spec.template, f"{ds.metadata.name}-", ds.metadata.namespace, owner)
    labels = body["metadata"].get("labels") or {}
    generation = ds.metadata.annotations.get(_DEPRECATED_GENERATION)
    extra = {_GENERATION_LABEL: generation} if generation else {}
    body["metadata"]["labels"] = {**labels, **extra, REVISION_HASH: revision}
    spec = dict(body["spec"])
    spec["affinity"] = _tied(spec.get("affinity") or {}, node)
    spec["tolerations"] = _tolerations(spec)
    body["spec"] = spec
    return body


def _tied(affinity: dict[str, Any], node: str) -> dict[str, Any]:
    """The template's affinity, every term narrowed to the one node."""
    name = "requiredDuringSchedulingIgnoredDuringExecution"
    field = {"key": "metadata.name", "operator": "In", "values": [node]}
    node_affinity = dict(affinity.get("nodeAffinity") or {})
    terms = (node_affinity.get(name) or {}).get("nodeSelectorTerms") or [{}]
    node_affinity[name] = {"nodeSelectorTerms": [{**term, "matchFields": [field]} for term in terms]}
    return {**affinity, "nodeAffinity": node_affinity}


def _tolerations(spec: dict[str, Any]) -> list[dict[str, Any]]:
    own = list(spec.get("tolerations") or ())
    more = [*_ALWAYS_TOLERATED, *([_HOST_NETWORK_TOLERATED] if spec.get("hostNetwork") else [])]
    return own + [toleration for toleration in more if toleration not in own]


def _as_pod(ds: DaemonSet, node: Node) -> Pod:
    body = daemon_pod(ds, node.metadata.name, "", {})
    return msgspec.convert({"spec": body["spec"]}, Pod)


def should_run(ds: DaemonSet, node: Node) -> bool:
    """Whether a new pod of the set belongs on the node."""
    return _fits(ds, node, frozenset({"NoSchedule", "NoExecute"}))


def should_continue(ds: DaemonSet, node: Node) -> bool:
    """Whether a pod that is there may stay: NoSchedule taints do not drive it out."""
    return _fits(ds, node, frozenset({"NoExecute"}))


def _fits(ds: DaemonSet, node: Node, effects: frozenset[str]) -> bool:
    pod = _as_pod(ds, node)
    not_ready = Toleration(key=nodefit.NOT_READY, operator="Exists")
    unreachable = Toleration(key=nodefit.UNREACHABLE, operator="Exists")
    tolerations = (*pod.spec.tolerations, not_ready, unreachable)
    if nodefit.untolerated(nodefit.taints(node), tolerations, effects) is not None:
        return False
    return nodefit.matches_node_selection(pod, node)


class TemplateHistory:
    """The ControllerRevisions of DaemonSets."""

    def __init__(self, context: Context) -> None:
        self._client = context.client
        self._caches = context.caches

    async def current(self, ds: DaemonSet) -> str:
        """The hash of the present template, recorded as the newest revision."""
        known = self._known(ds)
        newest = max((revision.revision for revision in known), default=0)
        data = _data(ds)
        for revision in known:
            if _template(revision) == plain(ds.spec.template):
                if revision.revision < newest:
                    body = {"revision": newest + 1}
                    meta = revision.metadata
                    await self._client.patch(CONTROLLER_REVISIONS, meta.name, body, meta.namespace)
                return revision.metadata.labels[REVISION_HASH]
        suffix = template_hash(ds.spec.template, ds.status.collision_count or 0)
        await self._record(ds, suffix, newest + 1, data)
        return suffix

    def _known(self, ds: DaemonSet) -> list[ControllerRevision]:
        owned = self._caches.revisions_by_owner.owned(ds.metadata.namespace, ds.metadata.uid)
        return [one for one in owned if one.metadata.labels.get(REVISION_HASH) and _template(one)]

    async def _record(self, ds: DaemonSet, suffix: str, revision: int, data: dict[str, Any]) -> None:
        labels = (ds.spec.template.get("metadata") or {}).get("labels") or {}
        name = f"{ds.metadata.name}-{suffix}"
        body = {
            "metadata": {
                "name": name,
                "namespace": ds.metadata.namespace,
                "labels": {**labels, REVISION_HASH: suffix},
                "annotations": {
                    key: value
                    for key, value in ds.metadata.annotations.items()
                    if key != "kubectl.kubernetes.io/last-applied-configuration"
                },
                "ownerReferences": [owner_reference(DAEMON_SETS, ds)],
            },
            "data": data,
            "revision": revision,
        }
        try:
            await self._client.create(CONTROLLER_REVISIONS, body, ds.metadata.namespace)
        except AlreadyExists:
            taken = await self._client.get(CONTROLLER_REVISIONS, name, ds.metadata.namespace)
            if _template(taken) != plain(ds.spec.template):
                status = {"status": {"collisionCount": (ds.status.collision_count or 0) + 1}}
                meta = ds.metadata
                await self._client.patch(DAEMON_SETS, meta.name, status, meta.namespace, subresource="status")
                raise

    async def forget_old(self, ds: DaemonSet, current: str) -> None:
        """Keeps as many old templates as the set's history limit, and all that a pod still has."""
        keep = _DEFAULT_HISTORY if ds.spec.revision_history_limit is None else ds.spec.revision_history_limit
        pods = self._caches.pods_by_owner.owned(ds.metadata.namespace, ds.metadata.uid)
        in_use = {current, *(pod.metadata.labels.get(REVISION_HASH, "") for pod in pods)}
        old = [one for one in self._known(ds) if one.metadata.labels[REVISION_HASH] not in in_use]
        old.sort(key=lambda one: one.revision)
        for one in old[: max(0, len(old) - keep)]:
            try:
                await self._client.delete(CONTROLLER_REVISIONS, one.metadata.name, one.metadata.namespace)
            except NotFound:
                continue


def _template(revision: ControllerRevision) -> dict[str, Any]:
    """The template that a revision holds; empty if it holds something else, for its data may be any JSON."""
    try:
        template = dict(revision.data["spec"]["template"])
    except (TypeError, KeyError, ValueError):
        return {}
    return plain({key: value for key, value in template.items() if key != "$patch"})


def _data(ds: DaemonSet) -> dict[str, Any]:
    return {"spec": {"template": {**ds.spec.template, "$patch": "replace"}}}
