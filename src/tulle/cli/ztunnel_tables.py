"""The tables of `istioctl ztunnel-config`: a dump and a filter in, text out (spec F)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tulle.cli import console
from tulle.cli.ztunnel_dump import Certificate, Dump, LocalWorkload, Policy, Service, Workload

_NARROW = 1
"""Spaces between columns; certificates have the wide gap of istioctl's older tables."""


@dataclass(frozen=True)
class Filter:
    """What of a dump to show; an empty field lets everything pass. Names are compared as istioctl does, without regard to case."""

    namespace: str = ""
    node: str = ""
    address: str = ""
    direction: str = ""
    raw: bool = False

    def in_namespace(self, namespace: str) -> bool:
        return _alike(self.namespace, namespace)

    def workload(self, workload: Workload) -> bool:
        addressed = not self.address or any(_alike(self.address, address) for address in workload.addresses)
        return self.in_namespace(workload.namespace) and _alike(self.node, workload.node) and addressed


@dataclass(frozen=True)
class Section:
    """One part of a dump: as a table, and as the documents behind it."""

    title: str
    table: Callable[[Dump, Filter, datetime], str]
    documents: Callable[[Dump, Filter], Any]


def _alike(wanted: str, found: str) -> bool:
    return not wanted or wanted.lower() == found.lower()


def waypoint_name(destination: str, services: Iterable[Service]) -> str:
    """The name of the service that a waypoint destination means; NA when the dump does not have it."""
    if not destination:
        return "None"
    for service in services:
        if destination == f"{service.namespace}/{service.hostname}" or destination in service.vips:
            return service.name
    return "NA"


def _workloads(dump: Dump, wanted: Filter) -> list[Workload]:
    return [workload for workload in dump.workloads if wanted.workload(workload)]


def _workload_table(dump: Dump, wanted: Filter, _now: datetime) -> str:
    rows = (
        (
            w.namespace,
            w.name,
            next(iter(w.addresses), ""),
            w.node,
            waypoint_name(w.waypoint, dump.services),
            w.protocol,
        )
        for w in _workloads(dump, wanted)
    )
    return console.table(["NAMESPACE", "POD NAME", "ADDRESS", "NODE", "WAYPOINT", "PROTOCOL"], rows, _NARROW)


def _services(dump: Dump, wanted: Filter) -> list[Service]:
    return [service for service in dump.services if wanted.in_namespace(service.namespace)]


def _service_table(dump: Dump, wanted: Filter, _now: datetime) -> str:
    rows = (
        (
            s.namespace,
            s.name,
            ",".join(vip.partition("/")[2] for vip in s.vips),
            waypoint_name(s.waypoint, dump.services),
            f"{s.healthy}/{s.endpoints}",
        )
        for s in _services(dump, wanted)
    )
    return console.table(["NAMESPACE", "SERVICE NAME", "SERVICE VIP", "WAYPOINT", "ENDPOINTS"], rows, _NARROW)


def _policies(dump: Dump, wanted: Filter) -> list[Policy]:
    return [policy for policy in dump.policies if wanted.in_namespace(policy.namespace)]


def _policy_table(dump: Dump, wanted: Filter, _now: datetime) -> str:
    rows = ((p.namespace, p.name, p.action, p.scope) for p in _policies(dump, wanted))
    return console.table(["NAMESPACE", "POLICY NAME", "ACTION", "SCOPE"], rows, _NARROW)


def _certificate_table(dump: Dump, _wanted: Filter, now: datetime) -> str:
    header = ["CERTIFICATE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"]
    return console.table(header, (_certificate_row(one, now) for one in dump.certificates))


def _certificate_row(one: Certificate, now: datetime) -> Sequence[str]:
    serial = "NA" if one.serial is None else f"{one.serial:x}"
    valid = str(one.valid(now)).lower()
    return (one.identity, one.kind, one.state, valid, serial, zulu(one.not_after), zulu(one.not_before))


def zulu(time: datetime | None) -> str:
    """A time as certificates' tables show it."""
    return "NA" if time is None else time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _local(dump: Dump, wanted: Filter) -> list[LocalWorkload]:
    return [workload for workload in dump.local if wanted.in_namespace(workload.namespace)]


def _connection_table(dump: Dump, wanted: Filter, _now: datetime) -> str:
    names = {} if wanted.raw else _names(dump)
    rows = (
        (
            f"{workload.name}.{workload.namespace}",
            c.direction,
            *(_named(end, names) for end in (c.local, c.remote, c.target)),
            c.protocol,
        )
        for workload in _local(dump, wanted)
        for c in workload.connections
        if _alike(wanted.direction, c.direction)
    )
    return console.table(["WORKLOAD", "DIRECTION", "LOCAL", "REMOTE", "REMOTE TARGET", "PROTOCOL"], rows, _NARROW)


def _names(dump: Dump) -> Mapping[str, str]:
    """What stands behind each address: a service's hostname, else a workload's name and namespace."""
    names = {address: f"{w.name}.{w.namespace}" for w in dump.workloads for address in w.addresses}
    names.update((vip.partition("/")[2], s.hostname) for s in dump.services for vip in s.vips)
    return names


def _named(end: str, names: Mapping[str, str]) -> str:
    host, colon, port = end.rpartition(":")
    return f"{names.get(host.strip('[]'), host)}{colon}{port}"


SECTIONS: Mapping[str, Section] = {
    "workload": Section("WORKLOAD INFO", _workload_table, lambda d, f: [w.raw for w in _workloads(d, f)]),
    "service": Section("SERVICE INFO", _service_table, lambda d, f: [s.raw for s in _services(d, f)]),
    "policy": Section("POLICY INFO", _policy_table, lambda d, f: [p.raw for p in _policies(d, f)]),
    "certificate": Section("SECRET INFO", _certificate_table, lambda d, _f: d.raw.get("certificates") or []),
    "connections": Section("CONNECTIONS INFO", _connection_table, lambda d, f: [w.raw for w in _local(d, f)]),
}
"""Every part, in the order in which `all` shows them."""


def everything(dump: Dump, now: datetime, *, headers: bool) -> str:
    """All tables; with headers each under its title, else separated by an empty line."""
    tables = ((section.title, section.table(dump, Filter(), now)) for section in SECTIONS.values())
    if headers:
        return "\n".join(f"\n------ {title} ------\n\n{text}" for title, text in tables)
    return "\n\n".join(text for _, text in tables)
