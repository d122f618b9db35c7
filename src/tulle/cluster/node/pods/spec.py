"""A pod as the node reads it: the fields of the Pod API (v1) that change what the kubelet does, typed.

Fields that this node does not act on are left out. Every field has a default, because the API server does not insist on
all of them: a pod that the node cannot read could neither start, nor say why not, nor end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from tulle.cluster.node.seams import PodRef


class Base(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Names are the API's, in snake case."""


class ObjectReference(Base, frozen=True):
    name: str = ""
    optional: bool = False


class KeySelector(Base, frozen=True):
    key: str = ""
    name: str = ""
    optional: bool = False


class FieldRef(Base, frozen=True):
    field_path: str = ""


class ResourceFieldRef(Base, frozen=True):
    resource: str = ""
    container_name: str = ""
    divisor: str | int | float = "1"


class EnvVarSource(Base, frozen=True):
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None
    config_map_key_ref: KeySelector | None = None
    secret_key_ref: KeySelector | None = None


class EnvVar(Base, frozen=True):
    name: str = ""
    value: str = ""
    value_from: EnvVarSource | None = None


class EnvFrom(Base, frozen=True):
    prefix: str = ""
    config_map_ref: ObjectReference | None = None
    secret_ref: ObjectReference | None = None


class VolumeMount(Base, frozen=True):
    name: str = ""
    mount_path: str = ""
    read_only: bool = False
    sub_path: str = ""
    sub_path_expr: str = ""
    mount_propagation: str = "None"


class HTTPHeader(Base, frozen=True):
    name: str = ""
    value: str = ""


class HTTPGet(Base, frozen=True):
    port: int | str = 0
    path: str = "/"
    host: str = ""
    scheme: str = "HTTP"
    http_headers: tuple[HTTPHeader, ...] = ()


class TCPSocket(Base, frozen=True):
    port: int | str = 0
    host: str = ""


class GRPC(Base, frozen=True):
    port: int = 0
    service: str = ""


class Exec(Base, frozen=True):
    command: tuple[str, ...] = ()


class Sleep(Base, frozen=True):
    seconds: int = 0


class Handler(Base, frozen=True):
    """What a hook or a probe does; exactly one field is set."""

    exec: Exec | None = None
    http_get: HTTPGet | None = None
    tcp_socket: TCPSocket | None = None
    sleep: Sleep | None = None
    grpc: GRPC | None = None


class Probe(Handler, frozen=True):
    """Times are seconds."""

    initial_delay_seconds: int = 0
    timeout_seconds: int = 1
    period_seconds: int = 10
    success_threshold: int = 1
    failure_threshold: int = 3
    termination_grace_period_seconds: int | None = None


class Lifecycle(Base, frozen=True):
    post_start: Handler | None = None
    pre_stop: Handler | None = None
    stop_signal: str = ""


class Capabilities(Base, frozen=True):
    add: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()


class SeccompProfile(Base, frozen=True):
    type: str = ""
    localhost_profile: str = ""


class SecurityContext(Base, frozen=True):
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    privileged: bool = False
    allow_privilege_escalation: bool | None = None
    read_only_root_filesystem: bool = False
    capabilities: Capabilities = Capabilities()
    seccomp_profile: SeccompProfile | None = None
    proc_mount: str = "Default"


class Sysctl(Base, frozen=True):
    name: str = ""
    value: str = ""


class PodSecurityContext(Base, frozen=True):
    run_as_user: int | None = None
    run_as_group: int | None = None
    run_as_non_root: bool | None = None
    fs_group: int | None = None
    supplemental_groups: tuple[int, ...] = ()
    sysctls: tuple[Sysctl, ...] = ()
    seccomp_profile: SeccompProfile | None = None


class ContainerPort(Base, frozen=True):
    container_port: int = 0
    name: str = ""
    protocol: str = "TCP"
    host_port: int = 0


class Resources(Base, frozen=True):
    limits: Mapping[str, str | int | float] = {}
    requests: Mapping[str, str | int | float] = {}


class Container(Base, frozen=True):
    name: str = ""
    image: str = ""
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    working_dir: str = ""
    ports: tuple[ContainerPort, ...] = ()
    env_from: tuple[EnvFrom, ...] = ()
    env: tuple[EnvVar, ...] = ()
    resources: Resources = Resources()
    restart_policy: str = ""
    volume_mounts: tuple[VolumeMount, ...] = ()
    liveness_probe: Probe | None = None
    readiness_probe: Probe | None = None
    startup_probe: Probe | None = None
    lifecycle: Lifecycle = Lifecycle()
    termination_message_path: str = "/dev/termination-log"
    termination_message_policy: str = "File"
    image_pull_policy: str = ""
    security_context: SecurityContext = SecurityContext()
    stdin: bool = False
    stdin_once: bool = False
    tty: bool = False

    def port(self, port: int | str) -> int:
        """A port number, or the number behind a port's name. Raises ValueError."""
        if isinstance(port, int) or port.isdigit():
            return int(port)
        for candidate in self.ports:
            if candidate.name == port:
                return candidate.container_port
        raise ValueError(f"container {self.name} has no port named {port!r}")


