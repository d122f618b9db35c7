"""What the engine needs to know of the mesh around a policy.

The index that watches the cluster is elsewhere; it hands over these small frozen views. A view holds facts only (labels,
which waypoints are ready), never a policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .identity import Identity


@dataclass(frozen=True, slots=True)
class WaypointView:
    """A ready waypoint and the identity with which it reaches pods (A5)."""

    namespace: str
    name: str
    gateway_class: str
    identity: Identity

    @property
    def key(self) -> str:
        """``namespace/name`` of the Gateway."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class WorkloadView:
    """A workload, with the ready waypoints through which it, or a Service that selects it, is reached."""

    namespace: str
    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    service_account: str = "default"
    waypoints: tuple[WaypointView, ...] = ()


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A Service with its endpoints. ``kind`` is Service or ServiceEntry.

    ``ports`` maps a service port to the target port on the pods. Policies with a selector speak of target ports while a
    waypoint sees service ports; without an entry the two are taken as equal.
    """

    namespace: str
    name: str
    workloads: tuple[WorkloadView, ...] = ()
    ports: tuple[tuple[int, int], ...] = ()
    kind: str = "Service"
