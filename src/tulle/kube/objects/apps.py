"""apps/v1 workloads. Pod templates stay raw JSON, so that a field this package does not know is never lost on
the way to a pod.
"""
# ruff: noqa: RUF012 - msgspec copies an empty default for each instance.

from typing import Any

from tulle.kube.objects.meta import Condition, IntOrString, KubeObject, LabelSelector, Part


class RollingUpdate(Part, frozen=True, kw_only=True):
    """Numbers of pods, or percentages as text ("25%")."""

    max_surge: IntOrString | None = None
    max_unavailable: IntOrString | None = None


class Strategy(Part, frozen=True, kw_only=True):
    """``type``: RollingUpdate, Recreate (Deployment) or OnDelete (DaemonSet)."""

    type: str = "RollingUpdate"
    rolling_update: RollingUpdate | None = None


class DeploymentSpec(Part, frozen=True, kw_only=True):
    replicas: int | None = None
    selector: LabelSelector = LabelSelector()
    template: dict[str, Any] = {}
    strategy: Strategy = Strategy()
    min_ready_seconds: int = 0
    revision_history_limit: int | None = None
    paused: bool = False
    progress_deadline_seconds: int | None = None


class DeploymentStatus(Part, frozen=True, kw_only=True):
    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    unavailable_replicas: int = 0
    terminating_replicas: int | None = None
    collision_count: int | None = None
    conditions: tuple[Condition, ...] = ()


class Deployment(KubeObject, frozen=True, kw_only=True):
    """apps/v1 Deployment."""

    spec: DeploymentSpec = DeploymentSpec()
    status: DeploymentStatus = DeploymentStatus()


class ReplicaSetSpec(Part, frozen=True, kw_only=True):
    replicas: int | None = None
    selector: LabelSelector = LabelSelector()
    template: dict[str, Any] = {}
    min_ready_seconds: int = 0


class ReplicaSetStatus(Part, frozen=True, kw_only=True):
    observed_generation: int = 0
    replicas: int = 0
    fully_labeled_replicas: int = 0
    ready_replicas: int = 0
    available_replicas: int = 0
    terminating_replicas: int | None = None
    conditions: tuple[Condition, ...] = ()


class ReplicaSet(KubeObject, frozen=True, kw_only=True):
    """apps/v1 ReplicaSet."""

    spec: ReplicaSetSpec = ReplicaSetSpec()
    status: ReplicaSetStatus = ReplicaSetStatus()


class DaemonSetSpec(Part, frozen=True, kw_only=True):
    selector: LabelSelector = LabelSelector()
    template: dict[str, Any] = {}
    update_strategy: Strategy = Strategy()
    min_ready_seconds: int = 0
    revision_history_limit: int | None = None


class DaemonSetStatus(Part, frozen=True, kw_only=True):
    observed_generation: int = 0
    current_number_scheduled: int = 0
    number_misscheduled: int = 0
    desired_number_scheduled: int = 0
    number_ready: int = 0
    updated_number_scheduled: int = 0
    number_available: int = 0
    number_unavailable: int = 0
    collision_count: int | None = None
    conditions: tuple[Condition, ...] = ()


class DaemonSet(KubeObject, frozen=True, kw_only=True):
    """apps/v1 DaemonSet."""

    spec: DaemonSetSpec = DaemonSetSpec()
    status: DaemonSetStatus = DaemonSetStatus()


class ControllerRevision(KubeObject, frozen=True, kw_only=True):
    """apps/v1 ControllerRevision: one past pod template of a DaemonSet, which `kubectl rollout undo` reads."""

    data: Any = None
    revision: int = 0
