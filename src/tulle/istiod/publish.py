"""From index deltas to what proxies are sent, in an order in which no moment is open.

Everything a proxy may ask for lies in resource maps; a delta of the index becomes changes of those maps. One thing needs care: when a
selector policy is lifted to a waypoint, the workload's ztunnel stops judging clients and lets the waypoint through. Should ztunnel hear of
it before the waypoint enforces the policy, everybody could pass for a moment. So there are two rules:
- a workload is told to trust a waypoint only when the waypoint acknowledged its policies; until then it gets the policies as if there were
  no waypoint, which refuses more and never less;
- a waypoint stops enforcing a lifted policy only when the node proxies acknowledged that the workload no longer trusts it.
A first publication after a start takes the waypoints as up to date: they kept their configuration while istiod was away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

from tulle.istiod import wds
from tulle.istiod.authorization_pb import authorization
from tulle.istiod.index.contained import contained
from tulle.istiod.index.mesh import MeshIndex
from tulle.istiod.index.records import Uid
from tulle.istiod.index.state import Delta, WorkloadState
from tulle.istiod.waypoint_source import POLICY_TYPES, WaypointSource
from tulle.security.model import Action
from tulle.xds import types
from tulle.xds.delta import TypeState
from tulle.xds.proto import workload_pb2
from tulle.xds.resources import ResourceMap


class Publisher:
    """Owns the maps for node proxies, feeds those for waypoints, and hands policies over between the two.

    `readers` gives, for every open stream, the state of each type it reads.
    """

    def __init__(self, index: MeshIndex, waypoints: WaypointSource, readers: Callable[[], Iterable[TypeState]]) -> None:
        self.addresses = ResourceMap(types.ADDRESS)
        self.authorizations = ResourceMap(types.AUTHORIZATION)
        self._workloads: ResourceMap | None = None
        self.waypoints = waypoints
        self._index = index
        self._readers = readers
        self._trusting: dict[Uid, frozenset[str]] = {}
        """Workloads that were told to trust waypoints, by the generated policies that say so."""
        self._waiting: set[Uid] = set()
        self._started = False
        self._pending = asyncio.Event()

    @property
    def workloads(self) -> ResourceMap:
        """Workloads without services, in the older form of the protocol (spec E1). It is kept from when somebody first asks for it."""
        if self._workloads is None:
            self._workloads = ResourceMap(types.WORKLOAD)
            for uid in self._index.workloads:
                entry = self.addresses.get(uid)
                if entry is not None:
                    self._workloads.set(uid, workload_pb2.Address.FromString(entry.body()).workload, entry.aliases)
        return self._workloads

    def publish(self, delta: Delta) -> None:
        """Bring all maps up to date with a flush of the index."""
        self.waypoints.publish(delta, self._withdrawn(delta.workloads))
        self._publish_policies(delta.ztunnel_policies)
        for key in delta.services | (self._index.services.keys() if delta.settings else set()):
            self._publish_service(key)
        for uid in delta.workloads:
            self._publish_workload(uid)
        self._started = True
        if self._unfinished:
            self._pending.set()

    @property
    def _unfinished(self) -> bool:
        return bool(self._waiting) or self.waypoints.held

    def _withdrawn(self, uids: Iterable[Uid]) -> frozenset[Uid]:
        """Workloads that trust waypoints and are about to stop it."""
        return frozenset(
            uid for uid in uids if self._trusting.get(uid, frozenset()) - _generated(self._index.workloads.get(uid))
        )

    def _publish_policies(self, names: Iterable[str]) -> None:
        for name in names:
            policy = self._index.ztunnel_policies.get(name)
            if policy is None:
                self.authorizations.remove(name)
            else:
                closed = replace(policy, action=Action.ALLOW, rules=())
                message = contained(
                    partial(authorization, policy),
                    partial(authorization, closed),
                    f"policy {name}",
                    "it denies everything",
                )
                self.authorizations.set(name, message)

    def _publish_service(self, key: tuple[str, str]) -> None:
        state = self._index.services.get(key)
        name = wds.service_name(key)
        if state is None:
            self.addresses.remove(name)
            return

        def put() -> None:
            address = wds.service_address(state, self._index.settings.explain_refusals)
            self.addresses.set(name, address, wds.address_aliases(state.record.addresses))

        contained(put, lambda: None, f"service {name}", "node proxies keep what they were told of it")

    def _publish_workload(self, uid: Uid) -> None:
        state = self._index.workloads.get(uid)
        if state is None:
            self._withdraw_workload(uid)
            return
        put, withdraw = partial(self._put_workload, uid, state), partial(self._withdraw_workload, uid)
        contained(put, withdraw, f"workload {uid}", "it is no part of the mesh")

    def _withdraw_workload(self, uid: Uid) -> None:
        self.addresses.remove(uid)
        if self._workloads is not None:
            self._workloads.remove(uid)
        self._trusting.pop(uid, None)
        self._waiting.discard(uid)

    def _put_workload(self, uid: Uid, state: WorkloadState) -> None:
        policies = None
        wanted = _generated(state)
        if self._may_trust(uid, state):
            self._waiting.discard(uid)
        else:
            self._waiting.add(uid)
            wanted = frozenset()
            policies = self._index.policy_set.for_workload(
                self._index.view(state.record, state.services, state.binding, lifted=False)
            )
        if wanted:
            self._trusting[uid] = wanted
        else:
            self._trusting.pop(uid, None)
        aliases = wds.address_aliases(state.record.addresses, state.record.network)
        address = wds.workload_address(state, policies)
        self.addresses.set(uid, address, aliases)
        if self._workloads is not None:
            self._workloads.set(uid, address.workload, aliases)

    def _may_trust(self, uid: Uid, state: WorkloadState) -> bool:
        if not self._started or _generated(state) <= self._trusting.get(uid, frozenset()):
            return True
        view = self._index.view(state.record, state.services, state.binding)
        return all(self._enforces(one.namespace, one.name) for one in view.waypoints)

    def _enforces(self, namespace: str, name: str) -> bool:
        """Whether every proxy of a waypoint, and there is one, acknowledged the policies it was sent."""
        maps = self.waypoints.maps((namespace, name))
        readers = [
            state
            for state in self._readers()
            if state.type_url in POLICY_TYPES and state.resources is maps[state.type_url]
        ]
        return bool(readers) and all(state.answered and state.idle() and state.rejection is None for state in readers)

    def _node_proxies_settled(self) -> bool:
        mine = (self.addresses, self.authorizations)
        return all(state.idle() for state in self._readers() if any(state.resources is one for one in mine))

    def answered(self) -> None:
        """Some proxy has answered, or is gone: handovers that wait for that may go on."""
        if self._unfinished:
            self._pending.set()

    async def run(self) -> None:
        """Finish the handovers that wait for an acknowledgement, until cancelled. Idle while there are none."""
        while True:
            await self._pending.wait()
            self._pending.clear()
            self.advance()

    def advance(self) -> bool:
        """Finish the handovers whose other side has acknowledged; says whether there was one."""
        released = self.waypoints.held and self._node_proxies_settled()
        if released:
            self.waypoints.release()
        ready = [uid for uid in self._waiting if self._may_trust(uid, self._index.workloads[uid])]
        for uid in ready:
            self._publish_workload(uid)
        return released or bool(ready)


def _generated(state: WorkloadState | None) -> frozenset[str]:
    return frozenset(policy.key for policy in state.generated) if state else frozenset()
