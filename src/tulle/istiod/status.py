"""Status conditions written back to the objects they are about (spec A6, C7).

Each condition belongs to one field manager and is written by server-side apply, so conditions of others stay untouched and one that is no
longer true to say is removed by applying nothing. A condition is written only when it says something new, and the event of that write
changes no record of the index; so there is no loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import msgspec
import structlog

from tulle.istiod.gateway_status import differs, merged
from tulle.istiod.index.mesh import MeshIndex
from tulle.istiod.index.records import Uid
from tulle.istiod.index.state import Delta, WorkloadState
from tulle.istiod.index.waypoints import Binding
from tulle.istiod.informers import Informers
from tulle.istiod.policy_status import conditions_of
from tulle.kube.client import Client
from tulle.kube.errors import NotFound
from tulle.kube.informer import Change, Informer
from tulle.kube.objects import Condition
from tulle.kube.queue import WorkQueue
from tulle.kube.resources import AUTHORIZATION_POLICIES, SERVICE_ENTRIES, SERVICES, WORKLOAD_ENTRIES, Resource
from tulle.security.lifting import qualify
from tulle.security.status import WAYPOINT_ACCEPTED, ZTUNNEL_ACCEPTED

log = structlog.get_logger("tulle.istiod.status")

WAYPOINT_BOUND = "istio.io/WaypointBound"
_POLICY = AUTHORIZATION_POLICIES.kind
_BOUND_RESOURCES: Mapping[str, Resource[Any]] = {one.kind: one for one in (SERVICES, SERVICE_ENTRIES, WORKLOAD_ENTRIES)}


class StatusKey(NamedTuple):
    kind: str
    namespace: str
    name: str


@dataclass(frozen=True)
class _Claim:
    """A condition (or None: there must be none) of one type, by one manager."""

    type: str
    manager: str
    condition: dict[str, Any] | None


class StatusWriter:
    """`on_delta` after every flush; `run` writes, and is to run in one istiod only."""

    def __init__(self, client: Client, informers: Informers, index: MeshIndex) -> None:
        self._client = client
        self._index = index
        self._queue: WorkQueue[StatusKey] = WorkQueue()
        self._targeting: dict[str, set[tuple[str, str]]] = {}
        self._liftable: dict[Uid, frozenset[tuple[str, str]]] = {}
        self._stores: Mapping[str, Informer[Any]] = {
            _POLICY: informers.authorization_policies,
            SERVICES.kind: informers.services,
            SERVICE_ENTRIES.kind: informers.service_entries,
            WORKLOAD_ENTRIES.kind: informers.workload_entries,
        }
        for kind, informer in self._stores.items():
            informer.on_change(self._watcher(kind))

    def _watcher(self, kind: str) -> Any:
        def changed(change: Change[Any]) -> None:
            """Somebody may have removed or overwritten a condition."""
            if change.new is not None and _conditions(change.old) != _conditions(change.new):
                self._queue.add(StatusKey(kind, *change.key))

        return changed

    # --- what to look at

    def on_delta(self, delta: Delta) -> None:
        """Note whose conditions a flush may have changed."""
        for key in delta.policies:
            self._remember_targeting(key)
            self._queue.add(StatusKey(_POLICY, *key))
        if delta.settings:
            self._add_all()
        for service in delta.services:
            self._add_targeting(service[0])
            state = self._index.services.get(service)
            if state is not None:
                self._queue.add(StatusKey(state.record.kind, state.record.namespace, state.record.name))
        for namespace in self._targeting if delta.classes else ():
            self._add_targeting(namespace)
        for waypoint in delta.waypoints:
            self._add_targeting(waypoint[0])
            self._add_targeting(self._index.settings.root_namespace)
        for uid in delta.workloads:
            self._workload_changed(uid)

    def _remember_targeting(self, key: tuple[str, str]) -> None:
        policy = self._index.policies.get(key)
        if policy is not None and policy.target_refs:
            self._targeting.setdefault(key[0], set()).add(key)
        else:
            self._targeting.get(key[0], set()).discard(key)

    def _add_targeting(self, namespace: str) -> None:
        for key in self._targeting.get(namespace, ()):
            self._queue.add(StatusKey(_POLICY, *key))

    def _workload_changed(self, uid: Uid) -> None:
        state = self._index.workloads.get(uid)
        if state is not None and state.record.kind == WORKLOAD_ENTRIES.kind:
            self._queue.add(StatusKey(WORKLOAD_ENTRIES.kind, state.record.namespace, state.record.name))
        before = self._liftable.pop(uid, frozenset())
        after = self._liftable_policies(state)
        if after:
            self._liftable[uid] = after
        for key in before | after:
            self._queue.add(StatusKey(_POLICY, *key))

    def _liftable_policies(self, state: WorkloadState | None) -> frozenset[tuple[str, str]]:
        """Policies that could be lifted for a workload: their condition says for whom they are."""
        if state is None or not self._index.settings.lift_selector_policies:
            return frozenset()
        view = self._index.view(state.record, state.services, state.binding)
        metas = (one.policy.meta for one in self._index.policy_set.applied(view) if qualify(one.policy).qualifies)
        return frozenset((meta.namespace, meta.name) for meta in metas)

    def _add_all(self) -> None:
        for kind, informer in self._stores.items():
            for key in informer.store:
                self._queue.add(StatusKey(kind, *key))

    # --- writing

    async def run(self) -> None:
        """Write conditions until cancelled; everything is looked at once at the start."""
        self._add_all()
        await self._queue.work(self._reconcile, workers=4)

    async def _reconcile(self, key: StatusKey) -> None:
        obj = self._stores[key.kind].store.get((key.namespace, key.name))
        if obj is None:
            return
        resource, claims = self._claims(key)
        known = _conditions(obj)
        for claim in claims:
            await self._write(resource, key, known, claim)

    def _claims(self, key: StatusKey) -> tuple[Resource[Any], tuple[_Claim, ...]]:
        if key.kind == _POLICY:
            policy = self._index.policies.get((key.namespace, key.name))
            ztunnel, waypoint = conditions_of(self._index, policy) if policy else (None, None)
            return AUTHORIZATION_POLICIES, (
                _Claim(ZTUNNEL_ACCEPTED, "istio-ambient-ztunnel-policy", _policy_condition(ztunnel)),
                _Claim(WAYPOINT_ACCEPTED, "istio-ambient-waypoint-policy", _policy_condition(waypoint)),
            )
        manager = "istio-ambient-workloadentry" if key.kind == WORKLOAD_ENTRIES.kind else "istio-ambient-service"
        binding = self._binding(key)
        return _BOUND_RESOURCES[key.kind], (_Claim(WAYPOINT_BOUND, manager, _bound_condition(binding)),)

    def _binding(self, key: StatusKey) -> Binding | None:
        if key.kind == WORKLOAD_ENTRIES.kind:
            workloads = (
                self._index.workloads.get(uid) for uid in self._index.tables.workloads_in.get(key.namespace, ())
            )
            states: Iterable[Any] = (one for one in workloads if one and one.record.kind == key.kind)
        else:
            keys = self._index.tables.services_in.get(key.namespace, ())
            states = (self._index.services[one] for one in keys if one in self._index.services)
            states = (one for one in states if one.record.kind == key.kind)
        return next((one.binding for one in states if one.record.name == key.name), None)

    async def _write(
        self, resource: Resource[Any], key: StatusKey, known: tuple[Condition, ...], claim: _Claim
    ) -> None:
        mine = [one for one in known if one.type == claim.type]
        fresh = [claim.condition] if claim.condition else []
        if not differs(mine, fresh):
            return
        body = {
            "metadata": {"name": key.name, "namespace": key.namespace},
            "status": {"conditions": merged(mine, fresh)} if fresh else {},
        }
        try:
            await self._client.patch(
                resource,
                key.name,
                body,
                key.namespace,
                kind="apply",
                subresource="status",
                field_manager=claim.manager,
                force=True,
            )
        except NotFound:
            # Deleted meanwhile: there is nobody left to tell.
            return
        log.info(
            "condition written",
            object="/".join(key),
            type=claim.type,
            reason=fresh[0]["reason"] if fresh else "removed",
        )


def _policy_condition(condition: Any) -> dict[str, Any] | None:
    if condition is None:
        return None
    return {
        "type": condition.type,
        "status": "True" if condition.status else "False",
        "reason": condition.reason,
        "message": condition.message,
        "observedGeneration": condition.observed_generation,
    }


def _bound_condition(binding: Binding | None) -> dict[str, Any] | None:
    if binding is None or binding.reason is None:
        return None
    return {
        "type": WAYPOINT_BOUND,
        "status": "True" if binding.waypoint is not None else "False",
        "reason": binding.reason.value,
        "message": binding.message,
    }


def _conditions(obj: Any) -> tuple[Condition, ...]:
    """The status conditions of a typed object or a manifest. Status is anybody's to write: what is no condition is left out."""
    if obj is None:
        return ()
    if not isinstance(obj, Mapping):
        found: tuple[Condition, ...] = obj.status.conditions
        return found
    try:
        return msgspec.convert((obj.get("status") or {}).get("conditions") or (), tuple[Condition, ...])
    except msgspec.ValidationError:
        return ()
