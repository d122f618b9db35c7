"""What every pod worker shares: this node's name, services and limits, in one bundle that tests can fill with fakes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tulle.cluster.node.paths import NodePaths
from tulle.cluster.node.pods.env import Service
from tulle.cluster.node.pods.objects import ObjectCache
from tulle.cluster.node.pods.pulls import Pulls
from tulle.cluster.node.pods.spec import Pod
from tulle.cluster.node.pods.volumes import Volumes
from tulle.cluster.node.runtime.runtime import Runtime
from tulle.cluster.node.seams import Network
from tulle.kube.client import Client
from tulle.kube.events import EventRecorder
from tulle.kube.objects.meta import ObjectReference


@dataclass(frozen=True)
class Node:
    """The node that a pod runs on. `services` gives the Services with a cluster address, as they are now."""

    name: str
    ip: str
    paths: NodePaths
    client: Client
    runtime: Runtime
    pulls: Pulls
    volumes: Volumes
    objects: ObjectCache
    network: Network
    recorder: EventRecorder
    services: Callable[[], tuple[Service, ...]]
    allocatable: Mapping[str, str]
    capabilities: frozenset[str]
    cluster_domain: str = "cluster.local"

    def event(self, pod: Pod, kind: str, reason: str, message: str, container: str = "") -> None:
        """Record an event about a pod, or about one of its containers."""
        field_path = ""
        if container:
            is_init = any(c.name == container for c in pod.spec.init_containers)
            field_path = f"spec.{'initContainers' if is_init else 'containers'}{{{container}}}"
        meta = pod.metadata
        reference = ObjectReference(
            api_version="v1", kind="Pod", namespace=meta.namespace, name=meta.name, uid=meta.uid, field_path=field_path
        )
        self.recorder.event(reference, kind, reason, message)
