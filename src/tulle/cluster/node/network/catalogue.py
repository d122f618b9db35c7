"""The cluster's Services as this node sees them, shared by the Service proxy and the DNS server so that both tell
the same story.

It follows two informers and keeps the two joins that everybody needs: EndpointSlices by their Service, and Services by
address.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address

from tulle.kube.informer import Change, Informer
from tulle.kube.objects import Endpoint, EndpointSlice, Service

SERVICE_NAME_LABEL = "kubernetes.io/service-name"

Key = tuple[str, str]


@dataclass(frozen=True)
class Backend:
    """One endpoint address of a Service. ``ports``: port name -> number, for the slice it came from."""

    address: str
    ready: bool
    serving: bool
    hostname: str
    node_name: str
    ports: tuple[tuple[str, str, int], ...]  # (name, protocol, number)

    def port(self, name: str, protocol: str) -> int | None:
        return next((number for n, p, number in self.ports if n == name and p == protocol), None)


class Catalogue:
    """``services``, ``backends(key)`` and ``by_address``; ``on_change(fn)`` tells the key of each Service that
    changed.
    """

    def __init__(self) -> None:
        self.services: dict[Key, Service] = {}
        self._slices: dict[Key, dict[Key, EndpointSlice]] = {}
        self._by_address: dict[str, Key] = {}
        self._listeners: list[Callable[[Key], None]] = []

    def follow(self, services: Informer[Service], slices: Informer[EndpointSlice]) -> None:
        """Subscribe to both informers."""
        services.on_change(self.service_changed)
        slices.on_change(self.slice_changed)

    def on_change(self, listener: Callable[[Key], None]) -> None:
        self._listeners.append(listener)

    def service_changed(self, change: Change[Service]) -> None:
        """One Service was added, changed or removed."""
        key = change.key
        for address in addresses(self.services.get(key)):
            self._by_address.pop(address, None)
        if change.new is None:
            self.services.pop(key, None)
        else:
            self.services[key] = change.new
            for address in addresses(change.new):
                self._by_address[address] = key
        self._tell(key)

    def slice_changed(self, change: Change[EndpointSlice]) -> None:
        """One EndpointSlice was added, changed or removed; it may have moved from one Service to another."""
        for side in (change.old, change.new):
            owner = _owner(side)
            if owner is not None:
                self._hold(owner, change.key, side if side is change.new else None)
        for owner in {_owner(change.old), _owner(change.new)} - {None}:
            if owner is not None:
                self._tell(owner)

    def _hold(self, owner: Key, name: Key, part: EndpointSlice | None) -> None:
        held = self._slices.setdefault(owner, {})
        if part is None:
            held.pop(name, None)
        else:
            held[name] = part
        if not held:
            del self._slices[owner]

    def by_address(self, address: str) -> Key | None:
        """The Service that owns this cluster IP."""
        return self._by_address.get(address)

    def backends(self, key: Key) -> tuple[Backend, ...]:
        """All endpoint addresses of a Service, in a stable order, IPv4 only."""
        slices = self._slices.get(key, {})
        found = [b for name in sorted(slices) for b in _backends(slices[name])]
        return tuple(sorted(found, key=lambda b: (b.address, b.ports)))

    def by_backend(self, address: str) -> Iterable[tuple[Key, Backend]]:
        """The headless Services that have this endpoint address."""
        for key, service in self.services.items():
            if service.spec.cluster_ip == "None":
                for backend in self.backends(key):
                    if backend.address == address:
                        yield key, backend

    def _tell(self, key: Key) -> None:
        for listener in self._listeners:
            listener(key)


def addresses(service: Service | None) -> tuple[str, ...]:
    """The Service's IPv4 cluster addresses; none for a headless or ExternalName Service."""
    if service is None or service.spec.type == "ExternalName":
        return ()
    listed = service.spec.cluster_ips or (service.spec.cluster_ip,)
    return tuple(a for a in listed if a and a != "None" and ":" not in a)


def usable(backends: Iterable[Backend]) -> tuple[Backend, ...]:
    """Ready endpoints; when there is none, those that still serve while they terminate (as kube-proxy chooses)."""
    known = tuple(backends)
    return tuple(b for b in known if b.ready) or tuple(b for b in known if b.serving)


def _owner(part: EndpointSlice | None) -> Key | None:
    name = part.metadata.labels.get(SERVICE_NAME_LABEL, "") if part is not None else ""
    return (part.metadata.namespace, name) if part is not None and name else None


def _backends(part: EndpointSlice) -> list[Backend]:
    """What of a slice can be in a rule and in an answer. Slices come from anybody who may write them, and one address that nft
    cannot read would have it refuse the rules of every Service.
    """
    if part.address_type not in ("", "IPv4"):
        return []
    ports = tuple((p.name, p.protocol, p.port) for p in part.ports if p.port is not None and 0 < p.port < 1 << 16)
    return [_backend(e, address, ports) for e in part.endpoints for address in e.addresses if _is_ipv4(address)]


@lru_cache(maxsize=4096)
def _is_ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except AddressValueError:
        return False
    return True


def _backend(endpoint: Endpoint, address: str, ports: tuple[tuple[str, str, int], ...]) -> Backend:
    conditions = endpoint.conditions
    ready = conditions.ready is not False
    serving = conditions.serving if conditions.serving is not None else ready
    return Backend(address, ready, serving, endpoint.hostname, endpoint.node_name, ports)
