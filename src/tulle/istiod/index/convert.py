"""Kubernetes objects reduced to the index's records: the one place that knows both.

Each function takes one API object and gives what it stands for as a mapping from (kind, key) to record; one object may stand for
several records (an EndpointSlice whose addresses are no Pods also makes workloads). `changes` compares what an object stood for before
and after: that is all a watch event can change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from tulle.istiod.index import labels as names
from tulle.istiod.index.addresses import address_of
from tulle.istiod.index.protocols import protocol_of
from tulle.istiod.index.records import (
    Change,
    GatewayClassRecord,
    GatewayRecord,
    GroupRecord,
    Kind,
    ListenerRecord,
    Member,
    NamespaceRecord,
    NodeRecord,
    ObjectKey,
    ServicePort,
    ServiceRecord,
    WorkloadRecord,
    WorkloadType,
)
from tulle.kube.objects import Endpoint, EndpointSlice, Gateway, GatewayClass, Namespace, Node, Pod, Service

Records: TypeAlias = Mapping[tuple[Kind, ObjectKey], Any]

CLUSTER_ID = "Kubernetes"
SERVICE_NAME_LABEL = "kubernetes.io/service-name"
_OVER = frozenset({"Succeeded", "Failed"})
_STEERING = (names.CANARY_WEIGHT,)
_CRON_SUFFIX = re.compile(r"-\d{8,}$")


def changes(old: Records, new: Records) -> Iterable[Change]:
    """The steps from what an object stood for to what it stands for now; none when nothing of it matters here."""
    for kind, key in old.keys() - new.keys():
        yield Change(kind, key, None)
    for (kind, key), record in new.items():
        if old.get((kind, key)) != record:
            yield Change(kind, key, record)


def hostname_of(namespace: str, name: str, domain: str) -> str:
    return f"{name}.{namespace}.svc.{domain}"


def pod_uid(namespace: str, name: str) -> str:
    """A pod's name in WDS (spec E1)."""
    return f"{CLUSTER_ID}//Pod/{namespace}/{name}"


def from_namespace(obj: Namespace) -> Records:
    meta = obj.metadata
    record = NamespaceRecord(meta.name, meta.labels, _only(meta.annotations, _STEERING))
    return {(Kind.NAMESPACE, ("", meta.name)): record}


def from_node(obj: Node) -> Records:
    labels = obj.metadata.labels
    record = NodeRecord(
        obj.metadata.name,
        labels.get("topology.kubernetes.io/region", ""),
        labels.get("topology.kubernetes.io/zone", ""),
        labels.get("topology.istio.io/subzone", ""),
    )
    return {(Kind.NODE, ("", obj.metadata.name)): record}


def from_gateway_class(obj: GatewayClass) -> Records:
    meta = obj.metadata
    annotations = _only(meta.annotations, (names.INBOUND_BINDING,))
    record = GatewayClassRecord(meta.name, obj.spec.controller_name, meta.labels, annotations)
    return {(Kind.GATEWAY_CLASS, ("", meta.name)): record}


def from_gateway(obj: Gateway) -> Records:
    meta = obj.metadata
    listeners = tuple(
        ListenerRecord(
            name=listener.name,
            port=listener.port,
            protocol=listener.protocol,
            allowed_from=listener.allowed_routes.namespaces.from_,
            selector=listener.allowed_routes.namespaces.selector,
        )
        for listener in obj.spec.listeners
    )
    record = GatewayRecord(
        namespace=meta.namespace,
        name=meta.name,
        class_name=obj.spec.gateway_class_name,
        labels=_only(meta.labels, (names.WAYPOINT_FOR, names.NETWORK)),
        annotations=_only(meta.annotations, (names.INBOUND_BINDING, names.GATEWAY_SERVICE_ACCOUNT)),
        listeners=listeners,
        addresses=_addresses_of(obj),
    )
    return {(Kind.GATEWAY, (meta.namespace, meta.name)): record}


def _addresses_of(obj: Gateway) -> tuple[tuple[str, str], ...]:
    """A Gateway of another cluster is run by nobody here who would report its addresses: those that it is given hold."""
    remote = obj.spec.gateway_class_name == names.REMOTE_GATEWAY
    given = obj.status.addresses or (obj.spec.addresses if remote else ())
    return tuple((address.type, address.value) for address in given)


def from_service(obj: Service, domain: str) -> Records:
    """A Service of type ExternalName is a DNS alias and no part of the mesh."""
    meta, spec = obj.metadata, obj.spec
    if spec.type == "ExternalName":
        return {}
    ports = tuple(
        ServicePort(
            port.name, port.port, _target(port.target_port, port.port), protocol_of(port.name, port.app_protocol)
        )
        for port in spec.ports
        if port.protocol == "TCP"
    )
    addresses = spec.cluster_ips or ((spec.cluster_ip,) if spec.cluster_ip else ())
    record = ServiceRecord(
        kind="Service",
        namespace=meta.namespace,
        name=meta.name,
        hostname=hostname_of(meta.namespace, meta.name, domain),
        addresses=tuple(address for address in addresses if address != "None"),
        ports=ports,
        labels=meta.labels,
        annotations=_only(meta.annotations, _STEERING),
        ip_families=spec.ip_families,
        traffic_distribution=meta.annotations.get(names.TRAFFIC_DISTRIBUTION) or spec.traffic_distribution,
        node_local=spec.internal_traffic_policy == "Local",
        publish_not_ready=spec.publish_not_ready_addresses,
    )
    records: dict[tuple[Kind, ObjectKey], Any] = {(Kind.SERVICE, record.key): record}
    if spec.selector:
        key = (meta.namespace, f"Service/{meta.name}")
        records[(Kind.GROUP, key)] = _selected_entries(obj, key[1], record)
    return records


