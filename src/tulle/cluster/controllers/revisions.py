"""Names and numbers of a Deployment's ReplicaSets: the template hash, equality of templates, revision annotations."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tulle.cluster.controllers.pods import template_labels
from tulle.kube.objects import Deployment, ReplicaSet

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
REVISION_HISTORY = "deployment.kubernetes.io/revision-history"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MAX_REPLICAS = "deployment.kubernetes.io/max-replicas"

_OWN_ANNOTATIONS = frozenset(
    {REVISION, REVISION_HISTORY, DESIRED, MAX_REPLICAS, "kubectl.kubernetes.io/last-applied-configuration"}
)
# Anybody may write annotations: what int() refuses, thousands of digits among it, must not end the controller.
_NUMBER = re.compile(r"[0-9]{1,18}")
# The alphabet of names that no one can misread or curse with.
_SAFE = "bcdfghjklmnpqrstvwxz2456789"


def plain(template: Mapping[str, Any]) -> dict[str, Any]:
    """A template without its hash label and without the nulls that clients send: the form in which two are compared."""
    cleaned = _without_nulls(template)
    metadata = cleaned.get("metadata") or {}
    labels = {key: value for key, value in (metadata.get("labels") or {}).items() if key != HASH_LABEL}
    return {**cleaned, "metadata": {**metadata, "labels": labels}}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value


def template_hash(template: Mapping[str, Any], collisions: int = 0) -> str:
    """The name suffix of a template; ``collisions`` varies it when a name is taken by another template."""
    text = msgspec.json.encode(plain(template), order="deterministic")
    value = 0x811C9DC5
    for byte in text + (str(collisions).encode() if collisions else b""):
        value = ((value * 0x01000193) & 0xFFFFFFFF) ^ byte
    return "".join(_SAFE[ord(digit) % len(_SAFE)] for digit in str(value))


def same_template(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two templates make equal pods."""
    return plain(one) == plain(other)


def find_new(deployment: Deployment, sets: Sequence[ReplicaSet]) -> ReplicaSet | None:
    """The set of the present template; the oldest, if several have it."""
    fitting = [rs for rs in sets if same_template(rs.spec.template, deployment.spec.template)]
    return min(fitting, key=lambda rs: (rs.metadata.creation_timestamp, rs.metadata.name), default=None)


def revision_of(rs: ReplicaSet | Deployment) -> int:
    """The revision number in the annotations; 0 when absent or not a number."""
    text = rs.metadata.annotations.get(REVISION, "0")
    return int(text) if _NUMBER.fullmatch(text) else 0


def annotation_number(rs: ReplicaSet, name: str) -> int | None:
    """A numeric annotation."""
    text = rs.metadata.annotations.get(name, "")
    return int(text) if _NUMBER.fullmatch(text) else None


def inherited_annotations(deployment: Deployment) -> dict[str, str]:
    """The annotations that a ReplicaSet takes over (the change cause among them)."""
    return {key: value for key, value in deployment.metadata.annotations.items() if key not in _OWN_ANNOTATIONS}


def set_annotations(
    deployment: Deployment, rs: ReplicaSet | None, revision: int, desired: int, most: int
) -> dict[str, str]:
    """All annotations of the new set. A set that is used again keeps its earlier revisions in the history."""
    wanted = {**(rs.metadata.annotations if rs else {}), **inherited_annotations(deployment)}
    before = rs.metadata.annotations.get(REVISION, "") if rs else ""
    if before and before != str(revision):
        history = [part for part in wanted.get(REVISION_HISTORY, "").split(",") if part]
        wanted[REVISION_HISTORY] = ",".join([*history, before])
    return {**wanted, REVISION: str(revision), DESIRED: str(desired), MAX_REPLICAS: str(most)}


def manifest(
    deployment: Deployment, suffix: str, replicas: int, annotations: dict[str, str], owner: dict[str, Any]
) -> dict[str, Any]:
    """The new ReplicaSet of the present template."""
    template = _without_nulls(deployment.spec.template)
    labels = {**template_labels(template), HASH_LABEL: suffix}
    selector = msgspec.to_builtins(deployment.spec.selector)
    selector["matchLabels"] = {**selector.get("matchLabels", {}), HASH_LABEL: suffix}
    return {
        "metadata": {
            "name": f"{deployment.metadata.name}-{suffix}",
            "namespace": deployment.metadata.namespace,
            "labels": labels,
            "annotations": annotations,
            "ownerReferences": [owner],
        },
        "spec": {
            "replicas": replicas,
            "minReadySeconds": deployment.spec.min_ready_seconds,
            "selector": selector,
            "template": {**template, "metadata": {**(template.get("metadata") or {}), "labels": labels}},
        },
    }
