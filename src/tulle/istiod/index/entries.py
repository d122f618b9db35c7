"""ServiceEntry and WorkloadEntry reduced to the index's records (spec A4, E1): services and workloads that are no Services and no Pods.

A ServiceEntry gives one service for each of its hosts; its inline endpoints become workloads of their own, and a `workloadSelector`
finds pods and WorkloadEntries of its namespace. Without either, a host that is to be looked up is its own endpoint. Both kinds are
custom resources and come as plain manifests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from tulle.istiod.index import labels as names
from tulle.istiod.index.addresses import address_of, address_or_block_of
from tulle.istiod.index.convert import CLUSTER_ID, Records, locality_of
from tulle.istiod.index.protocols import protocol_of
from tulle.istiod.index.records import (
    GroupRecord,
    Kind,
    Member,
    Resolution,
    ServicePort,
    ServiceRecord,
    WorkloadRecord,
    WorkloadType,
)

Labels: TypeAlias = Mapping[str, str]

_UNTUNNELLED = frozenset({"UDP"})
_RESOLUTIONS: Mapping[str, Resolution] = {
    "NONE": Resolution.PASSTHROUGH,
    "DNS": Resolution.DNS,
    "DNS_ROUND_ROBIN": Resolution.DNS_ROUND_ROBIN,
}
_IN_DNS = frozenset({Resolution.DNS, Resolution.DNS_ROUND_ROBIN})


def from_workload_entry(manifest: Mapping[str, Any]) -> Records:
    """A WorkloadEntry: an address outside the cluster, or a host name that is looked up in DNS."""
    meta = manifest.get("metadata") or {}
    namespace, name = str(meta.get("namespace") or ""), str(meta.get("name") or "")
    spec = manifest.get("spec") or {}
    labels = {**_labels(spec.get("labels")), **_labels(meta.get("labels"))}
    workload = _workload("WorkloadEntry", (namespace, name), "", spec, labels, ready=_healthy(manifest))
    return {(Kind.WORKLOAD, ("", workload.uid)): workload}


def _healthy(manifest: Mapping[str, Any]) -> bool:
    """A WorkloadEntry without health checks counts as healthy."""
    conditions = (manifest.get("status") or {}).get("conditions") or ()
    return not any(one.get("type") == "Healthy" and one.get("status") == "False" for one in conditions)


def from_service_entry(manifest: Mapping[str, Any]) -> Records:
    """The services, inline workloads and membership of a ServiceEntry."""
    meta, spec = manifest.get("metadata") or {}, manifest.get("spec") or {}
    namespace, name = str(meta.get("namespace") or ""), str(meta.get("name") or "")
    services = tuple(_services(namespace, name, meta, spec, manifest.get("status") or {}))
    ports = tuple((port["name"], _number(port.get("targetPort")) or port["number"]) for port in _ports(spec))
    records: dict[tuple[Kind, tuple[str, str]], Any] = {
        (Kind.SERVICE, (namespace, f"ServiceEntry/{name}/{service.hostname}")): service for service in services
    }
    for source, behind, given in _sources(name, services, spec):
        workloads = [(_endpoint(namespace, name, endpoint), endpoint) for endpoint in given]
        records.update(((Kind.WORKLOAD, ("", workload.uid)), workload) for workload, _ in workloads)
        records[(Kind.GROUP, (namespace, source))] = GroupRecord(
            namespace=namespace,
            source=source,
            services=tuple(service.key for service in behind),
            members=tuple(Member(workload.uid, _own_ports(endpoint, ports)) for workload, endpoint in workloads),
            selector=_labels((spec.get("workloadSelector") or {}).get("labels")) or None,
            selector_ports=ports,
            own_ports=tuple((port, port) for port, _ in ports),
        )
    return records


def _sources(
    name: str, services: Sequence[ServiceRecord], spec: Mapping[str, Any]
) -> Iterator[tuple[str, Sequence[ServiceRecord], Sequence[Mapping[str, Any]]]]:
    """Which endpoints stand behind which services: the given ones behind all, else each host that can be looked up behind itself."""
    given = list(spec.get("endpoints") or ())
    if given or spec.get("workloadSelector") or _resolution(spec) not in _IN_DNS:
        yield f"ServiceEntry/{name}", services, given
        return
    for service in services:
        if not service.hostname.startswith("*"):
            yield f"ServiceEntry/{name}/{service.hostname}", (service,), ({"address": service.hostname},)


def _resolution(spec: Mapping[str, Any]) -> Resolution:
    return _RESOLUTIONS.get(str(spec.get("resolution") or "NONE"), Resolution.ENDPOINTS)


def _services(
    namespace: str, name: str, meta: Mapping[str, Any], spec: Mapping[str, Any], status: Mapping[str, Any]
) -> Iterator[ServiceRecord]:
    ports = tuple(
        ServicePort(
            port["name"],
            port["number"],
            _number(port.get("targetPort")) or port["number"],
            protocol_of("", str(port.get("protocol") or "")),
        )
        for port in _ports(spec)
    )
    unaddressed = unaddressed_hosts({"metadata": meta, "spec": spec})
    annotations = meta.get("annotations") or {}
    kept = {names.CANARY_WEIGHT: annotations[names.CANARY_WEIGHT]} if names.CANARY_WEIGHT in annotations else {}
    for host in _strings(spec.get("hosts")):
        yield ServiceRecord(
            kind="ServiceEntry",
            namespace=namespace,
            name=name,
            hostname=host,
            addresses=_addresses(host, spec, status if host in unaddressed else {}),
            ports=ports,
            labels=_labels(meta.get("labels")),
            annotations=kept,
            resolution=_resolution(spec),
            traffic_distribution=str(annotations.get(names.TRAFFIC_DISTRIBUTION) or ""),
            namespace_only=list(_strings(spec.get("exportTo"))) == ["."],
            subject_alt_names=_strings(spec.get("subjectAltNames")),
            created=str(meta.get("creationTimestamp") or ""),
        )


def unaddressed_hosts(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """The hosts of a ServiceEntry that istiod gives addresses to.

    Not if it has its own, if where a request goes is to depend on the address that was dialled, or if a label says so.
    """
    meta, spec = manifest.get("metadata") or {}, manifest.get("spec") or {}
    refused = str((meta.get("labels") or {}).get(names.ALLOCATE_ADDRESS) or "").lower() == "false"
    if refused or spec.get("addresses") or _resolution(spec) is Resolution.PASSTHROUGH:
        return ()
    return tuple(dict.fromkeys(host for host in _strings(spec.get("hosts")) if not host.startswith("*")))


def _addresses(host: str, spec: Mapping[str, Any], status: Mapping[str, Any]) -> tuple[str, ...]:
    """Its own addresses, else the ones that were allocated for the host and written to its status."""
    own = _usable(_strings(spec.get("addresses")))
    if own:
        return own
    allocated = (one for one in status.get("addresses") or () if one.get("host") in (None, "", host))
    return _usable(str(one.get("value")) for one in allocated)


def _usable(given: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(address for address in map(address_or_block_of, given) if address))


def _endpoint(namespace: str, name: str, endpoint: Mapping[str, Any]) -> WorkloadRecord:
    suffix = f"/{endpoint.get('address') or ''}"
    return _workload("ServiceEntry", (namespace, name), suffix, endpoint, _labels(endpoint.get("labels")))


def _workload(
    kind: str, key: tuple[str, str], suffix: str, spec: Mapping[str, Any], labels: Labels, *, ready: bool = True
) -> WorkloadRecord:
    namespace, name = key
    address = str(spec.get("address") or "")
    literal = address_of(address)
    native = "http" in labels.get(names.TUNNEL, "").split(",")
    weight = spec.get("weight")
    return WorkloadRecord(
        kind=kind,
        uid=f"{CLUSTER_ID}/networking.istio.io/{kind}/{namespace}/{name}{suffix}",
        namespace=namespace,
        name=name,
        addresses=(literal,) if literal else (),
        hostname="" if literal else address,
        service_account=str(spec.get("serviceAccount") or ""),
        labels=labels,
        workload_type=WorkloadType.POD,
        workload_name=name,
        hbone=native,
        native_tunnel=native,
        network=str(spec.get("network") or labels.get(names.NETWORK) or ""),
        ready=ready,
        locality=locality_of(str(spec.get("locality") or "")),
        capacity=weight if isinstance(weight, int) and weight > 0 else None,
        ports=tuple(sorted((name, port) for name, port in (spec.get("ports") or {}).items() if isinstance(port, int))),
    )


def _ports(spec: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    return [port for port in spec.get("ports") or () if str(port.get("protocol") or "").upper() not in _UNTUNNELLED]


def _own_ports(endpoint: Mapping[str, Any], ports: tuple[tuple[str, int], ...]) -> tuple[tuple[str, int], ...]:
    own = endpoint.get("ports") or {}
    return tuple((name, _number(own.get(name)) or target) for name, target in ports)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _labels(value: Mapping[str, Any] | None) -> Labels:
    """Labels are what others are looked up by: they are text, whatever was stored before somebody checked."""
    return {str(key): str(text) for key, text in (value or {}).items()}


def _strings(value: object) -> tuple[str, ...]:
    return tuple(str(one) for one in value) if isinstance(value, (list, tuple)) else ()