def _selected_entries(obj: Service, source: str, record: ServiceRecord) -> GroupRecord:
    """The WorkloadEntries behind a Service: a port that the Service names is looked up among the entry's own."""
    named = {port.name: port.target_port for port in obj.spec.ports if isinstance(port.target_port, str)}
    return GroupRecord(
        namespace=record.namespace,
        source=source,
        services=(record.key,),
        selector=obj.spec.selector,
        selector_ports=tuple((port.name, port.target) for port in record.ports if port.target),
        own_ports=tuple((port.name, named[port.name]) for port in record.ports if port.name in named),
        selects=frozenset({"WorkloadEntry"}),
    )


def from_pod(obj: Pod) -> Records:
    """A pod without an address, or one that has finished, is no workload (yet, or any more)."""
    meta, spec, status = obj.metadata, obj.spec, obj.status
    addresses = tuple(ip.ip for ip in status.pod_ips if ip.ip) or ((status.pod_ip,) if status.pod_ip else ())
    if not addresses or status.phase in _OVER:
        return {}
    ready = any(one.type == "Ready" and one.status == "True" for one in status.conditions)
    native = "http" in meta.labels.get(names.TUNNEL, "").split(",")
    workload_type, workload_name = _controller(obj)
    uid = pod_uid(meta.namespace, meta.name)
    record = WorkloadRecord(
        kind="Pod",
        uid=uid,
        namespace=meta.namespace,
        name=meta.name,
        addresses=addresses,
        node=spec.node_name,
        service_account=spec.service_account_name or "default",
        labels=meta.labels,
        workload_type=workload_type,
        workload_name=workload_name,
        hbone=native or meta.annotations.get(names.REDIRECTION) == "enabled",
        native_tunnel=native,
        network=meta.labels.get(names.NETWORK, ""),
        host_network=spec.host_network,
        ready=ready and not meta.deletion_timestamp,
        locality=locality_of(meta.labels.get(names.LOCALITY, "").replace(".", "/")),
    )
    return {(Kind.WORKLOAD, ("", uid)): record}


def _controller(obj: Pod) -> tuple[WorkloadType, str]:
    """Type and name of what made the pod: a ReplicaSet stands for its Deployment, a timed Job for its CronJob (spec D3, E2)."""
    owner = next((ref for ref in obj.metadata.owner_references if ref.controller), None)
    if owner is None:
        return WorkloadType.POD, obj.metadata.name
    if owner.kind == "ReplicaSet":
        suffix = "-" + obj.metadata.labels.get("pod-template-hash", "")
        if suffix != "-" and owner.name.endswith(suffix):
            return WorkloadType.DEPLOYMENT, owner.name.removesuffix(suffix)
    if owner.kind == "Job":
        timed = _CRON_SUFFIX.sub("", owner.name)
        return (WorkloadType.JOB, owner.name) if timed == owner.name else (WorkloadType.CRONJOB, timed)
    return WorkloadType.POD, owner.name


def from_endpoint_slice(obj: EndpointSlice, domain: str) -> Records:
    """Which pods of the namespace stand behind the slice's Service; an address without a Pod becomes a workload of its own."""
    meta = obj.metadata
    service = meta.labels.get(SERVICE_NAME_LABEL)
    if not service or obj.address_type not in ("IPv4", "IPv6"):
        return {}
    ports = tuple((port.name, port.port) for port in obj.ports if port.protocol == "TCP" and port.port)
    records: dict[tuple[Kind, ObjectKey], Any] = {}
    members: list[Member] = []
    for endpoint in obj.endpoints:
        if endpoint.target_ref is not None and endpoint.target_ref.kind == "Pod":
            # Another namespace's pod is not this one's to take: by its Service's waypoint policies of the pod could be lifted to it.
            if (endpoint.target_ref.namespace or meta.namespace) == meta.namespace:
                members.append(Member(pod_uid(meta.namespace, endpoint.target_ref.name), ports))
            continue
        for address in filter(None, map(address_of, endpoint.addresses)):
            own = _slice_workload(obj, endpoint, address)
            records[(Kind.WORKLOAD, ("", own.uid))] = own
            members.append(Member(own.uid, ports))
    key = (meta.namespace, f"EndpointSlice/{meta.name}")
    services = ((meta.namespace, hostname_of(meta.namespace, service, domain)),)
    records[(Kind.GROUP, key)] = GroupRecord(meta.namespace, key[1], services, tuple(members))
    return records


def _slice_workload(obj: EndpointSlice, endpoint: Endpoint, address: str) -> WorkloadRecord:
    meta = obj.metadata
    return WorkloadRecord(
        kind="EndpointSlice",
        uid=f"{CLUSTER_ID}/discovery.k8s.io/EndpointSlice/{meta.namespace}/{meta.name}/{address}",
        namespace=meta.namespace,
        name=meta.name,
        addresses=(address,),
        node=endpoint.node_name,
        workload_name=meta.name,
        ready=endpoint.conditions.ready is not False,
    )


def locality_of(text: str) -> tuple[str, str, str] | None:
    """`region/zone/subzone`, of which the last parts may be missing; None for nothing at all."""
    if not text:
        return None
    region, zone, subzone = [*text.split("/"), "", ""][:3]
    return (region, zone, subzone)


def _target(given: int | str | None, port: int) -> int:
    if given is None:
        return port
    return given if isinstance(given, int) else 0


def _only(values: Mapping[str, str], keys: Iterable[str]) -> Mapping[str, str]:
    return {key: values[key] for key in keys if key in values}
