"""The Envoy configuration of every waypoint, kept up to date target by target.

Each waypoint has its own resource maps, and only its own proxies may read them. When a pod comes or goes only the load assignments of
its services change; anything else about a target, endpoints among which there are host names included, rebuilds its waypoint's
configuration, in which equal resources stay untouched.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import structlog

from tulle.istiod.index.contained import contained
from tulle.istiod.index.mesh import MeshIndex
from tulle.istiod.index.records import Uid, WaypointKey
from tulle.istiod.index.state import Delta, Target, WorkloadTarget
from tulle.istiod.jwks.fetch import Issuer
from tulle.istiod.waypoint_config import clusters, names
from tulle.istiod.waypoint_config.resources import TYPES, WaypointResources, build
from tulle.istiod.waypoint_config.view import AuthorizerView, PortView, TargetView, WaypointConfigView
from tulle.istiod.waypoint_keys import TokenKeys
from tulle.istiod.waypoint_targets import authorizer_views, target_view
from tulle.xds.resources import ResourceMap

__all__ = ["POLICY_TYPES", "TYPES", "WaypointSource"]

_NOT_SERVED = "the waypoint does not serve it"
log = structlog.get_logger("tulle.istiod.waypoints")

View = TypeVar("View", PortView, AuthorizerView)

POLICY_TYPES = (names.EXTENSION_TYPE, names.LISTENER_TYPE, names.ROUTE_TYPE)
"""The types that carry policies: what they acknowledge is enforced."""


class WaypointSource:
    """Resource maps of waypoints. `publish` after every flush of the index; `keys` are those of token issuers."""

    def __init__(self, index: MeshIndex, keys: TokenKeys | None = None) -> None:
        self._index = index
        self._keys = keys or TokenKeys()
        self._maps: dict[WaypointKey, dict[str, ResourceMap]] = {}
        self._targets: dict[WaypointKey, dict[Target, TargetView]] = {}
        self._held: set[tuple[WaypointKey, Target]] = set()
        self._authorizers: tuple[AuthorizerView, ...] = ()

    def maps(self, key: WaypointKey) -> Mapping[str, ResourceMap]:
        """The maps of one waypoint by type URL; empty ones while nothing is known of it."""
        return self._maps.setdefault(key, {type_url: ResourceMap(type_url) for type_url in TYPES})

    @property
    def held(self) -> bool:
        """Whether some targets still enforce policies that are no longer asked for."""
        return bool(self._held)

    def publish(self, delta: Delta, withdrawn: Collection[Uid] = ()) -> None:
        """Take over what a flush changed.

        Targets with a `withdrawn` workload keep enforcing what they enforced until `release`: its ztunnel still lets the
        waypoint through in the name of policies that the waypoint must therefore not drop first.
        """
        rebuild = {key for key in self._index.waypoints if delta.settings} | set(delta.waypoints)
        rebuild |= self._renew_authorizers(delta)
        for key, target in delta.targets:
            if self._reaches(target, withdrawn) and target in self._targets.get(key, {}):
                self._held.add((key, target))
            if self._update(key, target):
                rebuild.add(key)
        for key in rebuild:
            self._rebuild(key)
        self._keys.settle()

    def keys_changed(self, issuer: Issuer) -> None:
        """Put an issuer's new keys to use wherever its tokens count."""
        for key in {key for key, target in self._keys.users(issuer) if self._update(key, target)}:
            self._rebuild(key)

    def _renew_authorizers(self, delta: Delta) -> set[WaypointKey]:
        """Take over changes of external authorizers; the waypoints to rebuild for them. Changed endpoints need none."""
        if not self._index.settings.extension_providers and not self._authorizers:
            return set()
        if not (delta.settings or delta.services or delta.workloads):
            return set()
        old, self._authorizers = self._authorizers, authorizer_views(self._index)
        if [_without_endpoints(one) for one in old] != [_without_endpoints(one) for one in self._authorizers]:
            return set(self._index.waypoints)
        for before, now in zip(old, self._authorizers, strict=True):
            for maps in self._maps.values() if before != now and not now.by_name else ():
                if names.authorizer(now.name) in maps[names.ENDPOINT_TYPE]:
                    maps[names.ENDPOINT_TYPE].set(names.authorizer(now.name), clusters.authorizer_endpoints(now))
        return set()

    def release(self) -> None:
        """Enforce what is asked for now, everywhere."""
        held, self._held = self._held, set()
        for key in {key for key, target in held if self._update(key, target)}:
            self._rebuild(key)

    def _reaches(self, target: Target, uids: Collection[Uid]) -> bool:
        if not uids:
            return False
        if isinstance(target, WorkloadTarget):
            return target.uid in uids
        return not self._index.tables.members_of(target.key).isdisjoint(uids)

    def _update(self, key: WaypointKey, target: Target) -> bool:
        """Renew a target's view; says whether the waypoint's configuration must be rebuilt for it."""
        waypoint = self._index.waypoints.get(key)
        known = self._targets.setdefault(key, {})
        old = known.get(target)
        new = None
        if waypoint is not None and waypoint.ours and target in self._index.bound.get(key, ()):
            new = contained(
                partial(target_view, self._index, waypoint, target, self._keys.of),
                lambda: None,
                _name(target),
                _NOT_SERVED,
            )
        if old is not None and new is not None and (key, target) in self._held:
            new = replace(new, rules=old.rules)
        self._keys.use((key, target), new.rules.tokens if new is not None else ())
        if new == old:
            return False
        if new is None:
            del known[target]
            return True
        known[target] = new
        if old is None or _shape(old) != _shape(new):
            return True
        try:
            loads = [clusters.endpoints(new, port) for port in new.ports if not port.by_name]
        except Exception:  # which endpoint it is comes out when all is built anew
            return True
        for load in loads:
            self.maps(key)[names.ENDPOINT_TYPE].set(load.cluster_name, load)
        return False

    def _rebuild(self, key: WaypointKey) -> None:
        waypoint = self._index.waypoints.get(key)
        maps = self.maps(key)
        if waypoint is None or not waypoint.ours:
            # The maps stay: a proxy that still has its stream open must see what comes after.
            for resource_map in maps.values():
                resource_map.replace({})
            return
        settings = self._index.settings
        targets = tuple(_without_clashes(key, self._ordered(key)))
        asked = {target.rules.authorizer for target in targets}
        view = WaypointConfigView(
            namespace=waypoint.namespace,
            name=waypoint.name,
            identity=self._index.waypoint_view(waypoint).identity.spiffe,
            trust_domain=settings.trust_domain,
            targets=targets,
            path_normalization=settings.path_normalization,
            authorizers=tuple(one for one in self._authorizers if one.name in asked),
        )
        resources = _resources(view)
        for type_url, found in resources.by_type.items() if resources is not None else ():
            maps[type_url].replace(found)

    def _ordered(self, key: WaypointKey) -> Iterable[TargetView]:
        """Services before ServiceEntries, these by age, and workloads last: the configuration does not depend on the order of events."""
        known = self._targets.get(key, {})
        return (known[target] for target in sorted(known, key=self._place))

    def _place(self, target: Target) -> tuple[bool, tuple[Any, ...]]:
        if isinstance(target, WorkloadTarget):
            return True, (target.uid,)
        return False, self._index.services[target.key].record.seniority


