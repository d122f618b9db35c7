"""What controllers would have written, for manifests that no cluster has seen.

A folder of YAML has Deployments but no pods, Services but no endpoints, a Gateway but no address. The mesh's index needs the latter,
so they are derived here, in the form in which the controllers write them, and every such assumption is said: an answer is only as
good as what it takes for granted. Objects that carry a status of their own (a dump of a cluster) are left as they are.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tulle.cli.explain.documents import CLUSTER_SCOPED, Document, Key
from tulle.cni.enrolment import PodFacts, enrolment
from tulle.istiod.addresses import Host, Numbers, addresses
from tulle.istiod.index import labels as names
from tulle.istiod.index.convert import SERVICE_NAME_LABEL
from tulle.istiod.index.entries import unaddressed_hosts

POD_ADDRESSES = ipaddress.IPv4Network("198.18.0.0/16")
SERVICE_ADDRESSES = ipaddress.IPv4Network("198.19.0.0/16")
"""Stand-ins come from the block for benchmarks, which no cluster uses."""

_TEMPLATED = frozenset({"Deployment", "ReplicaSet", "StatefulSet", "DaemonSet", "ReplicationController"})
_READY = [{"type": "Ready", "status": "True"}]
_DERIVED = "derived"


class Completion:
    """One run over a set of documents; `documents` and `assumptions` are its result."""

    def __init__(self, documents: Iterable[Document]) -> None:
        self.documents: dict[Key, Document] = {document.key: document for document in documents}
        self._assumed: dict[str, None] = {}
        self._addresses = {POD_ADDRESSES: POD_ADDRESSES.hosts(), SERVICE_ADDRESSES: SERVICE_ADDRESSES.hosts()}
        self._namespaces()
        self._waypoints()
        self._stand_ins()
        self._pods()
        self._services()
        self._entries()
        self._endpoints()

    @property
    def assumptions(self) -> tuple[str, ...]:
        return tuple(self._assumed)

    def _of(self, *kinds: str) -> list[Document]:
        return [document for document in self.documents.values() if document.key.kind in kinds]

    def _assume(self, text: str) -> None:
        self._assumed[text] = None

    def _put(self, manifest: Mapping[str, Any], source: str = _DERIVED) -> None:
        meta, kind = manifest["metadata"], manifest["kind"]
        key = Key(kind, "" if kind in CLUSTER_SCOPED else meta["namespace"], meta["name"])
        self.documents[key] = Document(key, manifest, source)

    # --- what every cluster has

    def _namespaces(self) -> None:
        used = {document.key.namespace for document in self.documents.values()} - {""}
        with_pods = {document.key.namespace for document in self._of("Pod", "Service", *_TEMPLATED)}
        for name in sorted(used):
            if Key("Namespace", "", name) in self.documents:
                continue
            self._put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
            if name not in with_pods:
                continue
            self._assume(
                f"namespace {name} is not among the files: it is taken to have no labels, so to be outside the mesh"
            )

    def _waypoints(self) -> None:
        if Key("GatewayClass", "", names.WAYPOINT_CLASS) not in self.documents:
            self._put(
                {
                    "apiVersion": "gateway.networking.k8s.io/v1",
                    "kind": "GatewayClass",
                    "metadata": {"name": names.WAYPOINT_CLASS},
                    "spec": {"controllerName": names.MESH_CONTROLLER},
                }
            )
        for document in self._of("Gateway"):
            if not (document.manifest.get("status") or {}) and is_waypoint(document.manifest):
                self._put(programmed(document.manifest), document.source)
                self._assume(f"{document.key} is deployed and ready")

    # --- pods

    def _stand_ins(self) -> None:
        """One pod for each template that no pod of the input is made from: replicas are alike to the mesh."""
        for document in self._of(*_TEMPLATED):
            spec = document.manifest.get("spec") or {}
            template = spec.get("template") or {}
            meta = template.get("metadata") or {}
            labels = meta.get("labels") or {}
            if spec.get("replicas", 1) == 0 or self._has_pod(document.key.namespace, labels):
                continue
            name = f"{document.key.name}-0"
            owner = {
                "apiVersion": document.manifest.get("apiVersion", "apps/v1"),
                "kind": document.key.kind,
                "name": document.key.name,
                "uid": _DERIVED,
                "controller": True,
            }
            self._put(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {
                        "name": name,
                        "namespace": document.key.namespace,
                        "labels": dict(labels),
                        "annotations": dict(meta.get("annotations") or {}),
                        "ownerReferences": [owner],
                    },
                    "spec": template.get("spec") or {},
                },
                document.source,
            )
            self._assume(f"pod {document.key.namespace}/{name} stands for all replicas of {document.key}")

    def _has_pod(self, namespace: str, labels: Mapping[str, str]) -> bool:
        return any(
            pod.key.namespace == namespace and labels.items() <= _labels(pod.manifest).items()
            for pod in self._of("Pod")
        )

    def _pods(self) -> None:
        """A pod without a status is taken to run, and to be captured as the node agent would decide."""
        taken = False
        for document in self._of("Pod"):
            if document.manifest.get("status"):
                continue
            taken = True
            address = str(next(self._addresses[POD_ADDRESSES]))
            status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": _READY}
            captured = redirected(document.manifest, self._labels_of(document.key.namespace))
            self._put({**captured, "status": status}, document.source)
        if taken:
            self._assume(
                "pods without a status are Ready, and captured exactly if their labels say so; their addresses are stand-ins"
            )

    def _labels_of(self, namespace: str) -> Mapping[str, str]:
        document = self.documents.get(Key("Namespace", "", namespace))
        return _labels(document.manifest) if document else {}

    # --- services

    def _services(self) -> None:
        for document in self._of("Service"):
            spec = document.manifest.get("spec") or {}
            if spec.get("clusterIP") or spec.get("type") == "ExternalName":
                continue
            address = str(next(self._addresses[SERVICE_ADDRESSES]))
            self._put(
                {**document.manifest, "spec": {**spec, "clusterIP": address, "clusterIPs": [address]}}, document.source
            )

    def _entries(self) -> None:
        """Hosts of ServiceEntries without addresses get some, as istiod gives them."""
        numbers = Numbers()
        for document in self._of("ServiceEntry"):
            hosts = unaddressed_hosts(document.manifest)
            if not hosts or (document.manifest.get("status") or {}).get("addresses"):
                continue
            key = (document.key.namespace, document.key.name)
            given = [
                {"host": host, "value": value}
                for host in hosts
                if (number := numbers.of(Host(key, host))) is not None
                for value in addresses(number)
            ]
            status = {**(document.manifest.get("status") or {}), "addresses": given}
            self._put({**document.manifest, "status": status}, document.source)
            self._assume("hosts of ServiceEntries without addresses have been given some by istiod")

    def _endpoints(self) -> None:
        known = {
            (document.key.namespace, _labels(document.manifest).get(SERVICE_NAME_LABEL))
            for document in self._of("EndpointSlice")
        }
        for document in self._of("Service"):
            selector = (document.manifest.get("spec") or {}).get("selector")
            if not selector or (document.key.namespace, document.key.name) in known:
                continue
            pods = [pod for pod in self._of("Pod") if self._selected(pod, document.key.namespace, selector)]
            for index, pod in enumerate(pods):
                self._put(endpoint_slice(document.manifest, pod.manifest, f"{document.key.name}-{index}"))
            self._assume("endpoints of Services are the pods that their selectors find")

    @staticmethod
    def _selected(pod: Document, namespace: str, selector: Mapping[str, str]) -> bool:
        return pod.key.namespace == namespace and selector.items() <= _labels(pod.manifest).items()


def is_waypoint(gateway: Mapping[str, Any]) -> bool:
    return (gateway.get("spec") or {}).get("gatewayClassName") == names.WAYPOINT_CLASS


def programmed(gateway: Mapping[str, Any]) -> dict[str, Any]:
    """A waypoint's Gateway as it stands once its proxy is ready."""
    meta = gateway["metadata"]
    host = f"{meta['name']}.{meta['namespace']}.svc.cluster.local"
    return {**gateway, "status": {"addresses": [{"type": "Hostname", "value": host}]}}


