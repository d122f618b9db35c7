"""Where a connection to an address goes (spec D2): the outbound decision tree, as a value.

The answer is for one client namespace and one node, not for one pod, so that it is made once and shared.  The caller's
identity does not enter: who may connect is decided at the other end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from tulle.ztunnel.config.names import HBONE_PORT, Target, authority
from tulle.ztunnel.policy.terms import Address
from tulle.ztunnel.state.mesh import HOST, Key, Mesh, address_key, host_key, pod_key, service_key
from tulle.ztunnel.state.model import GatewayRef, Locality, Mode, NetworkAddress, Port, Service, Workload

#: LoadBalancing.Scope
_REGION, _ZONE, _SUBZONE, _NODE, _CLUSTER, _NETWORK = 1, 2, 3, 4, 5, 6
#: Weights of alternatives are spread over their endpoints in this many parts.
_WEIGHT_PARTS: Final = 1000
_MAX_WEIGHT: Final = 128 * 1000
#: What the weights of one priority may sum up to.
_MAX_TOTAL: Final = 0xFFFFFFFF


class Kind(Enum):
    """What is done with a connection."""

    MESH = "mesh"
    REFUSE = "refuse"


@dataclass(frozen=True)
class Hop:
    """One endpoint.  `identities` are the SPIFFE URIs to accept; none means plain TCP to `authority`.

    `authority` is what is asked for in the tunnel (without a port: whatever the client asked for), `address`:`port` where
    the tunnel goes.
    """

    address: Address
    port: int
    authority: str
    identities: tuple[str, ...] = ()
    weight: int = 1
    workload: str = ""
    namespace: str = ""


@dataclass(frozen=True)
class Destination:
    """Endpoints by priority, or why there are none.

    `service`: `ns/hostname`, for logs.  `explain`: the target is an HTTP port of a service that wants refusals explained.
    `known`: the target is an address of the mesh; `of_pod`: a pod's own, and nobody's when the pod has gone.
    `looked_at`: the keys of the mesh that this answer depends on.
    """

    kind: Kind
    priorities: tuple[tuple[Hop, ...], ...] = ()
    service: str = ""
    reason: str = ""
    explain: bool = False
    known: bool = True
    of_pod: bool = False
    looked_at: frozenset[Key] = field(default=frozenset(), compare=False)

    @property
    def hosts(self) -> frozenset[str]:
        """The host names of endpoints whose addresses this answer depends on."""
        return frozenset(str(name) for kind, name in self.looked_at if kind == HOST)


@dataclass(frozen=True)
class Here:
    """Where this proxy runs: its mesh network, cluster and node, and which pod it is, whose record has the locality."""

    network: str = ""
    cluster_id: str = "Kubernetes"
    node: str = ""
    pod: tuple[str, str] = ("", "")


def decide(mesh: Mesh, here: Here, target: Target, caller: Workload | None = None) -> Destination:
    """What to do with a connection to `target`; `caller` is the client, if it is a waypoint itself."""
    return _Decision(mesh, here, target, caller).decide()


class _Decision:
    """One run through the tree, noting what it looks at."""

    def __init__(self, mesh: Mesh, here: Here, target: Target, caller: Workload | None) -> None:
        self._mesh = mesh
        self._here = here
        self._target = target
        self._caller = caller
        self._looked_at: set[Key] = set()
        self._elsewhere: set[str] = set()
        """Networks in which there would be endpoints."""
        if caller is not None:
            self._looked_at.add(pod_key(caller.namespace, caller.name))

    def decide(self) -> Destination:
        at = NetworkAddress(self._here.network, self._target.address)
        self._looked_at.add(address_key(at))
        workload = self._mesh.workload_at(at)
        if workload is not None:
            return replace(self._to_workload(workload), of_pod=workload.is_pod)
        service = self._mesh.service_at(at, self._target.namespace)
        if service is not None:
            return self._to_service(service)
        return self._mesh_hops([[self._plain(self._target.address, self._target.port, None)]], known=False)

    # -- a workload's own address -------------------------------------------------------------------------------------

    def _to_workload(self, workload: Workload) -> Destination:
        wanted = self._target.where
        if workload.waypoint is not None and not self._is_caller(workload.waypoint):
            hops = self._gateway(workload.waypoint, wanted, ())
            if not hops:
                return self._refuse(f"waypoint of workload {workload.uid} has no endpoint{self._why()}")
            return self._mesh_hops(hops)
        if workload.hbone:
            return self._mesh_hops([[self._tunnel(workload, self._target.address, self._target.port)]])
        return self._mesh_hops([[self._plain(self._target.address, self._target.port, workload)]])

    # -- a service's address ------------------------------------------------------------------------------------------

    def _to_service(self, service: Service) -> Destination:
        self._looked_at.add(service_key(service.key))
        if self._target.port is None:
            return self._refuse(f"service {service.key} is asked for without a port", service)
        port = service.port(self._target.port)
        explain = service.explain_refusals and port is not None and port.is_http
        if service.waypoints and not any(self._is_caller(ref) for ref, _ in service.waypoints):
            return self._to_waypoint(service, explain)
        if service.mode is Mode.PASSTHROUGH:
            return self._mesh_hops([[self._plain(self._target.address, self._target.port, None)]], service)
        if port is None:
            return self._refuse(f"service {service.key} has no port {self._target.port}", service)
        ranked: dict[int, list[Hop]] = {}
        for workload in self._mesh.endpoints(service.key):
            found = self._endpoint(service, port, workload)
            rank = self._rank(service, workload)
            if found and rank is not None:
                ranked.setdefault(rank, []).extend(found)
        if not ranked:
            return self._refuse(f"service {service.key} has no healthy endpoint{self._why()}", service, explain)
        return self._mesh_hops([ranked[rank] for rank in sorted(ranked)], service, explain)

    def _to_waypoint(self, service: Service, explain: bool) -> Destination:
        wanted = self._target.where
        found = [(self._gateway(ref, wanted, ()), weight) for ref, weight in service.waypoints]
        reachable = [(groups, weight) for groups, weight in found if groups]
        if not reachable:
            return self._refuse(f"waypoint of service {service.key} has no endpoint{self._why()}", service, explain)
        if len(reachable) == 1:
            return self._mesh_hops(reachable[0][0], service, explain)
        # Each waypoint gets its share, so its nearest endpoints stand for all of it.
        return self._mesh_hops([_shared([(groups[0], weight) for groups, weight in reachable])], service, explain)

    def _endpoint(self, service: Service, port: Port, workload: Workload) -> list[Hop]:
        if self._is_elsewhere(workload) or not (workload.healthy or service.all_endpoints):
            return []
        own = workload.ports_of(service.key) or ()
        target = next((p.target_port for p in own if p.service_port == port.service_port), port.target_port)
        if not target or not workload.capacity:
            return []
        if workload.hbone:
            names = service.subject_alt_names
            return [self._tunnel(workload, address, target, names) for address in self._addresses(workload)]
        return [self._plain(address, target, workload) for address in self._addresses(workload)]

    def _addresses(self, workload: Workload) -> Sequence[Address]:
        """One of its own addresses, of the client's IP version if there is one; of a host name, all that it stands for."""
        if workload.addresses or not workload.hostname:
            return self._of_version(workload.addresses)[:1]
        self._looked_at.add(host_key(workload.hostname))
        return self._of_version(self._mesh.hosts.get(workload.hostname, ()))

    def _of_version(self, addresses: Sequence[Address]) -> Sequence[Address]:
        return [one for one in addresses if one.version == self._target.address.version] or addresses

    def _is_elsewhere(self, workload: Workload) -> bool:
        """Whether it is in another network, which is entered through a gateway by a tunnel within a tunnel: that is not spoken here."""
        if workload.network == self._here.network:
            return False
        self._elsewhere.add(workload.network)
        return True

    def _why(self) -> str:
        """What the log should say of endpoints that there are and that cannot be used."""
        hosts = (str(name) for kind, name in self._looked_at if kind == HOST)
        empty = sorted(name for name in hosts if not self._mesh.hosts.get(name))
        if empty:
            return f": {', '.join(empty)} cannot be resolved"
        if self._elsewhere:
            return f": those in network {', '.join(sorted(self._elsewhere))} take double HBONE, which is not supported"
        return ""

    def _rank(self, service: Service, workload: Workload) -> int | None:
        """Priority by locality: 0 is best; None leaves the endpoint out."""
        preference = service.routing_preference
        if service.mode not in (Mode.STRICT, Mode.FAILOVER) or not preference:
            return 0
        matched = 0
        for scope in preference:
            if not self._same(scope, workload):
                break
            matched += 1
        if service.mode is Mode.STRICT and matched < len(preference):
            return None
        return len(preference) - matched

    def _same(self, scope: int, workload: Workload) -> bool:
        ours, theirs = self._locality(), workload.locality
        return {
            _REGION: ours.region == theirs.region,
            _ZONE: ours.zone == theirs.zone,
            _SUBZONE: ours.subzone == theirs.subzone,
            _NODE: self._here.node == workload.node,
            _CLUSTER: self._here.cluster_id == workload.cluster_id,
            _NETWORK: self._here.network == workload.network,
        }.get(scope, False)

    def _locality(self) -> Locality:
        """Of this proxy's own pod, as istiod knows it."""
        self._looked_at.add(pod_key(*self._here.pod))
        own = self._mesh.pods_named(*self._here.pod)
        return own[0].locality if own else Locality()

    # -- gateways -----------------------------------------------------------------------------------------------------

    def _gateway(self, ref: GatewayRef, wanted: str, names: tuple[str, ...]) -> list[list[Hop]]:
        """Endpoints of a waypoint by priority, each verified as its workload or by the names of the waypoint's service."""
        if ref.address is not None:
            self._looked_at.add(address_key(ref.address))
            workload = self._mesh.workload_at(ref.address)
            if workload is not None:
                return [[self._gateway_hop(workload, ref.port, wanted, names)]]
            service = self._mesh.service_at(ref.address, self._target.namespace)
        else:
            self._looked_at.add(service_key(ref.service or ""))
            service = self._mesh.services.get(ref.service or "")
        if service is None:
            return []
        self._looked_at.add(service_key(service.key))
        ranked: dict[int, list[Hop]] = {}
        for workload in self._mesh.endpoints(service.key):
            rank = self._rank(service, workload)
            if self._is_elsewhere(workload) or rank is None or not _takes_traffic(workload):
                continue
            own = workload.ports_of(service.key) or ()
            port = next((p.target_port for p in own if p.service_port == ref.port and p.target_port), ref.port)
            hop = self._gateway_hop(workload, port, wanted, service.subject_alt_names)
            ranked.setdefault(rank, []).append(hop)
        return [ranked[rank] for rank in sorted(ranked)]

    def _is_caller(self, ref: GatewayRef) -> bool:
        """Whether the client is that waypoint, and sends on what came to it (spec D2, 4)."""
        caller, address = self._caller, ref.address
        if caller is None:
            return False
        if address is not None and address.network == caller.network and address.address in caller.addresses:
            return True
        service = self._mesh.service_at(address, self._target.namespace) if address is not None else None
        key = service.key if service is not None else ref.service
        return key is not None and caller.ports_of(key) is not None

    def _gateway_hop(self, workload: Workload, port: int, wanted: str, names: tuple[str, ...]) -> Hop:
        identities = (workload.identity, *names)
        weight = max(1, workload.capacity)
        return Hop(workload.addresses[0], port, wanted, identities, weight, workload.name, workload.namespace)

    # -- results ------------------------------------------------------------------------------------------------------

    def _tunnel(self, workload: Workload, address: Address, port: int | None, names: tuple[str, ...] = ()) -> Hop:
        return Hop(
            address,
            HBONE_PORT,
            _asked_for(address, port),
            (workload.identity, *names),
            workload.capacity,
            workload.name,
            workload.namespace,
        )

    def _plain(self, address: Address, port: int | None, workload: Workload | None) -> Hop:
        name, namespace, weight = "", "", 1
        if workload is not None:
            name, namespace, weight = workload.name, workload.namespace, workload.capacity
        return Hop(address, port or 0, _asked_for(address, port), (), weight, name, namespace)

    def _mesh_hops(
        self,
        priorities: list[list[Hop]],
        service: Service | None = None,
        explain: bool = False,
        known: bool = True,
    ) -> Destination:
        ordered = tuple(tuple(sorted(_bounded(group), key=_order)) for group in priorities)
        return Destination(
            Kind.MESH,
            ordered,
            service=service.key if service is not None else "",
            explain=explain,
            known=known,
            looked_at=frozenset(self._looked_at),
        )

    def _refuse(self, reason: str, service: Service | None = None, explain: bool = False) -> Destination:
        return Destination(
            Kind.REFUSE,
            service=service.key if service is not None else "",
            reason=reason,
            explain=explain,
            looked_at=frozenset(self._looked_at),
        )


def _asked_for(address: Address, port: int | None) -> str:
    """What the tunnel asks for; without a port it is the address and port that the client connected to."""
    return str(address) if port is None else authority(address, port)


def _takes_traffic(workload: Workload) -> bool:
    return workload.healthy and bool(workload.addresses) and bool(workload.capacity)


def _shared(groups: Sequence[tuple[Sequence[Hop], int]]) -> list[Hop]:
    """The endpoints of alternatives, each of which gets its weight's share, and its endpoints theirs by capacity."""
    shares = []
    for hops, weight in groups:
        total = sum(hop.weight for hop in hops)
        shares += [replace(hop, weight=max(1, weight * _WEIGHT_PARTS * hop.weight // total)) for hop in hops]
    return shares


def _bounded(hops: Sequence[Hop]) -> Sequence[Hop]:
    """Weights that Envoy takes: it refuses a cluster in which they sum up to more than 32 bits."""
    total = sum(hop.weight for hop in hops)
    if total <= _MAX_TOTAL:
        return hops
    return [replace(hop, weight=max(1, hop.weight * _MAX_WEIGHT // total)) for hop in hops]


def _order(hop: Hop) -> tuple[str, int, str]:
    return str(hop.address), hop.port, hop.authority