def _resources(view: WaypointConfigView) -> WaypointResources | None:
    """The waypoint's configuration, without targets of which none can be made; None if none can be made at all."""
    try:
        return build(view)
    except Exception:  # which target it is comes out below
        usable = tuple(target for target in view.targets if _can_be_built(view, target))
    name = f"Gateway {view.namespace}/{view.name}"
    return contained(
        partial(build, replace(view, targets=usable)), lambda: None, name, "the waypoint goes on with what it had"
    )


def _can_be_built(view: WaypointConfigView, target: TargetView) -> bool:
    alone = replace(view, targets=(target,))
    return contained(lambda: bool(build(alone).by_type), lambda: False, names.target(target), _NOT_SERVED)


def _name(target: Target) -> str:
    return f"workload {target.uid}" if isinstance(target, WorkloadTarget) else f"service {'/'.join(target.key)}"


def _shape(view: TargetView) -> tuple[TargetView, tuple[bool, ...]]:
    """A target without what may change of it while its clusters stay. Whether a pod is captured decides which cluster it has."""
    ports = tuple(_without_endpoints(port) for port in view.ports)
    return replace(view, ports=ports), tuple(port.outside for port in view.ports)


def _without_endpoints(view: View) -> View:
    """Without endpoints that come by EDS."""
    return view if view.by_name else replace(view, endpoints=())


def _without_clashes(key: WaypointKey, targets: Iterable[TargetView]) -> Iterable[TargetView]:
    """Let the first target that claims an address and port have it: Envoy refuses a listener in which two do. A pod's are its own."""
    found = tuple(targets)
    pods = {address: names.target(one) for one in found if one.kind == "Pod" for address in one.addresses}
    taken: dict[tuple[str, int], str] = {}
    for target in found:
        name = names.target(target)
        free = []
        for port in target.ports:
            owners = (pods.get(address, taken.get((address, port.port), name)) for address in target.addresses)
            clash = next((owner for owner in owners if owner != name), None)
            if clash is None:
                free.append(port)
                taken.update(((address, port.port), name) for address in target.addresses)
            else:
                log.warning(
                    "two targets of a waypoint have the same address and port",
                    waypoint="/".join(key),
                    left_out=name,
                    port=port.port,
                    kept=clash,
                )
        yield target if len(free) == len(target.ports) else replace(target, ports=tuple(free))