def waypoint_pod(namespace: str, name: str) -> dict[str, Any]:
    """The pod of a waypoint's proxy, ready, as istiod would deploy it. Its address is the last of the stand-ins."""
    address = str(POD_ADDRESSES[-2])
    labels = {names.GATEWAY_NAME: name, names.DATAPLANE_MODE: "none"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"{name}-0", "namespace": namespace, "labels": labels},
        "spec": {"serviceAccountName": name, "containers": [{"name": "istio-proxy"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": _READY},
    }


def redirected(pod: Mapping[str, Any], namespace_labels: Mapping[str, str]) -> dict[str, Any]:
    """A pod with the annotation that the node agent gives it, or takes from it (A1, A2)."""
    meta = pod["metadata"]
    annotations = {key: value for key, value in (meta.get("annotations") or {}).items() if key != names.REDIRECTION}
    host_network = bool((pod.get("spec") or {}).get("hostNetwork"))
    facts = PodFacts(meta["namespace"], meta.get("labels") or {}, annotations, host_network)
    if enrolment(facts, namespace_labels, frozenset()).captured:
        annotations[names.REDIRECTION] = "enabled"
    return {**pod, "metadata": {**meta, "annotations": annotations}}


def endpoint_slice(service: Mapping[str, Any], pod: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A slice with one pod behind a Service; named target ports are looked up in the pod's containers."""
    spec = service.get("spec") or {}
    meta, status = pod["metadata"], pod.get("status") or {}
    ready = any(one.get("type") == "Ready" and one.get("status") == "True" for one in status.get("conditions") or ())
    ports = [
        {"name": port.get("name") or "", "port": target, "protocol": port.get("protocol") or "TCP"}
        for port in spec.get("ports") or ()
        if (target := _target(port, pod))
    ]
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": service["metadata"]["namespace"],
            "labels": {SERVICE_NAME_LABEL: service["metadata"]["name"]},
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [status.get("podIP") or ""],
                "conditions": {"ready": ready},
                "targetRef": {"kind": "Pod", "namespace": meta["namespace"], "name": meta["name"]},
            }
        ],
        "ports": ports,
    }


def _target(port: Mapping[str, Any], pod: Mapping[str, Any]) -> int:
    wanted = port.get("targetPort", port.get("port"))
    if isinstance(wanted, int):
        return wanted
    return next((int(number) for name, number in _container_ports(pod) if name == wanted), 0)


def _container_ports(pod: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    for container in (pod.get("spec") or {}).get("containers") or ():
        for port in container.get("ports") or ():
            yield port.get("name") or "", port.get("containerPort") or 0


def _labels(manifest: Mapping[str, Any]) -> Mapping[str, str]:
    return (manifest.get("metadata") or {}).get("labels") or {}
