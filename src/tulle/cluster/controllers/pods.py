"""What controllers ask about pods, and how pods are made from a template."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from tulle.kube import ApiError, Resource
from tulle.kube.objects import KubeObject, Pod, parse_time


def is_active(pod: Pod) -> bool:
    """Neither finished nor being deleted."""
    return pod.status.phase not in ("Succeeded", "Failed") and not pod.metadata.deletion_timestamp


def condition_status(pod: Pod, type_: str) -> str:
    """The status of one condition; "" when absent."""
    return next((c.status for c in pod.status.conditions if c.type == type_), "")


def is_ready(pod: Pod) -> bool:
    """Whether the Ready condition is True."""
    return condition_status(pod, "Ready") == "True"


def ready_since(pod: Pod) -> datetime | None:
    """When the pod became ready; None if it is not."""
    for condition in pod.status.conditions:
        if condition.type == "Ready" and condition.status == "True":
            text = condition.last_transition_time
            return parse_time(text) if text else datetime.fromtimestamp(0, UTC)
    return None


def available_in(pod: Pod, min_ready_seconds: int, now: datetime) -> float | None:
    """Seconds until the pod counts as available: 0 when it does, None while it is not ready."""
    since = ready_since(pod)
    if since is None:
        return None
    if min_ready_seconds == 0:
        return 0.0
    return max(0.0, (since + timedelta(seconds=min_ready_seconds) - now).total_seconds())


def owner_reference(res: Resource[Any], owner: KubeObject) -> dict[str, Any]:
    """The reference by which ``owner`` controls an object."""
    return {
        "apiVersion": res.api_version,
        "kind": res.kind,
        "name": owner.metadata.name,
        "uid": owner.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def from_template(template: Mapping[str, Any], prefix: str, namespace: str, owner: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a new pod with a generated name."""
    meta = template.get("metadata") or {}
    metadata: dict[str, Any] = {"generateName": prefix, "namespace": namespace, "ownerReferences": [owner]}
    for field in ("labels", "annotations", "finalizers"):
        if meta.get(field):
            metadata[field] = meta[field]
    return {"metadata": metadata, "spec": template.get("spec") or {}}


def template_labels(template: Mapping[str, Any]) -> dict[str, str]:
    """The labels that pods of a template get."""
    labels: dict[str, str] = (template.get("metadata") or {}).get("labels") or {}
    return labels


def namespace_is_ending(error: ApiError) -> bool:
    """Whether a creation was refused because the namespace is being deleted: then there is nothing to retry."""
    causes = error.details.get("causes") or ()
    return error.code == 403 and (
        any(cause.get("reason") == "NamespaceTerminating" for cause in causes)
        or "because it is being terminated" in error.message
    )
