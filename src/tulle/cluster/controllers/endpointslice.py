"""EndpointSlices: the addresses behind each Service that has a selector, ready or not.

Pods are grouped by the numbers that the Service's ports come to on them (named ports may differ from pod to
pod), one group to a slice, at most 100 endpoints each. Slices are changed in place, so that a reader sees a
pod's change as one small change.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from tulle.cluster.controllers.caches import Context, Subscriptions
from tulle.cluster.controllers.pods import is_ready, owner_reference
from tulle.kube import Change, NotFound, WorkQueue, reference
from tulle.kube.informer import Key
from tulle.kube.objects import Endpoint, EndpointConditions, EndpointPort, EndpointSlice, Pod, Service
from tulle.kube.resources import ENDPOINT_SLICES, PODS, SERVICES
from tulle.kube.selectors import matches_labels

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
HEADLESS = "service.kubernetes.io/headless"
_ZONE = "topology.kubernetes.io/zone"
_MOST = 100

Ports = tuple[EndpointPort, ...]


class EndpointSliceController:
    """Reconciles every Service with its slices."""

    name = "endpoint-slice-controller"

    def __init__(self, context: Context) -> None:
        self._client = context.client
        self._caches = context.caches
        self._queue: WorkQueue[Key] = WorkQueue("Service")

    async def run(self) -> None:
        """Works until cancelled."""
        handlers = Subscriptions()
        try:
            await self._caches.synced(self._caches.services, self._caches.pods, self._caches.nodes, self._caches.slices)
            handlers.on(self._caches.services, lambda change: self._queue.add(change.key))
            handlers.on(self._caches.pods, self._on_pod)
            handlers.on(self._caches.slices, self._on_slice)
            await self._queue.work(self.reconcile, workers=4)
        finally:
            handlers.close()

    def _on_slice(self, change: Change[EndpointSlice]) -> None:
        for item in (change.old, change.new):
            if item is not None and item.metadata.labels.get(MANAGED_BY) == MANAGER:
                self._queue.add((change.key[0], item.metadata.labels.get(SERVICE_NAME, "")))

    def _on_pod(self, change: Change[Pod]) -> None:
        old, new = change.old, change.new
        if old is not None and new is not None and _essence(old) == _essence(new):
            return
        for key, service in self._caches.services.store.items():
            if key[0] == change.key[0] and service.spec.selector:
                selector = service.spec.selector
                if any(pod is not None and matches_labels(selector, pod.metadata.labels) for pod in (old, new)):
                    self._queue.add(key)

    async def reconcile(self, key: Key) -> None:
        """Brings the slices of one Service to what its pods are."""
        slices = self._slices(key)
        service = self._caches.services.store.get(key)
        if service is None or not service.spec.selector:
            # Without its Service a slice is garbage; without a selector the slices are the user's own.
            for item in slices if service is None else ():
                await self._remove(item)
            return
        pods = [
            pod
            for (pod_namespace, _), pod in self._caches.pods.store.items()
            if pod_namespace == key[0] and matches_labels(service.spec.selector, pod.metadata.labels)
        ]
        await self._apply(service, slices, self.groups(service, pods))

    def _slices(self, key: Key) -> list[EndpointSlice]:
        return [
            item
            for (namespace, _), item in self._caches.slices.store.items()
            if namespace == key[0]
            and item.metadata.labels.get(SERVICE_NAME) == key[1]
            and item.metadata.labels.get(MANAGED_BY) == MANAGER
            and not item.metadata.deletion_timestamp
        ]

    def groups(self, service: Service, pods: Iterable[Pod]) -> dict[tuple[str, Ports], list[Endpoint]]:
        """Endpoints by address family and port numbers."""
        found: dict[tuple[str, Ports], list[Endpoint]] = {}
        for pod in sorted(pods, key=lambda p: p.metadata.name):
            if pod.status.phase in ("Succeeded", "Failed") or not pod.spec.node_name:
                continue
            ports = service_ports(service, pod)
            for family, address in _addresses(service, pod):
                found.setdefault((family, ports), []).append(self._endpoint(service, pod, address))
        return found

    def _endpoint(self, service: Service, pod: Pod, address: str) -> Endpoint:
        terminating = bool(pod.metadata.deletion_timestamp)
        serving = is_ready(pod)
        ready = (serving and not terminating) or service.spec.publish_not_ready_addresses
        node = self._caches.nodes.store.get(("", pod.spec.node_name))
        in_subdomain = pod.spec.subdomain == service.metadata.name
        ref = msgspec.structs.replace(reference(PODS, pod), api_version="", resource_version="")
        return Endpoint(
            addresses=(address,),
            conditions=EndpointConditions(ready=ready, serving=serving, terminating=terminating),
            hostname=pod.spec.hostname if in_subdomain else "",
            node_name=pod.spec.node_name,
            zone=node.metadata.labels.get(_ZONE, "") if node else "",
            target_ref=ref,
        )

    async def _apply(
        self, service: Service, slices: list[EndpointSlice], groups: dict[tuple[str, Ports], list[Endpoint]]
    ) -> None:
        labels = _labels(service)
        free = list(slices)
        for (family, ports), endpoints in groups.items():
            for part in _parts(endpoints):
                fitting = [s for s in free if s.address_type == family and s.ports == ports]
                fitting = fitting or [s for s in free if s.address_type == family]
                if fitting:
                    best = max(
                        fitting, key=lambda s: len({e.addresses for e in s.endpoints} & {e.addresses for e in part})
                    )
                    free.remove(best)
                    await self._update(best, labels, ports, part)
                else:
                    await self._create(service, labels, family, ports, part)
        keep_one = not groups
        for item in free:
            if keep_one:
                keep_one = False
                await self._update(item, labels, (), [])
            else:
                await self._remove(item)
        if not groups and not slices:
            await self._create(service, labels, _family(service), (), [])

    async def _create(
        self, service: Service, labels: dict[str, str], family: str, ports: Ports, endpoints: list[Endpoint]
    ) -> None:
        if service.metadata.deletion_timestamp:
            # It still leads to its pods, but a new slice would only come back as fast as its deletion removes them.
            return
        body = {
            "metadata": {
                "generateName": f"{service.metadata.name}-",
                "namespace": service.metadata.namespace,
                "labels": labels,
                "ownerReferences": [owner_reference(SERVICES, service)],
            },
            "addressType": family,
            "endpoints": endpoints,
            "ports": ports_body(ports),
        }
        made = await self._client.create(ENDPOINT_SLICES, body, service.metadata.namespace)
        await self._seen(made)

    async def _seen(self, made: EndpointSlice) -> None:
        """Until the cache has a new slice another pass would make it again."""
        key = (made.metadata.namespace, made.metadata.name)
        informer = self._caches.slices
        await informer.until(lambda: key in informer.store, 5.0)

    async def _update(self, item: EndpointSlice, labels: dict[str, str], ports: Ports, part: list[Endpoint]) -> None:
        own = {key: value for key, value in item.metadata.labels.items() if key in labels}
        stale = HEADLESS in item.metadata.labels and HEADLESS not in labels
        if item.endpoints == tuple(part) and item.ports == ports and own == labels and not stale:
            return
        metadata: dict[str, Any] = {"resourceVersion": item.metadata.resource_version, "labels": {**labels}}
        if stale:
            metadata["labels"][HEADLESS] = None
        body = {"metadata": metadata, "endpoints": part, "ports": ports_body(ports)}
        await self._client.patch(ENDPOINT_SLICES, item.metadata.name, body, item.metadata.namespace)

    async def _remove(self, item: EndpointSlice) -> None:
        try:
            await self._client.delete(
                ENDPOINT_SLICES, item.metadata.name, item.metadata.namespace, uid=item.metadata.uid
            )
        except NotFound:
            return


def service_ports(service: Service, pod: Pod) -> Ports:
    """The ports of ``service`` as numbers on ``pod``; a named port that the pod lacks is left out."""
    found = []
    for port in service.spec.ports:
        target = port.target_port if port.target_port not in (None, 0, "") else port.port
        number = target if isinstance(target, int) else _named(pod, str(target), port.protocol)
        if number is not None:
            found.append(
                EndpointPort(name=port.name, protocol=port.protocol, port=number, app_protocol=port.app_protocol)
            )
    return tuple(found)


def _named(pod: Pod, name: str, protocol: str) -> int | None:
    sidecars = [c for c in pod.spec.init_containers if c.restart_policy == "Always"]
    for container in (*pod.spec.containers, *sidecars):
        for port in container.ports:
            if port.name == name and port.protocol == protocol:
                return port.container_port
    return None


def ports_body(ports: Ports) -> list[dict[str, Any]]:
    """The ports as the API has them: name and protocol are always there, also when empty or TCP."""
    bodies: list[dict[str, Any]] = []
    for port in ports:
        body: dict[str, Any] = {"name": port.name, "protocol": port.protocol, "port": port.port}
        if port.app_protocol:
            body["appProtocol"] = port.app_protocol
        bodies.append(body)
    return bodies


def _labels(service: Service) -> dict[str, str]:
    inherited = {k: v for k, v in service.metadata.labels.items() if k not in (SERVICE_NAME, MANAGED_BY, HEADLESS)}
    headless = {HEADLESS: ""} if service.spec.cluster_ip == "None" else {}
    return {**inherited, **headless, SERVICE_NAME: service.metadata.name, MANAGED_BY: MANAGER}


def _parts(endpoints: list[Endpoint]) -> list[list[Endpoint]]:
    return [endpoints[start : start + _MOST] for start in range(0, len(endpoints), _MOST)]


def _address_set(endpoints: Iterable[Endpoint]) -> set[tuple[str, ...]]:
    return {endpoint.addresses for endpoint in endpoints}


def _family(service: Service) -> str:
    families = service.spec.ip_families
    return families[0] if families else "IPv4"


def _addresses(service: Service, pod: Pod) -> list[tuple[str, str]]:
    wanted = service.spec.ip_families or ("IPv4",)
    own = [entry.ip for entry in pod.status.pod_ips] or ([pod.status.pod_ip] if pod.status.pod_ip else [])
    found = []
    for family in wanted:
        address = next((ip for ip in own if (":" in ip) == (family == "IPv6")), None)
        if address is not None:
            found.append((family, address))
    return found


def _essence(pod: Pod) -> tuple[Any, ...]:
    """All of a pod that a slice depends on: most changes of a pod are not among it."""
    return (
        pod.metadata.labels,
        bool(pod.metadata.deletion_timestamp),
        pod.status.phase,
        pod.status.pod_ip,
        pod.status.pod_ips,
        pod.spec.node_name,
        pod.spec.hostname,
        is_ready(pod),
    )
