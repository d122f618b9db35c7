"""The mesh as it was told, with every question the index asks answered by a lookup.

Each reverse index exists for one arrow of change propagation: from a namespace to what lives in it, from a node to its pods, from a pod
to the services it stands behind, from a label to the workloads that carry it. Keeping them costs a few set operations per change, and
makes the cost of a change follow its own reach instead of the size of the mesh.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias, TypeVar

from tulle.istiod.index.networks import NetworkGateways
from tulle.istiod.index.records import (
    GatewayClassRecord,
    GatewayRecord,
    GroupRecord,
    Member,
    NamespaceRecord,
    NodeRecord,
    ObjectKey,
    ServiceKey,
    ServiceRecord,
    Uid,
    WaypointKey,
    WorkloadRecord,
)
from tulle.kube.selectors import matches_labels

GroupKey: TypeAlias = ObjectKey
K = TypeVar("K")
V = TypeVar("V")

_NOTHING: frozenset[Uid] = frozenset()


class Tables:
    """Raw records by key, and their reverse indexes. Only `put_*` methods change it."""

    def __init__(self) -> None:
        self.namespaces: dict[str, NamespaceRecord] = {}
        self.nodes: dict[str, NodeRecord] = {}
        self.classes: dict[str, GatewayClassRecord] = {}
        self.gateways: dict[WaypointKey, GatewayRecord] = {}
        self.services: dict[ServiceKey, ServiceRecord] = {}
        self.workloads: dict[Uid, WorkloadRecord] = {}
        self.groups: dict[GroupKey, GroupRecord] = {}
        self.networks = NetworkGateways()

        self.gateways_of_class: dict[str, set[WaypointKey]] = {}
        self.services_in: dict[str, set[ServiceKey]] = {}
        self.workloads_in: dict[str, set[Uid]] = {}
        self.workloads_on: dict[str, set[Uid]] = {}
        self._services_of_host: dict[str, set[ServiceKey]] = {}
        self._services_at: dict[str, set[ServiceKey]] = {}
        self._described: dict[ObjectKey, ServiceRecord] = {}
        self._descriptions: dict[ServiceKey, set[ObjectKey]] = {}
        self._labelled: dict[tuple[str, str], dict[str, set[Uid]]] = {}
        self._groups_of_service: dict[ServiceKey, set[GroupKey]] = {}
        self._groups_of_workload: dict[Uid, set[GroupKey]] = {}
        self._selecting: dict[tuple[str, str], set[GroupKey]] = {}
        self._of_kind: dict[tuple[str, str], set[Uid]] = {}
        self._members: dict[GroupKey, dict[Uid, Member]] = {}

    # --- writing

    def put_gateway(self, key: WaypointKey, new: GatewayRecord | None) -> set[Uid]:
        """Returns the workloads whose network is entered another way now."""
        old = _swap(self.gateways, key, new)
        move(self.gateways_of_class, key, (old.class_name,) if old else (), (new.class_name,) if new else ())
        networks = self.networks.put(key, old, new)
        return {uid for uid, one in self.workloads.items() if one.network in networks} if networks else set()

    def put_service(self, source: ObjectKey, new: ServiceRecord | None) -> set[ServiceKey]:
        """Take over what `source` says of a service; returns the services to look at again: that one, and its rivals.

        Several objects of a namespace may give the same host. Which of them counts does not depend on who came last, and another one
        takes its place when it goes.
        """
        old = _swap(self._described, source, new)
        move(self._descriptions, source, (old.key,) if old else (), (new.key,) if new else ())
        keys = {record.key for record in (old, new) if record is not None}
        touched = set(keys)
        for key in keys:
            same = (self._described[one] for one in self._descriptions.get(key, ()))
            before, after = self.services.get(key), min(same, key=lambda one: one.seniority, default=None)
            self._settle_service(key, after)
            touched.update(rival for one in (before, after) if one is not None for rival in self._rivals(one))
        return touched

    def _settle_service(self, key: ServiceKey, new: ServiceRecord | None) -> None:
        old = _swap(self.services, key, new)
        move(self.services_in, key, (old.namespace,) if old else (), (new.namespace,) if new else ())
        move(self._services_of_host, key, (old.hostname,) if old else (), (new.hostname,) if new else ())
        move(self._services_at, key, old.addresses if old else (), new.addresses if new else ())

    def put_workload(self, uid: Uid, new: WorkloadRecord | None) -> None:
        old = _swap(self.workloads, uid, new)
        move(self.workloads_in, uid, (old.namespace,) if old else (), (new.namespace,) if new else ())
        move(self.workloads_on, uid, (old.node,) if old else (), (new.node,) if new else ())
        move(self._of_kind, uid, (_kind(old),) if old else (), (_kind(new),) if new else ())
        if old is None or new is None or old.labels != new.labels or old.namespace != new.namespace:
            self._relabel(uid, old, new)

    def _relabel(self, uid: Uid, old: WorkloadRecord | None, new: WorkloadRecord | None) -> None:
        for label in old.labels.items() if old else ():
            assert old is not None
            by_namespace = self._labelled[label]
            _discard(by_namespace, old.namespace, uid)
            if not by_namespace:
                del self._labelled[label]
        for label in new.labels.items() if new else ():
            assert new is not None
            self._labelled.setdefault(label, {}).setdefault(new.namespace, set()).add(uid)

    def put_group(self, key: GroupKey, new: GroupRecord | None) -> None:
        old = _swap(self.groups, key, new)
        members = {member.uid: member for member in new.members} if new else {}
        before = self._members.pop(key, {})
        if members:
            self._members[key] = members
        move(self._groups_of_workload, key, tuple(before), tuple(members))
        move(self._groups_of_service, key, old.services if old else (), new.services if new else ())
        move(self._selecting, key, _selecting(old), _selecting(new))

    # --- asking

    def is_canonical(self, service: ServiceRecord) -> bool:
        """Whether this service is what its hostname and its addresses mean where nothing nearer does.

        A Service is, else the oldest ServiceEntry; what is seen in its own namespace only stands in nobody else's way.
        """
        rivals = (self.services[key] for key in self._rivals(service) if key != service.key)
        return all(service.seniority < one.seniority for one in rivals if not one.namespace_only)

    def _rivals(self, service: ServiceRecord) -> set[ServiceKey]:
        """The services with its hostname or one of its addresses."""
        at = (self._services_at.get(address, ()) for address in service.addresses)
        return set(self._services_of_host.get(service.hostname, ())).union(*at)

    def members_of(self, service: ServiceKey) -> set[Uid]:
        """Workloads that stand behind a service, known or not yet known."""
        found: set[Uid] = set()
        for key in self._groups_of_service.get(service, ()):
            found.update(self.members(key))
        return found

    def members(self, key: GroupKey) -> Iterator[Uid]:
        """Workloads of one group: the listed ones and those its selector finds."""
        yield from self._members.get(key, ())
        group = self.groups.get(key)
        if group is None or not group.selector:
            return
        candidates = [found for kind in group.selects if (found := self._of_kind.get((group.namespace, kind)))]
        if candidates:
            selected = self.selected(group.namespace, group.selector)
            yield from (uid for uid in selected if any(uid in found for found in candidates))

    def services_of(self, uid: Uid) -> dict[ServiceKey, dict[str, int]]:
        """The services a workload stands behind, each with the target port of every port name."""
        found: dict[ServiceKey, dict[str, int]] = {}
        # Sorted, because where two groups disagree on a port the result must not depend on which was heard of first.
        for key in sorted(self._groups_of_workload.get(uid, ())):
            self._collect(found, self.groups[key], self._members[key][uid].ports)
        record = self.workloads.get(uid)
        for key in sorted(self._selecting.get(_kind(record), ())) if record else ():
            group = self.groups[key]
            assert record is not None
            if group.selector and matches_labels(group.selector, record.labels):
                self._collect(found, group, _selected_ports(group, record))
        return found

    @staticmethod
    def _collect(
        found: dict[ServiceKey, dict[str, int]], group: GroupRecord, ports: tuple[tuple[str, int], ...]
    ) -> None:
        for service in group.services:
            found.setdefault(service, {}).update(ports)

    def selected(self, namespace: str | None, labels: Mapping[str, str]) -> set[Uid]:
        """Workloads with all of these labels, in one namespace or (None) everywhere. No labels: all of them."""
        if not labels:
            return set(self.workloads) if namespace is None else set(self.workloads_in.get(namespace, ()))
        sets = [self._with_label(label, namespace) for label in labels.items()]
        sets.sort(key=len)
        found = set(sets[0])
        for more in sets[1:]:
            found &= more
        return found

    def _with_label(self, label: tuple[str, str], namespace: str | None) -> set[Uid] | frozenset[Uid]:
        by_namespace = self._labelled.get(label, {})
        if namespace is not None:
            return by_namespace.get(namespace, _NOTHING)
        return set().union(*by_namespace.values())


def _kind(record: WorkloadRecord) -> tuple[str, str]:
    return (record.namespace, record.kind)


def _selecting(group: GroupRecord | None) -> tuple[tuple[str, str], ...]:
    """The (namespace, kind) pairs among which a group selects."""
    return tuple((group.namespace, kind) for kind in group.selects) if group and group.selector else ()


def _selected_ports(group: GroupRecord, record: WorkloadRecord) -> tuple[tuple[str, int], ...]:
    if not record.ports:
        return group.selector_ports
    own = dict(record.ports)
    named = ((port, own[name]) for port, name in group.own_ports if name in own)
    return (*group.selector_ports, *named)


def _swap(table: dict[K, V], key: K, new: V | None) -> V | None:
    old = table.pop(key, None)
    if new is not None:
        table[key] = new
    return old


def move(index: dict[K, set[V]], value: V, old: Iterable[K], new: Iterable[K]) -> None:
    """Let `value` be found under the keys `new` and no longer under those of `old` that are not among them."""
    before, after = set(old), set(new)
    for key in before - after:
        _discard(index, key, value)
    for key in after - before:
        index.setdefault(key, set()).add(value)


def _discard(index: dict[K, set[V]], key: K, value: V) -> None:
    values = index[key]
    values.discard(value)
    if not values:
        del index[key]
