"""Which records the cluster's zone holds: the Kubernetes DNS specification 1.1.0 as a pure function of Services and
EndpointSlices.

The difference between "no such name" and "no such record" matters in practice: a resolver that asks for AAAA and hears
NXDOMAIN may give up on the A record too. So every lookup first decides whether a name exists, then which of its
records were asked for.
"""

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network

from tulle.cluster.node.network.catalogue import Backend, Catalogue, Key, addresses, usable
from tulle.kube.objects import Service

TTL = 5
SCHEMA_VERSION = "1.1.0"
REVERSE = "in-addr.arpa"
Srv = tuple[int, int, int, str]  # priority, weight, port, target


@dataclass(frozen=True)
class Record:
    """``data``: an address (A), a name (CNAME, PTR), text (TXT) or an ``Srv``. Names are absolute, without the last
    dot.
    """

    name: str
    type: str
    data: str | Srv
    ttl: int = TTL


@dataclass(frozen=True)
class Lookup:
    """What the cluster knows of a name. ``ours`` False: ask the outside. ``records`` empty and ``exists``: no such
    record.
    """

    ours: bool
    exists: bool = False
    records: tuple[Record, ...] = ()
    additional: tuple[Record, ...] = ()


OUTSIDE = Lookup(ours=False)
NO_SUCH_NAME = Lookup(ours=True)
NO_SUCH_RECORD = Lookup(ours=True, exists=True)


@dataclass(frozen=True)
class Zone:
    """The zone ``domain``; ``namespaces`` are those that exist; ``ranges`` are the cluster's own, for reverse
    lookups.
    """

    domain: str
    catalogue: Catalogue
    namespaces: Container[str]
    ranges: tuple[IPv4Network, ...]

    def lookup(self, name: str, kind: str) -> Lookup:
        """Find ``name`` (any case, no final dot) for a record type such as "A" or "SRV"; "ANY" takes all."""
        lowered = name.lower()
        if lowered == self.domain or lowered.endswith("." + self.domain):
            found = self._forward(lowered.removesuffix(self.domain).rstrip(".").split("."))
        elif lowered.endswith("." + REVERSE):
            found = self._reverse(lowered)
        else:
            return OUTSIDE
        if not found.exists:
            return found
        # A CNAME answers every question about its name.
        kept = tuple(r for r in found.records if kind in (r.type, "ANY") or r.type == "CNAME")
        return Lookup(True, True, kept, found.additional if kept else ())

    def _forward(self, labels: list[str]) -> Lookup:
        match labels:
            case [""]:
                return NO_SUCH_RECORD
            case ["dns-version"]:
                return Lookup(True, True, (Record(f"dns-version.{self.domain}", "TXT", SCHEMA_VERSION),))
            case ["svc"] | ["pod"]:
                return NO_SUCH_RECORD
            case [namespace, "svc" | "pod"]:
                return NO_SUCH_RECORD if namespace in self.namespaces else NO_SUCH_NAME
            case [dashed, namespace, "pod"]:
                return self._pod(dashed, namespace)
            case [*rest, service, namespace, "svc"]:
                return self._service(rest, (namespace, service))
        return NO_SUCH_NAME

    def _pod(self, dashed: str, namespace: str) -> Lookup:
        try:
            address = str(IPv4Address(dashed.replace("-", ".")))
        except AddressValueError:
            return NO_SUCH_NAME
        if namespace not in self.namespaces or address.replace(".", "-") != dashed:
            return NO_SUCH_NAME
        return Lookup(True, True, (Record(f"{dashed}.{namespace}.pod.{self.domain}", "A", address),))

    def _service(self, rest: list[str], key: Key) -> Lookup:
        service = self.catalogue.services.get(key)
        if service is None:
            return NO_SUCH_NAME
        base = f"{key[1]}.{key[0]}.svc.{self.domain}"
        if service.spec.type == "ExternalName":
            alias = Record(base, "CNAME", service.spec.external_name.rstrip(".").lower())
            return NO_SUCH_NAME if rest else Lookup(True, True, (alias,))
        headless = service.spec.cluster_ip == "None"
        backends = usable(self.catalogue.backends(key)) if headless else ()
        match rest:
            case []:
                hosts = (b.address for b in backends) if headless else addresses(service)
                return self._service_name(base, service, hosts, backends)
            case [protocol] if protocol in ("_tcp", "_udp", "_sctp"):
                exists = any(p.protocol.lower() == protocol[1:] and p.name for p in service.spec.ports)
                return NO_SUCH_RECORD if exists else NO_SUCH_NAME
            case [port, protocol] if port.startswith("_") and protocol.startswith("_"):
                return self._srv(f"{port}.{protocol}.{base}", base, service, (port[1:], protocol[1:]), backends)
            case [host]:
                matching = [b.address for b in backends if _host(b) == host]
                return _addresses(f"{host}.{base}", matching) if matching else NO_SUCH_NAME
        return NO_SUCH_NAME

    def _service_name(self, base: str, service: Service, hosts: Iterable[str], backends: tuple[Backend, ...]) -> Lookup:
        """The Service's own name: its addresses, and SRV records for its named ports."""
        named = [p for p in service.spec.ports if p.name]
        parts = [self._srv(base, base, service, (p.name, p.protocol.lower()), backends) for p in named]
        records = (*_addresses(base, hosts).records, *(r for part in parts for r in part.records))
        return Lookup(True, True, records, tuple(dict.fromkeys(r for part in parts for r in part.additional)))

    def _srv(
        self, owner: str, base: str, service: Service, wanted: tuple[str, str], backends: tuple[Backend, ...]
    ) -> Lookup:
        name, protocol = wanted
        port = next((p for p in service.spec.ports if p.name.lower() == name and p.protocol.lower() == protocol), None)
        if port is None or not name:
            return NO_SUCH_NAME
        if service.spec.cluster_ip != "None":
            glue = tuple(Record(base, "A", a) for a in addresses(service))
            return Lookup(True, True, (Record(owner, "SRV", (0, 100, port.port, base)),), glue)
        found = [(b, number) for b in backends if (number := b.port(port.name, port.protocol)) is not None]
        weight = max(1, 100 // len(found)) if found else 0
        records = tuple(Record(owner, "SRV", (0, weight, number, f"{_host(b)}.{base}")) for b, number in found)
        return Lookup(True, True, records, tuple(Record(f"{_host(b)}.{base}", "A", b.address) for b, _ in found))

    def _reverse(self, name: str) -> Lookup:
        labels = name.removesuffix("." + REVERSE).split(".")
        try:
            address = IPv4Address(".".join(reversed(labels)))
        except AddressValueError:
            return OUTSIDE
        targets = tuple(dict.fromkeys(self._names_of(str(address))))
        if targets:
            return Lookup(True, True, tuple(Record(name, "PTR", target) for target in targets))
        return NO_SUCH_NAME if any(address in network for network in self.ranges) else OUTSIDE

    def _names_of(self, address: str) -> Iterator[str]:
        owner = self.catalogue.by_address(address)
        if owner is not None:
            yield f"{owner[1]}.{owner[0]}.svc.{self.domain}"
            return
        for (namespace, service), backend in self.catalogue.by_backend(address):
            yield f"{_host(backend)}.{service}.{namespace}.svc.{self.domain}"


def _host(backend: Backend) -> str:
    """An endpoint's own label under a headless Service: its hostname, else its address with dashes."""
    return backend.hostname.lower() or backend.address.replace(".", "-")


def _addresses(name: str, hosts: Iterable[str]) -> Lookup:
    return Lookup(True, True, tuple(Record(name, "A", host) for host in dict.fromkeys(hosts)))
