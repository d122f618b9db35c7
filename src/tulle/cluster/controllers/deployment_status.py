"""What a Deployment's status says: counts, Available, and whether the rollout moves (which `kubectl rollout
status` waits for).
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from tulle.cluster.controllers import conditions
from tulle.cluster.controllers.rollout import Limits
from tulle.kube.objects import Condition, Deployment, DeploymentStatus, ReplicaSet, parse_time

_DEFAULT_DEADLINE = 600
_OVER = ("NewReplicaSetAvailable", "ProgressDeadlineExceeded")


@dataclass
class Progress:
    """What this pass did about the new ReplicaSet: the name of a created or found one, else ""."""

    created: str = ""
    found: str = ""


def computed_status(
    deployment: Deployment, sets: list[ReplicaSet], new: ReplicaSet | None, limit: Limits, progress: Progress
) -> DeploymentStatus:
    """The status that follows from the ReplicaSets."""
    total = sum(rs.status.replicas for rs in sets)
    available = sum(rs.status.available_replicas for rs in sets)
    asked = sum(1 if rs.spec.replicas is None else rs.spec.replicas for rs in sets)
    status = DeploymentStatus(
        observed_generation=deployment.metadata.generation,
        replicas=total,
        updated_replicas=new.status.replicas if new else 0,
        ready_replicas=sum(rs.status.ready_replicas for rs in sets),
        available_replicas=available,
        unavailable_replicas=max(0, asked - available),
        terminating_replicas=deployment.status.terminating_replicas,
        collision_count=deployment.status.collision_count,
    )
    found = _availability(deployment.status.conditions, available >= limit.fewest_available)
    found = _replica_failure(found, sets)
    found = _progressing(deployment, status, found, sets=sets, new=new, progress=progress)
    return msgspec.structs.replace(status, conditions=found)


def is_complete(deployment: Deployment, sets: list[ReplicaSet], new: ReplicaSet) -> bool:
    """Whether every pod is of the new template, available, and no old one is left."""
    wanted = 1 if deployment.spec.replicas is None else deployment.spec.replicas
    total = sum(rs.status.replicas for rs in sets)
    seen = new.status.observed_generation >= new.metadata.generation
    return seen and wanted == new.status.replicas == new.status.available_replicas == total


def seconds_to_deadline(deployment: Deployment, status: DeploymentStatus) -> float | None:
    """When to look again whether the rollout got stuck; None when it is over or has no deadline."""
    condition = conditions.find(status.conditions, "Progressing")
    if condition is None or condition.reason in _OVER or deployment.spec.paused:
        return None
    return max(1.0, _deadline(deployment) - _seconds_since(condition))


def _availability(found: tuple[Condition, ...], enough: bool) -> tuple[Condition, ...]:
    if enough:
        message = "Deployment has minimum availability."
        return conditions.put(found, "Available", "True", "MinimumReplicasAvailable", message, with_update_time=True)
    message = "Deployment does not have minimum availability."
    return conditions.put(found, "Available", "False", "MinimumReplicasUnavailable", message, with_update_time=True)


def _replica_failure(found: tuple[Condition, ...], sets: list[ReplicaSet]) -> tuple[Condition, ...]:
    for rs in sets:
        failure = conditions.find(rs.status.conditions, "ReplicaFailure")
        if failure is not None:
            return conditions.put(
                found, "ReplicaFailure", failure.status, failure.reason, failure.message, with_update_time=True
            )
    return conditions.drop(found, "ReplicaFailure")


def _progressing(
    deployment: Deployment,
    status: DeploymentStatus,
    found: tuple[Condition, ...],
    *,
    sets: list[ReplicaSet],
    new: ReplicaSet | None,
    progress: Progress,
) -> tuple[Condition, ...]:
    before = conditions.find(found, "Progressing")
    if deployment.spec.paused:
        return _put(found, "Unknown", "DeploymentPaused", "Deployment is paused")
    if before is not None and before.reason == "DeploymentPaused":
        found = _put(found, "Unknown", "DeploymentResumed", "Deployment is resumed")
        before = conditions.find(found, "Progressing")
    if progress.created:
        return _put(found, "True", "NewReplicaSetCreated", f'Created new replica set "{progress.created}"')
    if new is None:
        return found
    name = new.metadata.name
    if is_complete(deployment, sets, new):
        return _put(found, "True", "NewReplicaSetAvailable", f'ReplicaSet "{name}" has successfully progressed.')
    if _moved(deployment.status, status):
        found = conditions.drop(found, "Progressing") if before is not None and before.status == "True" else found
        return _put(found, "True", "ReplicaSetUpdated", f'ReplicaSet "{name}" is progressing.', keep=before)
    if before is None or (before.reason == "NewReplicaSetAvailable" and f'"{name}"' not in before.message):
        return _put(found, "True", "FoundNewReplicaSet", f'Found new replica set "{name}"')
    if before.reason not in _OVER and _seconds_since(before) >= _deadline(deployment):
        return _put(found, "False", "ProgressDeadlineExceeded", f'ReplicaSet "{name}" has timed out progressing.')
    return found


def _put(
    found: tuple[Condition, ...], status: str, reason: str, message: str, keep: Condition | None = None
) -> tuple[Condition, ...]:
    result = conditions.put(found, "Progressing", status, reason, message, with_update_time=True)
    if keep is None or keep.status != status:
        return result
    since = keep.last_transition_time
    return tuple(
        msgspec.structs.replace(c, last_transition_time=since) if c.type == "Progressing" else c for c in result
    )


def _moved(old: DeploymentStatus, new: DeploymentStatus) -> bool:
    """Progress: more new pods, fewer old ones, or more of them ready or available."""
    return (
        new.updated_replicas > old.updated_replicas
        or new.replicas - new.updated_replicas < old.replicas - old.updated_replicas
        or new.ready_replicas > old.ready_replicas
        or new.available_replicas > old.available_replicas
    )


def _deadline(deployment: Deployment) -> int:
    seconds = deployment.spec.progress_deadline_seconds
    return _DEFAULT_DEADLINE if seconds is None else seconds


def _seconds_since(condition: Condition) -> float:
    text = condition.last_update_time or condition.last_transition_time
    return (datetime.now(UTC) - parse_time(text)).total_seconds() if text else 0.0
