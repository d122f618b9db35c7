"""core/v1 Pod: the part of its specification that a scheduler, a controller, a node and a mesh read."""
# ruff: noqa: RUF012 - msgspec copies an empty default for each instance.

from typing import Any

import msgspec

from tulle.kube.objects.core import LocalObjectReference
from tulle.kube.objects.meta import (
    Condition,
    IntOrString,
    KubeObject,
    LabelSelector,
    LabelSelectorRequirement,
    Part,
    Quantities,
)
from tulle.kube.objects.volumes import FieldRef, ResourceFieldRef, Volume


class KeyRef(Part, frozen=True, kw_only=True):
    """A key of a named ConfigMap or Secret."""

    key: str = ""
    name: str = ""
    optional: bool = False


class EnvVarSource(Part, frozen=True, kw_only=True):
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None
    config_map_key_ref: KeyRef | None = None
    secret_key_ref: KeyRef | None = None


class EnvVar(Part, frozen=True, kw_only=True):
    name: str = ""
    value: str = ""
    value_from: EnvVarSource | None = None


class NameRef(Part, frozen=True, kw_only=True):
    name: str = ""
    optional: bool = False


class EnvFrom(Part, frozen=True, kw_only=True):
    prefix: str = ""
    config_map_ref: NameRef | None = None
    secret_ref: NameRef | None = None


class ContainerPort(Part, frozen=True, kw_only=True):
    container_port: int = 0
    name: str = ""
    protocol: str = "TCP"
    host_port: int = 0
    host_ip: str = msgspec.field(default="", name="hostIP")


class VolumeMount(Part, frozen=True, kw_only=True):
    name: str = ""
    mount_path: str = ""
    sub_path: str = ""
    sub_path_expr: str = ""
    read_only: bool = False
    mount_propagation: str = ""


class ResourceRequirements(Part, frozen=True, kw_only=True):
    limits: Quantities = {}
    requests: Quantities = {}


class HttpHeader(Part, frozen=True, kw_only=True):
    name: str = ""
    value: str = ""


class HttpGetAction(Part, frozen=True, kw_only=True):
    port: IntOrString = 0
    path: str = "/"
    host: str = ""
    scheme: str = "HTTP"
    http_headers: tuple[HttpHeader, ...] = ()


class TcpSocketAction(Part, frozen=True, kw_only=True):
    port: IntOrString = 0
    host: str = ""


class ExecAction(Part, frozen=True, kw_only=True):
    command: tuple[str, ...] = ()


class GrpcAction(Part, frozen=True, kw_only=True):
    port: int = 0
    service: str = ""


class SleepAction(Part, frozen=True, kw_only=True):
    seconds: int = 0


class Probe(Part, frozen=True, kw_only=True):
    """A container probe; times in seconds. Absent fields carry the API's own defaults."""

    http_get: HttpGetAction | None = None
    tcp_socket: TcpSocketAction | None = None
    exec: ExecAction | None = None
    grpc: GrpcAction | None = None
    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class LifecycleHandler(Part, frozen=True, kw_only=True):
    exec: ExecAction | None = None
    http_get: HttpGetAction | None = None
    tcp_socket: TcpSocketAction | None = None
    sleep: SleepAction | None = None


class Lifecycle(Part, frozen=True, kw_only=True):
    post_start: LifecycleHandler | None = None
    pre_stop: LifecycleHandler | None = None


class Capabilities(Part, frozen=True, kw_only=True):
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class SecurityContext(Part, frozen=True, kw_only=True):
    """A container's security context; ``None`` means the pod's value or the runtime's default."""

    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    privileged: bool | None = None
    read_only_root_filesystem: bool | None = None
    allow_privilege_escalation: bool | None = None
    capabilities: Capabilities = Capabilities()


class Container(Part, frozen=True, kw_only=True):
    """A container, an init container, or (``restart_policy: Always`` among init containers) a sidecar."""

    name: str = ""
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    ports: tuple[ContainerPort, ...] = ()
    env: tuple[EnvVar, ...] = ()
    env_from: tuple[EnvFrom, ...] = ()
    resources: ResourceRequirements = ResourceRequirements()
    volume_mounts: tuple[VolumeMount, ...] = ()
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle | None = None
    image_pull_policy: str = ""
    security_context: SecurityContext = SecurityContext()
    restart_policy: str = ""
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False
    termination_message_path: str = ""
    termination_message_policy: str = ""


class Toleration(Part, frozen=True, kw_only=True):
    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""
    toleration_seconds: int | None = None


class NodeSelectorTerm(Part, frozen=True, kw_only=True):
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()
    match_fields: tuple[LabelSelectorRequirement, ...] = ()


