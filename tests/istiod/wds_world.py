"""API objects in few words, and what istiod would send for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from tulle.istiod import wds
from tulle.istiod.index import convert, entries
from tulle.istiod.index.mesh import MeshIndex
from tulle.kube.objects import EndpointSlice, Gateway, GatewayClass, Namespace, Node, Pod, Service
from tulle.security.mesh import MeshSettings

DOMAIN = "cluster.local"
POD = "Kubernetes//Pod/a/p"
CART = ("a", "cart.a.svc.cluster.local")
HOST = ("a", "x.example.com")
ENTRY = "Kubernetes/networking.istio.io/WorkloadEntry/a/vm"


def pod(meta: Any = None, spec: Any = None, status: Any = None, name: str = "p") -> Pod:
    body = {
        "metadata": {"namespace": "a", "name": name, **(meta or {})},
        "spec": {"nodeName": "n1", "serviceAccountName": "sa", **(spec or {})},
        "status": {
            "phase": "Running",
            "podIPs": [{"ip": "10.1.0.5"}],
            "conditions": [{"type": "Ready", "status": "True"}],
            **(status or {}),
        },
    }
    return msgspec.convert(body, Pod)


def service(meta: Any = None, **spec: Any) -> Service:
    ports = [{"name": "http", "port": 80, "targetPort": 8080}]
    body = {
        "metadata": {"namespace": "a", "name": "cart", **(meta or {})},
        "spec": {"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7"], "ports": ports, **spec},
    }
    return msgspec.convert(body, Service)


def endpoints(*found: Mapping[str, Any], ports: Any = None, **more: Any) -> EndpointSlice:
    body = {
        "metadata": {"namespace": "a", "name": "cart-1", "labels": {"kubernetes.io/service-name": "cart"}},
        "addressType": "IPv4",
        "ports": ports or [{"name": "http", "port": 8080}],
        "endpoints": found
        or [{"addresses": ["10.1.0.5"], "targetRef": {"kind": "Pod", "name": "p", "namespace": "a"}}],
        **more,
    }
    return msgspec.convert(body, EndpointSlice)


def service_entry(name: str = "x", meta: Any = None, **spec: Any) -> dict[str, Any]:
    ports = [{"name": "http", "number": 80, "protocol": "HTTP"}]
    body = {"hosts": ["x.example.com"], "ports": ports, "resolution": "STATIC", **spec}
    return {"kind": "ServiceEntry", "metadata": {"namespace": "a", "name": name, **(meta or {})}, "spec": body}


def workload_entry(meta: Any = None, status: Any = None, **spec: Any) -> dict[str, Any]:
    return {
        "kind": "WorkloadEntry",
        "metadata": {"namespace": "a", "name": "vm", **(meta or {})},
        "spec": {"address": "192.0.2.7", **spec},
        "status": status or {},
    }


@dataclass
class Mesh:
    """What istiod would send for these objects."""

    index: MeshIndex

    @classmethod
    def of(cls, *objects: Any, settings: MeshSettings | None = None) -> Mesh:
        index = MeshIndex(settings)
        index.apply(change for one in objects for change in convert.changes({}, records(one)))
        index.flush()
        return cls(index)

    def workload(self, uid: str = POD) -> Any:
        return wds.workload_address(self.index.workloads[uid]).workload

    def service(self, key: tuple[str, str] = CART) -> Any:
        return wds.service_address(self.index.services[key], explain_refusals=False).service


def records(obj: Any) -> convert.Records:
    match obj:
        case Pod():
            return convert.from_pod(obj)
        case Service():
            return convert.from_service(obj, DOMAIN)
        case EndpointSlice():
            return convert.from_endpoint_slice(obj, DOMAIN)
        case Namespace():
            return convert.from_namespace(obj)
        case Node():
            return convert.from_node(obj)
        case Gateway():
            return convert.from_gateway(obj)
        case GatewayClass():
            return convert.from_gateway_class(obj)
        case {"kind": "ServiceEntry"}:
            return entries.from_service_entry(obj)
        case _:
            return entries.from_workload_entry(obj)


def address(value: str) -> bytes:
    return bytes(wds._network_address(value).address)


def gateway(name: str = "wp", traffic: str = "all", **status: Any) -> Gateway:
    value = {"type": "Hostname", "value": f"{name}.a.svc.cluster.local"}
    body = {
        "metadata": {"namespace": "a", "name": name, "labels": {"istio.io/waypoint-for": traffic}},
        "spec": {
            "gatewayClassName": "istio-waypoint",
            "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}],
        },
        "status": {"addresses": [value], **status},
    }
    return msgspec.convert(body, Gateway)


CLASS = msgspec.convert(
    {"metadata": {"name": "istio-waypoint"}, "spec": {"controllerName": "istio.io/mesh-controller"}}, GatewayClass
)
