"""Keeps Envoy's resources in step with the mesh and the pods of the node.

No I/O: deltas of istiod and hand-overs of pods come in as calls, and the resource maps that Envoy is served from go
out.  Each derived resource is made again only when something it looked at has changed, and sent only when it differs.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import structlog

from tulle.xds import types
from tulle.xds.resources import ResourceMap
from tulle.ztunnel.config import names, shared
from tulle.ztunnel.config.access import route_table
from tulle.ztunnel.config.cluster import cluster_of
from tulle.ztunnel.config.destination import Destination, Here, Kind, decide
from tulle.ztunnel.config.introduction import baggage
from tulle.ztunnel.config.local_access import LocalAccess, local_access
from tulle.ztunnel.config.local_pod import LocalPod
from tulle.ztunnel.config.names import Target
from tulle.ztunnel.config.pod import hbone_listener, outbound_listener, plaintext_listener, sink_listener
from tulle.ztunnel.config.prefixes import GrowingPrefixes, Prefixes, divide
from tulle.ztunnel.dependents import Dependents
from tulle.ztunnel.policy.terms import Address
from tulle.ztunnel.state.mesh import HOST, Key, Mesh, PartlyRejected, host_key, pod_key
from tulle.ztunnel.state.model import Locality, NetworkAddress

_log = structlog.get_logger("tulle.ztunnel")

#: Destinations that are not of the mesh, or refused, that the clients of one namespace may have.  Those beyond are closed,
#: so that a pod that scans addresses cannot fill Envoy's memory.
MAX_STRAY: Final = 1024


class Configurator:
    """The state of one node proxy and the resources derived from it.  `version` grows with every change of either input."""

    def __init__(self, here: Here, sink_port: int) -> None:
        self.mesh = Mesh()
        self.version = 0
        self.pods: dict[str, LocalPod] = {}
        self.listeners = ResourceMap(types.LISTENER)
        self.routes = ResourceMap(types.ROUTES)
        self.shared_clusters = ResourceMap(types.CLUSTER)
        self.clusters = ResourceMap(types.CLUSTER, on_wanted=self._wanted, on_unwanted=self._unwanted)
        self.access: dict[str, LocalAccess] = {}
        self.destinations: dict[str, Destination] = {}
        self._access_changed: list[Callable[[str], None]] = []
        self.want_host: Callable[[str], None] = lambda _: None
        """Called with a host name whose addresses somebody waits for; `resolved` is to be called then."""
        self._here = here
        self._service_prefixes = GrowingPrefixes()
        self._direct_prefixes = GrowingPrefixes()
        self._prefixes = Prefixes()
        self._looked_at = Dependents()
        self._strays: dict[str, set[str]] = defaultdict(set)
        """The destinations of each namespace's clients that are strays and have a cluster."""
        for cluster in shared.clusters(sink_port):
            self.shared_clusters.set(cluster.name, cluster)
        for listener in shared.listeners(sink_port):
            self.listeners.set(listener.name, listener)

    def on_access(self, changed: Callable[[str], None]) -> None:
        """Have `changed` called with the uid of a pod whenever who may connect to it may have changed."""
        self._access_changed.append(changed)

    # -- what istiod says ---------------------------------------------------------------------------------------------

    def apply_addresses(self, updated: Mapping[str, bytes], removed: Sequence[str]) -> None:
        """One delta of istio.workload.Address.  Raises Rejected for what cannot be read, with the rest in use."""
        try:
            touched = self.mesh.apply_addresses(updated, removed)
        except PartlyRejected as error:
            self._follow(error.touched)
            raise
        self._follow(touched)

    def apply_policies(self, updated: Mapping[str, bytes], removed: Sequence[str]) -> None:
        """One delta of istio.security.Authorization.  Raises Rejected for what cannot be read, with the rest in use."""
        try:
            touched = self.mesh.apply_policies(updated, removed)
        except PartlyRejected as error:
            self._follow(error.touched)
            raise
        self._follow(touched)

    # -- host names of endpoints --------------------------------------------------------------------------------------

    def resolved(self, name: str, addresses: tuple[Address, ...]) -> None:
        """What a host name stands for now; no address: it cannot be told."""
        if self.mesh.hosts.get(name) != addresses:
            self.mesh.hosts[name] = addresses
            self._follow(frozenset({host_key(name)}))

    def hosts_in_use(self) -> frozenset[str]:
        """The host names that destinations in use depend on; others are forgotten."""
        used = frozenset(str(name) for kind, name in self._looked_at if kind == HOST)
        for name in self.mesh.hosts.keys() - used:
            del self.mesh.hosts[name]
        return used

    def _follow(self, touched: frozenset[Key]) -> None:
        self.version += 1
        if self._cover(touched):
            for pod in self.pods.values():
                self._write_outbound(pod)
        concerned = self._looked_at.of(touched)
        # Pods first: where a waypoint's own connections lead depends on its record.
        for uid in concerned & self.pods.keys():
            self._write_access(self.pods[uid])
        for name in concerned - self.pods.keys():
            self._write_destination(name)

    def _cover(self, touched: Iterable[Key]) -> bool:
        """Have the prefixes cover what is new; whether they changed."""
        found = [name for _, name in touched if isinstance(name, NetworkAddress) and name.network == self._here.network]
        services = self._service_prefixes.add(name.address for name in found if self.mesh.is_service(name))
        direct = self._direct_prefixes.add(name.address for name in found if self.mesh.is_routed_workload(name))
        if services or direct:
            self._prefixes = divide(self._service_prefixes.networks(), self._direct_prefixes.networks())
        return services or direct

    # -- pods of this node --------------------------------------------------------------------------------------------

    def add_pod(self, pod: LocalPod) -> None:
        """Configure a pod, or configure it anew if the same uid comes with another namespace."""
        self.version += 1
        before = self.pods.get(pod.uid)
        for kind in set(_kinds(before)) - set(_kinds(pod)) if before is not None else ():
            self.listeners.remove(names.listener(pod.uid, kind))
        pod = dataclasses.replace(pod, baggage=self._baggage(pod))
        self.pods[pod.uid] = pod
        self._write_access(pod)
        self._write_outbound(pod)
        others = (hbone_listener(pod), *((sink_listener(pod),) if pod.keeps_source else ()))
        for listener in others:
            self.listeners.set(listener.name, listener)

    def _baggage(self, pod: LocalPod) -> str:
        record = self.mesh.pod(pod.namespace, pod.name, pod.service_account)
        known = [record] if record is not None else self.mesh.pods_named(*self._here.pod)
        place = next((one.locality for one in known), Locality())
        return baggage(pod, record, self._here.cluster_id, place)

    def remove_pod(self, uid: str) -> None:
        """Forget a pod.  Raises KeyError for one that is not there."""
        self.version += 1
        pod = self.pods.pop(uid)
        del self.access[uid]
        self._looked_at.forget(uid)
        for kind in _kinds(pod):
            self.listeners.remove(names.listener(uid, kind))
        self.routes.remove(names.routes(uid))
        # Whether it was a waypoint can no longer be told when its record has gone before it.
        for name in [one for one in self.destinations if f"@{uid}|" in one]:
            self._unwanted(name)

    def listener_names(self, uid: str, *, with_certificate: bool) -> frozenset[str]:
        """The listeners that serve a pod; the one for tunnels opens only with the pod's certificate."""
        kinds = _kinds(self.pods[uid])
        return frozenset(names.listener(uid, kind) for kind in kinds if with_certificate or kind != names.HBONE)

    def _write_access(self, pod: LocalPod) -> None:
        now = local_access(self.mesh, pod)
        before = self.access.get(pod.uid)
        self.access[pod.uid] = now
        self._looked_at.note(pod.uid, now.looked_at)
        plaintext = plaintext_listener(pod, now.access)
        self.listeners.set(plaintext.name, plaintext)
        table = route_table(names.routes(pod.uid), now.access)
        self.routes.set(table.name, table)
        if before is not None and (
            before.access.addresses != now.access.addresses or before.is_waypoint != now.is_waypoint
        ):
            self._write_outbound(pod)
        if before is None or before.access != now.access:
            for changed in self._access_changed:
                changed(pod.uid)

    def _write_outbound(self, pod: LocalPod) -> None:
        local = self.access[pod.uid]
        outbound = outbound_listener(pod, local.access.addresses, self._prefixes, is_waypoint=local.is_waypoint)
        self.listeners.set(outbound.name, outbound)

    # -- destinations in use ------------------------------------------------------------------------------------------

    def _wanted(self, name: str) -> None:
        """Envoy asks for a cluster by name: a pod uses that destination for the first time.  It asks only once."""
        if names.parse_destination(name) is not None:
            self._write_destination(name)

    def _unwanted(self, name: str) -> None:
        """Envoy is not there any more, or has been started again."""
        self._looked_at.forget(name)
        before = self.destinations.pop(name, None)
        target = names.parse_destination(name)
        if before is None or target is None:
            return
        self._strays[target.namespace].discard(name)
        self.clusters.remove(name)

    def _write_destination(self, name: str) -> None:
        target = names.parse_destination(name)
        if target is None:
            return
        local = self.access.get(target.caller)
        now = decide(self.mesh, self._here, target, local.workload if local is not None else None)
        caller = self.pods.get(target.caller)
        # Also while the caller has no record, for it may come back.
        its_record = frozenset({pod_key(caller.namespace, caller.name)} if caller is not None else ())
        self._looked_at.note(name, now.looked_at | its_record)
        unknown = [host for host in now.hosts if host not in self.mesh.hosts]
        if unknown:
            # Whoever connects waits until it is known; open connections go on as they are.
            for host in unknown:
                self.want_host(host)
            return
        before = self.destinations.get(name)
        self.destinations[name] = now
        if before == now:
            return
        kept = self._kept(target, before, now)
        strays = self._strays[target.namespace]
        (strays.add if kept and _is_stray(now) else strays.discard)(name)
        if kept:
            self.clusters.set(name, cluster_of(target, now))
        else:
            self.clusters.remove(name)

    def _kept(self, target: Target, before: Destination | None, now: Destination) -> bool:
        """Whether a destination is worth a cluster: the address of a pod that has gone, and too many strays, are not.

        Envoy does not ask again for what it has asked for, so a destination that comes back is sent unasked.  Any other address
        that has left the mesh is one like those that never were in it.
        """
        if now.kind is Kind.REFUSE:
            _log.warning("destination refused", destination=target.cluster, reason=now.reason)
        if before is not None and before.of_pod and not now.known:
            return False
        strays = self._strays[target.namespace]
        new = target.cluster not in strays and (before is None or not now.known)
        if new and _is_stray(now) and len(strays) >= MAX_STRAY:
            _log.error("too many destinations outside of the mesh", destination=target.cluster, limit=MAX_STRAY)
            return False
        return True


def _is_stray(destination: Destination) -> bool:
    return not destination.known or destination.kind is Kind.REFUSE


def _kinds(pod: LocalPod) -> tuple[str, ...]:
    always = (names.OUTBOUND, names.PLAINTEXT, names.HBONE)
    return (*always, names.SINK) if pod.keeps_source else always
