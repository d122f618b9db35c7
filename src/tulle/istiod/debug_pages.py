"""istiod's view of services, endpoints and configuration, in the shapes of the pages that upstream has for them.

`/debug/registryz`, `/debug/endpointz`, `/debug/configz`, `/debug/config_dump`: for people and for tools that read them from an Istio. The
shapes are upstream's, with the fields that mean something here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec
from envoy.admin.v3 import config_dump_pb2
from google.protobuf.json_format import MessageToDict

from tulle.istiod.debug import PageError
from tulle.istiod.index.convert import CLUSTER_ID
from tulle.istiod.index.mesh import MeshIndex
from tulle.istiod.index.records import Protocol, Resolution, ServicePort, ServiceRecord
from tulle.istiod.index.state import WorkloadState
from tulle.istiod.informers import Informers
from tulle.istiod.inspection import Inspection
from tulle.kube.codec import encode
from tulle.kube.informer import Informer

_REGISTRIES: Final = {"Service": "Kubernetes", "ServiceEntry": "External"}
_PROTOCOLS: Final[Mapping[Protocol, str]] = {
    Protocol.HTTP11: "HTTP",
    Protocol.HTTP2: "HTTP2",
    Protocol.GRPC: "GRPC",
    Protocol.TCP: "TCP",
    Protocol.TLS: "TLS",
    Protocol.UNKNOWN: "UnsupportedProtocol",
}
_RESOLUTIONS: Final[Mapping[Resolution, int]] = {
    Resolution.ENDPOINTS: 0,
    Resolution.DNS: 1,
    Resolution.PASSTHROUGH: 2,
    Resolution.DNS_ROUND_ROBIN: 3,
}
_ADDRESS_UNKNOWN: Final = "0.0.0.0"  # noqa: S104 (what upstream shows for a service without addresses)


def registry(index: MeshIndex) -> list[dict[str, Any]]:
    """Every service."""
    return [_service(index.services[key].record) for key in sorted(index.services)]


def _service(record: ServiceRecord) -> dict[str, Any]:
    return {
        "Attributes": {
            "ServiceRegistry": _REGISTRIES.get(record.kind, record.kind),
            "Name": record.name,
            "Namespace": record.namespace,
            "Labels": dict(record.labels),
            "ExportTo": {".": {}} if record.namespace_only else None,
        },
        "ports": [_port(port) for port in record.ports],
        "serviceAccounts": list(record.subject_alt_names),
        "creationTime": record.created or None,
        "hostname": record.hostname,
        "clusterVIPs": {"Addresses": {CLUSTER_ID: list(record.addresses)}},
        "defaultAddress": record.addresses[0] if record.addresses else _ADDRESS_UNKNOWN,
        "Resolution": _RESOLUTIONS[record.resolution],
        "MeshExternal": record.kind == "ServiceEntry",
    }


def _port(port: ServicePort) -> dict[str, Any]:
    return {"name": port.name, "port": port.port, "protocol": _PROTOCOLS[port.protocol]}


def endpoints(index: MeshIndex) -> list[dict[str, Any]]:
    """Every port of every service with what stands behind it, ready or not."""
    return [
        {"svc": f"{record.hostname}:{port.name}", "ep": list(_instances(index, record, port))}
        for key in sorted(index.services)
        for record in (index.services[key].record,)
        for port in record.ports
    ]


def _instances(index: MeshIndex, record: ServiceRecord, port: ServicePort) -> Iterator[dict[str, Any]]:
    for uid in sorted(index.tables.members_of(record.key)):
        state = index.workloads.get(uid)
        found = () if state is None else (one.ports for one in state.services if one.service == record.key)
        for mapping in (one for ports in found for one in ports if one.service_port == port.port):
            assert state is not None
            yield {"servicePort": _port(port), "endpoint": _endpoint(state, port, mapping.target_port)}


def _endpoint(state: WorkloadState, port: ServicePort, target: int) -> dict[str, Any]:
    record = state.record
    return {
        "Labels": dict(record.labels),
        "Addresses": list(record.addresses) or [record.hostname],
        "ServicePortName": port.name,
        "EndpointPort": target,
        "ServiceAccount": f"spiffe://{state.trust_domain}/ns/{record.namespace}/sa/{record.service_account or 'default'}",
        "Network": record.network,
        "Locality": {"Label": "/".join(part for part in state.locality if part), "ClusterID": CLUSTER_ID},
        "TLSMode": "istio" if record.hbone else "disabled",
        "Namespace": record.namespace,
        "WorkloadName": record.workload_name,
        "NodeName": record.node,
        "HealthStatus": 1 if record.ready else 2,
    }


def configuration(informers: Informers | None) -> list[dict[str, Any]]:
    """The custom resources that istiod follows, as they are in the API server."""
    if informers is None:
        return []
    followed: tuple[Informer[Any], ...] = (
        informers.authorization_policies,
        informers.peer_authentications,
        informers.request_authentications,
        informers.service_entries,
        informers.workload_entries,
        informers.gateway_classes,
        informers.gateways,
    )
    return [
        {part: value for part in _SHOWN if (value := _without_history(whole.get(part))) is not None}
        for informer in followed
        for _, obj in sorted(informer.store.items())
        for whole in (msgspec.json.decode(encode(informer.resource, obj)),)
    ]


_SHOWN: Final = ("kind", "apiVersion", "metadata", "spec", "status")


def _without_history(value: Any) -> Any:
    return {key: one for key, one in value.items() if key != "managedFields"} if isinstance(value, dict) else value


def config_dump(inspection: Inspection, query: Mapping[str, str]) -> dict[str, Any]:
    """What one proxy was sent, as Envoy's own dump shows it. Raises PageError."""
    wanted = query.get("proxyID", "")
    if not wanted:
        raise PageError(400, "proxyID is missing: give the proxy as ?proxyID=POD.NAMESPACE (/debug/syncz lists them)")
    parts = inspection.dumps(wanted)
    if parts is None:
        raise PageError(404, f"proxyID {wanted!r}: no such proxy is connected to this istiod (/debug/syncz lists them)")
    dump = config_dump_pb2.ConfigDump()
    for part in parts:
        dump.configs.add().Pack(part)
    found: dict[str, Any] = MessageToDict(dump)
    return found


def pages(
    index: MeshIndex, inspection: Inspection, informers: Callable[[], Informers | None]
) -> Mapping[str, Callable[[Mapping[str, str]], Any]]:
    """Every page by its path."""
    return {
        "/debug/registryz": lambda _: registry(index),
        "/debug/endpointz": lambda _: endpoints(index),
        "/debug/configz": lambda _: configuration(informers()),
        "/debug/config_dump": lambda query: config_dump(inspection, query),
    }
