"""What the mesh knows of a name, for a client of one namespace.  Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tulle.ztunnel.dns.names import aliases, candidates
from tulle.ztunnel.policy.terms import Address
from tulle.ztunnel.state.mesh import Mesh
from tulle.ztunnel.state.model import Service, Workload


@dataclass(frozen=True)
class Place:
    """Where this proxy answers: its network, the cluster's domain, and the namespace whose services go before others'."""

    network: str = ""
    domain: str = "cluster.local"
    preferred_namespace: str = ""


@dataclass(frozen=True)
class Found:
    """A service that a name stands for.  `alias`: the name that was meant, if the question had a search domain on it."""

    service: Service
    alias: str = ""


def find(mesh: Mesh, place: Place, name: str, namespace: str) -> Found | None:
    """The service that `name` means to a client in `namespace`; None for what is not answered here.

    A service without an address of its own is not, unless it is a headless one of the cluster.
    """
    for alias in aliases(name, namespace, place.domain):
        for candidate in candidates(alias.name):
            usable = (one for one in mesh.services_named(candidate) if _answerable(one, place, namespace))
            service = min(usable, key=lambda one: _distance(one, place, namespace), default=None)
            if service is not None:
                return Found(service, "" if candidate.startswith("*") else alias.stripped)
    return None


def addresses(mesh: Mesh, place: Place, service: Service, version: int) -> list[Address]:
    """The addresses of one IP version: the service's own in this network, or its endpoints' if it is headless."""
    if version not in service.ip_versions:
        return []
    if service.addresses:
        own = (one.address for one in service.addresses if one.network == place.network)
        return [address for address in own if address.version == version]
    endpoints = (one for one in mesh.endpoints(service.key) if one.healthy or service.all_endpoints)
    return list(dict.fromkeys(_of_version(endpoints, version)))


def _of_version(workloads: Iterable[Workload], version: int) -> Iterable[Address]:
    for workload in workloads:
        yield from [address for address in workload.addresses if address.version == version][:1]


def _answerable(service: Service, place: Place, namespace: str) -> bool:
    visible = not service.private or service.namespace == namespace
    headless = not service.addresses and service.hostname.endswith(f".svc.{place.domain}")
    return visible and (bool(service.addresses) or headless)


def _distance(service: Service, place: Place, namespace: str) -> tuple[bool, bool, bool, str]:
    """The nearest is the one meant: the client's namespace, the preferred one, what the mesh calls canonical."""
    return (
        service.namespace != namespace,
        service.namespace != place.preferred_namespace,
        not service.canonical,
        service.key,
    )
