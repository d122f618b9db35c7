"""The mesh index's input: what istiod keeps of each Kubernetes object, and nothing else.

An API object changes far more often than the mesh does: heartbeats, image pulls, annotations of other controllers. Reducing each object
to a small frozen record first means that "did it change" is one comparison, and that most events end there.

`Change` is the index's only input: a kind, a key and the new record, or None when the object is gone. Several objects may be reduced to
one kind: a Pod, a WorkloadEntry and an EndpointSlice address without a Pod are all a `Workload`; a Service and each host of a
ServiceEntry are a `Service`. `Group` says which workloads stand behind which services.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, NamedTuple, TypeAlias

from msgspec import Struct, field

from tulle.kube.objects import LabelSelector

ObjectKey: TypeAlias = tuple[str, str]
"""(namespace, name)"""
ServiceKey: TypeAlias = tuple[str, str]
"""(namespace, hostname)"""
WaypointKey: TypeAlias = tuple[str, str]
"""(namespace, name) of a Gateway"""
Uid: TypeAlias = str
"""A workload's name in WDS (spec E1), e.g. `Kubernetes//Pod/hello/helloworld-v1-abc`."""


class Kind(Enum):
    """What a `Change` is about; the key's form follows it."""

    SETTINGS = "Settings"  # key ("", "")
    NAMESPACE = "Namespace"  # key ("", name)
    NODE = "Node"  # key ("", name)
    GATEWAY_CLASS = "GatewayClass"  # key ("", name)
    GATEWAY = "Gateway"  # key (namespace, name)
    SERVICE = "Service"  # key (namespace, hostname), of a ServiceEntry (namespace, source): each object's own, whatever it says
    WORKLOAD = "Workload"  # key ("", uid)
    GROUP = "Group"  # key (namespace, source)
    POLICY = "AuthorizationPolicy"  # key (namespace, name)
    PEER_AUTHENTICATION = "PeerAuthentication"  # key (namespace, name)
    REQUEST_AUTHENTICATION = "RequestAuthentication"  # key (namespace, name)


class WorkloadType(Enum):
    """Spec E2, `Workload.workload_type`."""

    DEPLOYMENT = 0
    CRONJOB = 1
    POD = 2
    JOB = 3


class Protocol(Enum):
    """What a Service port says of itself (spec E2, `Port.app_protocol`)."""

    UNKNOWN = 0
    HTTP11 = 1
    HTTP2 = 2
    GRPC = 3
    TCP = 4
    TLS = 5

    @property
    def http(self) -> bool:
        return self in (Protocol.HTTP11, Protocol.HTTP2, Protocol.GRPC)


class Resolution(Enum):
    """How a service's endpoints are found. PASSTHROUGH keeps the address that the client dialled; of the addresses of a name
    DNS_ROUND_ROBIN uses one at a time.
    """

    ENDPOINTS = "endpoints"
    DNS = "dns"
    DNS_ROUND_ROBIN = "dns-round-robin"
    PASSTHROUGH = "passthrough"


class NamespaceRecord(Struct, frozen=True):
    name: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str] = field(default_factory=dict)


class NodeRecord(Struct, frozen=True):
    name: str
    region: str = ""
    zone: str = ""
    subzone: str = ""


class GatewayClassRecord(Struct, frozen=True):
    name: str
    controller: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


class ListenerRecord(Struct, frozen=True):
    """`allowed_from` is `allowedRoutes.namespaces.from` (All, Selector, Same, None); `selector` matters for Selector."""

    name: str
    port: int
    protocol: str
    allowed_from: str = "Same"
    selector: LabelSelector | None = None


class GatewayRecord(Struct, frozen=True):
    """`addresses` is `status.addresses` as (type, value)."""

    namespace: str
    name: str
    class_name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    listeners: tuple[ListenerRecord, ...] = ()
    addresses: tuple[tuple[str, str], ...] = ()


class ServicePort(Struct, frozen=True):
    """`target` is the number when the Service gives one, 0 when it gives a name (spec E2)."""

    name: str
    port: int
    target: int
    protocol: Protocol


class ServiceRecord(Struct, frozen=True):
    """A Service, or one host of a ServiceEntry. `kind` and `name` are the API object's, for status and for messages."""

    kind: str
    namespace: str
    name: str
    hostname: str
    addresses: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    ip_families: tuple[str, ...] = ()
    traffic_distribution: str = ""
    node_local: bool = False
    publish_not_ready: bool = False
    resolution: Resolution = Resolution.ENDPOINTS
    namespace_only: bool = False
    """A ServiceEntry that is visible in its own namespace only (spec A4.7)."""
    subject_alt_names: tuple[str, ...] = ()
    created: str = ""
    """When a ServiceEntry was made: of several with one host or address the oldest is the canonical one."""

    @property
    def key(self) -> ServiceKey:
        return (self.namespace, self.hostname)

    @property
    def seniority(self) -> tuple[bool, str, ServiceKey, str]:
        """Of several that claim the same the least has it: a Service, else the oldest ServiceEntry."""
        return (self.kind != "Service", self.created, self.key, self.name)


class WorkloadRecord(Struct, frozen=True):
    """Something that receives or sends traffic. `kind` is Pod, WorkloadEntry, EndpointSlice or ServiceEntry."""

    kind: str
    uid: Uid
    namespace: str
    name: str
    addresses: tuple[str, ...] = ()
    hostname: str = ""
    node: str = ""
    service_account: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    workload_type: WorkloadType = WorkloadType.POD
    workload_name: str = ""
    hbone: bool = False
    native_tunnel: bool = False
    host_network: bool = False
    ready: bool = True
    network: str = ""
    locality: tuple[str, str, str] | None = None
    """(region, zone, subzone) given by the object itself; None means: look at the node."""
    capacity: int | None = None
    ports: tuple[tuple[str, int], ...] = ()
    """The ports that a WorkloadEntry gives itself, by name; they go before those of what selects it."""


class Member(Struct, frozen=True):
    """A workload behind a group's services, with the target port of each port name there."""

    uid: Uid
    ports: tuple[tuple[str, int], ...]


class GroupRecord(Struct, frozen=True):
    """Which workloads stand behind which services: an EndpointSlice, or a ServiceEntry.

    `selector` (ServiceEntry.workloadSelector, or a Service's) adds the workloads of its namespace that have all its labels and are of one
    of the kinds `selects`; their target ports are `selector_ports`, except where a workload has a port of its own under the name that
    `own_ports` gives for the port. A Service finds its pods through EndpointSlices, which hold no WorkloadEntries.
    """

    namespace: str
    source: str
    services: tuple[ServiceKey, ...]
    members: tuple[Member, ...] = ()
    selector: Mapping[str, str] | None = None
    selector_ports: tuple[tuple[str, int], ...] = ()
    own_ports: tuple[tuple[str, str], ...] = ()
    selects: frozenset[str] = frozenset({"Pod", "WorkloadEntry"})

    @property
    def shared(self) -> tuple[object, ...]:
        """What the result for each workload of the group depends on, beside the workload itself."""
        return (self.services, self.selector_ports, self.own_ports)


class Change(NamedTuple):
    """One step of the index's input."""

    kind: Kind
    key: ObjectKey
    record: Any
