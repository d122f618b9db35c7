"""core/v1 objects other than Pod: namespaces, Services, configuration, nodes and events."""
# ruff: noqa: RUF012 - msgspec copies an empty default for each instance.

from typing import Any

import msgspec

from tulle.kube.objects.meta import Condition, IntOrString, KubeObject, ObjectReference, Part, Quantities


class NamespaceSpec(Part, frozen=True, kw_only=True):
    finalizers: tuple[str, ...] = ()


class NamespaceStatus(Part, frozen=True, kw_only=True):
    phase: str = ""
    conditions: tuple[Condition, ...] = ()


class Namespace(KubeObject, frozen=True, kw_only=True):
    """core/v1 Namespace."""

    spec: NamespaceSpec = NamespaceSpec()
    status: NamespaceStatus = NamespaceStatus()


class ServicePort(Part, frozen=True, kw_only=True):
    """One port of a Service. ``target_port`` is a number or a container port's name; absent means ``port``."""

    port: int = 0
    name: str = ""
    protocol: str = "TCP"
    app_protocol: str = ""
    target_port: IntOrString | None = None
    node_port: int = 0


class ServiceSpec(Part, frozen=True, kw_only=True):
    type: str = "ClusterIP"
    selector: dict[str, str] = {}
    ports: tuple[ServicePort, ...] = ()
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    cluster_ips: tuple[str, ...] = msgspec.field(default=(), name="clusterIPs")
    external_ips: tuple[str, ...] = msgspec.field(default=(), name="externalIPs")
    external_name: str = ""
    ip_families: tuple[str, ...] = ()
    ip_family_policy: str = ""
    session_affinity: str = ""
    internal_traffic_policy: str = ""
    external_traffic_policy: str = ""
    traffic_distribution: str = ""
    publish_not_ready_addresses: bool = False


class LoadBalancerIngress(Part, frozen=True, kw_only=True):
    ip: str = ""
    hostname: str = ""


class LoadBalancerStatus(Part, frozen=True, kw_only=True):
    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServiceStatus(Part, frozen=True, kw_only=True):
    load_balancer: LoadBalancerStatus = LoadBalancerStatus()
    conditions: tuple[Condition, ...] = ()


class Service(KubeObject, frozen=True, kw_only=True):
    """core/v1 Service."""

    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


class LocalObjectReference(Part, frozen=True, kw_only=True):
    name: str = ""


class ServiceAccount(KubeObject, frozen=True, kw_only=True):
    """core/v1 ServiceAccount."""

    secrets: tuple[ObjectReference, ...] = ()
    image_pull_secrets: tuple[LocalObjectReference, ...] = ()
    automount_service_account_token: bool | None = None


class ConfigMap(KubeObject, frozen=True, kw_only=True):
    """core/v1 ConfigMap. ``binary_data`` values are base64 text."""

    data: dict[str, str] = {}
    binary_data: dict[str, str] = {}
    immutable: bool | None = None


class Secret(KubeObject, frozen=True, kw_only=True):
    """core/v1 Secret. ``data`` values are base64 text; ``string_data`` is write-only plain text."""

    type: str = ""
    data: dict[str, str] = {}
    string_data: dict[str, str] = {}
    immutable: bool | None = None


class Taint(Part, frozen=True, kw_only=True):
    key: str = ""
    effect: str = ""
    value: str = ""
    time_added: str = ""


class NodeSpec(Part, frozen=True, kw_only=True):
    pod_cidr: str = msgspec.field(default="", name="podCIDR")
    pod_cidrs: tuple[str, ...] = msgspec.field(default=(), name="podCIDRs")
    provider_id: str = msgspec.field(default="", name="providerID")
    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


class NodeAddress(Part, frozen=True, kw_only=True):
    type: str = ""
    address: str = ""


class DaemonEndpoint(Part, frozen=True, kw_only=True):
    port: int = msgspec.field(default=0, name="Port")


class NodeDaemonEndpoints(Part, frozen=True, kw_only=True):
    kubelet_endpoint: DaemonEndpoint = DaemonEndpoint()


class NodeStatus(Part, frozen=True, kw_only=True):
    capacity: Quantities = {}
    allocatable: Quantities = {}
    conditions: tuple[Condition, ...] = ()
    addresses: tuple[NodeAddress, ...] = ()
    daemon_endpoints: NodeDaemonEndpoints = NodeDaemonEndpoints()
    node_info: dict[str, Any] = {}
    images: tuple[dict[str, Any], ...] = ()


class Node(KubeObject, frozen=True, kw_only=True):
    """core/v1 Node."""

    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class EventSource(Part, frozen=True, kw_only=True):
    component: str = ""
    host: str = ""


class Event(KubeObject, frozen=True, kw_only=True):
    """core/v1 Event. ``type`` is Normal or Warning."""

    involved_object: ObjectReference = ObjectReference()
    reason: str = ""
    message: str = ""
    source: EventSource = EventSource()
    first_timestamp: str = ""
    last_timestamp: str = ""
    event_time: str = ""
    count: int = 0
    type: str = ""
    action: str = ""
    reporting_component: str = ""
    reporting_instance: str = ""