class NodeSelector(Part, frozen=True, kw_only=True):
    """Terms are ORed; requirements of a term are ANDed."""

    node_selector_terms: tuple[NodeSelectorTerm, ...] = ()


class PreferredNodeTerm(Part, frozen=True, kw_only=True):
    weight: int = 0
    preference: NodeSelectorTerm = NodeSelectorTerm()


class NodeAffinity(Part, frozen=True, kw_only=True):
    required: NodeSelector | None = msgspec.field(default=None, name="requiredDuringSchedulingIgnoredDuringExecution")
    preferred: tuple[PreferredNodeTerm, ...] = msgspec.field(
        default=(), name="preferredDuringSchedulingIgnoredDuringExecution"
    )


class PodAffinityTerm(Part, frozen=True, kw_only=True):
    topology_key: str = ""
    label_selector: LabelSelector | None = None
    namespaces: tuple[str, ...] = ()
    namespace_selector: LabelSelector | None = None


class PodAffinity(Part, frozen=True, kw_only=True):
    required: tuple[PodAffinityTerm, ...] = msgspec.field(
        default=(), name="requiredDuringSchedulingIgnoredDuringExecution"
    )


class Affinity(Part, frozen=True, kw_only=True):
    node_affinity: NodeAffinity | None = None
    pod_affinity: PodAffinity | None = None
    pod_anti_affinity: PodAffinity | None = None


class PodSecurityContext(Part, frozen=True, kw_only=True):
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    fs_group: int | None = None
    supplemental_groups: tuple[int, ...] = ()
    sysctls: tuple[dict[str, str], ...] = ()


class DnsOption(Part, frozen=True, kw_only=True):
    name: str = ""
    value: str = ""


class DnsConfig(Part, frozen=True, kw_only=True):
    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[DnsOption, ...] = ()


class HostAlias(Part, frozen=True, kw_only=True):
    ip: str = ""
    hostnames: tuple[str, ...] = ()


class SchedulingGate(Part, frozen=True, kw_only=True):
    name: str = ""


class PodSpec(Part, frozen=True, kw_only=True):
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    ephemeral_containers: tuple[dict[str, Any], ...] = ()
    volumes: tuple[Volume, ...] = ()
    node_name: str = ""
    node_selector: dict[str, str] = {}
    affinity: Affinity | None = None
    tolerations: tuple[Toleration, ...] = ()
    scheduler_name: str = ""
    scheduling_gates: tuple[SchedulingGate, ...] = ()
    priority: int | None = None
    priority_class_name: str = ""
    service_account_name: str = ""
    automount_service_account_token: bool | None = None
    image_pull_secrets: tuple[LocalObjectReference, ...] = ()
    restart_policy: str = "Always"
    termination_grace_period_seconds: int | None = None
    active_deadline_seconds: int | None = None
    security_context: PodSecurityContext = PodSecurityContext()
    host_network: bool = False
    host_pid: bool = msgspec.field(default=False, name="hostPID")
    host_ipc: bool = msgspec.field(default=False, name="hostIPC")
    share_process_namespace: bool = False
    hostname: str = ""
    subdomain: str = ""
    dns_policy: str = ""
    dns_config: DnsConfig | None = None
    host_aliases: tuple[HostAlias, ...] = ()
    enable_service_links: bool | None = None


class StateRunning(Part, frozen=True, kw_only=True):
    started_at: str = ""


class StateWaiting(Part, frozen=True, kw_only=True):
    reason: str = ""
    message: str = ""


class StateTerminated(Part, frozen=True, kw_only=True):
    exit_code: int = 0
    signal: int = 0
    reason: str = ""
    message: str = ""
    started_at: str = ""
    finished_at: str = ""
    container_id: str = msgspec.field(default="", name="containerID")


class ContainerState(Part, frozen=True, kw_only=True):
    waiting: StateWaiting | None = None
    running: StateRunning | None = None
    terminated: StateTerminated | None = None


class ContainerStatus(Part, frozen=True, kw_only=True):
    name: str = ""
    ready: bool = False
    started: bool | None = None
    restart_count: int = 0
    image: str = ""
    image_id: str = msgspec.field(default="", name="imageID")
    container_id: str = msgspec.field(default="", name="containerID")
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()


class PodIp(Part, frozen=True, kw_only=True):
    ip: str = ""


class PodStatus(Part, frozen=True, kw_only=True):
    phase: str = ""
    conditions: tuple[Condition, ...] = ()
    reason: str = ""
    message: str = ""
    host_ip: str = msgspec.field(default="", name="hostIP")
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: tuple[PodIp, ...] = msgspec.field(default=(), name="podIPs")
    start_time: str = ""
    nominated_node_name: str = ""
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()
    qos_class: str = ""


class Pod(KubeObject, frozen=True, kw_only=True):
    """core/v1 Pod."""

    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()
