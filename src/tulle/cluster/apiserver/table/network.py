"""Rows of Services, endpoints and nodes."""

from __future__ import annotations

import datetime
from typing import Any

from tulle.cluster.apiserver.table.cells import NONE, UNKNOWN, UNSET, age, joined, pairs
from tulle.cluster.apiserver.table.layout import Layout, columns

Object = dict[str, Any]
_ROLE = "node-role.kubernetes.io/"


def _service_ports(spec: Object) -> str:
    parts = []
    for port in spec.get("ports") or ():
        number = f"{port['port']}:{port['nodePort']}" if port.get("nodePort") else str(port["port"])
        parts.append(f"{number}/{port.get('protocol', 'TCP')}")
    return ",".join(parts) or NONE


def _external(obj: Object) -> str:
    spec = obj.get("spec") or {}
    kind = spec.get("type", "ClusterIP")
    own = list(spec.get("externalIPs") or ())
    if kind == "ExternalName":
        return str(spec.get("externalName") or NONE)
    if kind == "LoadBalancer":
        ingress = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
        found = [i.get("ip") or i.get("hostname", "") for i in ingress]
        return ",".join([*dict.fromkeys(found), *own]) or "<pending>"
    return ",".join(own) or NONE


def _service(obj: Object, now: datetime.datetime) -> list[Any]:
    spec = obj.get("spec") or {}
    address = spec.get("clusterIP") or NONE
    return [
        obj["metadata"]["name"],
        spec.get("type", "ClusterIP"),
        address,
        _external(obj),
        _service_ports(spec),
        age(obj, now),
        pairs(spec.get("selector")),
    ]


def _slice_ports(obj: Object) -> str:
    ports = obj.get("ports")
    if ports is None:
        return UNSET
    return joined([str(p["port"]) if p.get("port") is not None else "*" for p in ports], 3) if ports else UNSET


def _slice(obj: Object, now: datetime.datetime) -> list[Any]:
    addresses = [address for endpoint in obj.get("endpoints") or () for address in endpoint.get("addresses") or ()]
    shown = joined(addresses, 3) if addresses else UNSET
    return [obj["metadata"]["name"], obj.get("addressType", ""), _slice_ports(obj), shown, age(obj, now)]


def _endpoints(obj: Object, now: datetime.datetime) -> list[Any]:
    found = []
    for subset in obj.get("subsets") or ():
        ports = subset.get("ports") or ()
        for address in subset.get("addresses") or ():
            ip = address.get("ip", "")
            found += [f"{ip}:{port.get('port', '')}" for port in ports] or [ip]
    return [obj["metadata"]["name"], joined(found, 3), age(obj, now)]


def _node_status(obj: Object) -> str:
    found = [c for c in (obj.get("status") or {}).get("conditions") or () if c.get("type") == "Ready"]
    parts = [("Ready" if c.get("status") == "True" else "NotReady") for c in found] or ["Unknown"]
    if (obj.get("spec") or {}).get("unschedulable"):
        parts.append("SchedulingDisabled")
    return ",".join(parts)


def _roles(labels: Object) -> str:
    roles = {key.removeprefix(_ROLE) for key in labels if key.startswith(_ROLE) and key != _ROLE}
    if labels.get("kubernetes.io/role"):
        roles.add(labels["kubernetes.io/role"])
    return ",".join(sorted(roles)) or NONE


def _address(obj: Object, kind: str) -> str:
    found = (obj.get("status") or {}).get("addresses") or ()
    return next((a["address"] for a in found if a.get("type") == kind and a.get("address")), NONE)


def _node(obj: Object, now: datetime.datetime) -> list[Any]:
    info = (obj.get("status") or {}).get("nodeInfo") or {}
    return [
        obj["metadata"]["name"],
        _node_status(obj),
        _roles(obj["metadata"].get("labels") or {}),
        age(obj, now),
        info.get("kubeletVersion", ""),
        _address(obj, "InternalIP"),
        _address(obj, "ExternalIP"),
        info.get("osImage") or UNKNOWN,
        info.get("kernelVersion") or UNKNOWN,
        info.get("containerRuntimeVersion") or UNKNOWN,
    ]


NETWORK = {
    ("", "Service"): Layout(
        columns("Name", "Type", "Cluster-IP", "External-IP", "Port(s)", "Age", wide=("Selector",)), _service
    ),
    ("", "Endpoints"): Layout(columns("Name", "Endpoints", "Age"), _endpoints),
    ("discovery.k8s.io", "EndpointSlice"): Layout(columns("Name", "AddressType", "Ports", "Endpoints", "Age"), _slice),
    ("", "Node"): Layout(
        columns(
            "Name", "Status", "Roles", "Age", "Version",
            wide=("Internal-IP", "External-IP", "OS-Image", "Kernel-Version", "Container-Runtime"),
        ),
        _node,
    ),
}  # fmt: skip
