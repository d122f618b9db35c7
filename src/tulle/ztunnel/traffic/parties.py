"""Who is at the two ends of a connection, as far as the mesh knows.

The local pod's record is certain.  The other end's is looked up by address, and used only when it agrees with the identity
that TLS has proved; without TLS the address is all there is.
"""

from __future__ import annotations

from dataclasses import dataclass

from tulle.ztunnel.configurator import Configurator
from tulle.ztunnel.state.mesh import Mesh
from tulle.ztunnel.state.model import NetworkAddress, Service, Workload
from tulle.ztunnel.traffic.line import Line, address, split


@dataclass(frozen=True, slots=True)
class Parties:
    """Both ends' records where known, and the service that was meant."""

    source: Workload | None
    destination: Workload | None
    service: Service | None


def parties(configurator: Configurator, network: str, line: Line) -> Parties:
    """Of one line, by the mesh as it is now."""
    local = configurator.access.get(line.pod)
    own = local.workload if local is not None else None
    if line.inbound:
        source = _other(configurator.mesh, network, line.source, line.source_identity)
        return Parties(source, own, _service_of(configurator.mesh, own, line.actual))
    identity = line.destination_identity
    destination = _other(configurator.mesh, network, line.destination if line.tunnelled else line.actual, identity)
    return Parties(own, destination, configurator.mesh.services.get(line.service))


def _other(mesh: Mesh, network: str, where: str, identity: str) -> Workload | None:
    at = address(where)
    found = mesh.workload_at(NetworkAddress(network, at)) if at is not None else None
    return found if found is not None and identity in ("", found.identity) else None


def _service_of(mesh: Mesh, workload: Workload | None, target: str) -> Service | None:
    """The one service of the workload with that target port; None when there are several, or none."""
    where = split(target)
    if workload is None or where is None:
        return None
    found = []
    for key, ports in workload.services:
        service = mesh.services.get(key)
        if service is None:
            continue
        if where[1] in service.targets(ports).values():
            found.append(service)
    return found[0] if len(found) == 1 else None