class KeyToPath(Base, frozen=True):
    key: str = ""
    path: str = ""
    mode: int | None = None


class ConfigMapSource(Base, frozen=True):
    """A ConfigMap or, in a projected volume, a Secret: both have the same shape there."""

    name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int = 0o644
    optional: bool = False


class SecretSource(Base, frozen=True):
    secret_name: str = ""
    items: tuple[KeyToPath, ...] = ()
    default_mode: int = 0o644
    optional: bool = False


class DownwardFile(Base, frozen=True):
    path: str = ""
    field_ref: FieldRef | None = None
    resource_field_ref: ResourceFieldRef | None = None
    mode: int | None = None


class DownwardSource(Base, frozen=True):
    items: tuple[DownwardFile, ...] = ()
    default_mode: int = 0o644


class TokenSource(Base, frozen=True):
    path: str = ""
    audience: str = ""
    expiration_seconds: int = 3600


class Projection(Base, frozen=True):
    config_map: ConfigMapSource | None = None
    secret: ConfigMapSource | None = None
    downward_api: DownwardSource | None = msgspec.field(default=None, name="downwardAPI")
    service_account_token: TokenSource | None = None


class ProjectedSource(Base, frozen=True):
    sources: tuple[Projection, ...] = ()
    default_mode: int = 0o644


class EmptyDirSource(Base, frozen=True):
    medium: str = ""
    size_limit: str | int | None = None


class HostPathSource(Base, frozen=True):
    path: str = ""
    type: str = ""


class Volume(Base, frozen=True):
    name: str = ""
    empty_dir: EmptyDirSource | None = None
    host_path: HostPathSource | None = None
    config_map: ConfigMapSource | None = None
    secret: SecretSource | None = None
    downward_api: DownwardSource | None = msgspec.field(default=None, name="downwardAPI")
    projected: ProjectedSource | None = None


class HostAlias(Base, frozen=True):
    ip: str = ""
    hostnames: tuple[str, ...] = ()


class DNSOption(Base, frozen=True):
    name: str = ""
    value: str = ""


class DNSConfig(Base, frozen=True):
    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[DNSOption, ...] = ()


class ReadinessGate(Base, frozen=True):
    condition_type: str = ""


class PodSpec(Base, frozen=True):
    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    volumes: tuple[Volume, ...] = ()
    restart_policy: Literal["Always", "OnFailure", "Never"] = "Always"
    termination_grace_period_seconds: int = 30
    active_deadline_seconds: int | None = None
    dns_policy: str = "ClusterFirst"
    dns_config: DNSConfig = DNSConfig()
    node_name: str = ""
    service_account_name: str = "default"
    host_network: bool = False
    host_pid: bool = msgspec.field(default=False, name="hostPID")
    host_ipc: bool = msgspec.field(default=False, name="hostIPC")
    share_process_namespace: bool = False
    security_context: PodSecurityContext = PodSecurityContext()
    hostname: str = ""
    subdomain: str = ""
    host_aliases: tuple[HostAlias, ...] = ()
    enable_service_links: bool = True
    readiness_gates: tuple[ReadinessGate, ...] = ()
    set_hostname_as_fqdn: bool = msgspec.field(default=False, name="setHostnameAsFQDN")


class Metadata(Base, frozen=True):
    name: str = ""
    namespace: str = "default"
    uid: str = ""
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: int | None = None
    creation_timestamp: str | None = None


class Pod(Base, frozen=True):
    """`status` stays as it came: the node adds to it what others wrote there."""

    metadata: Metadata = Metadata()
    spec: PodSpec = PodSpec()
    status: dict[str, Any] = {}

    @property
    def ref(self) -> PodRef:
        return PodRef(self.metadata.namespace, self.metadata.name, self.metadata.uid)

    @property
    def hostname(self) -> str:
        return (self.spec.hostname or self.metadata.name)[:63].rstrip("-.")

    def container(self, name: str) -> Container | None:
        return next((c for c in (*self.spec.init_containers, *self.spec.containers) if c.name == name), None)

    @property
    def sidecars(self) -> frozenset[str]:
        """Init containers that keep running (restartPolicy: Always)."""
        return frozenset(c.name for c in self.spec.init_containers if c.restart_policy == "Always")


def parse(document: Mapping[str, Any]) -> Pod:
    """A pod as the API server sent it. Raises msgspec.ValidationError naming the field."""
    return msgspec.convert(_without_nulls(document), Pod)


def _without_nulls(value: Any) -> Any:
    """The API treats null as absent."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    return value
