"""The access log (spec D12): one JSON line per connection that ended, and per connection that opened at level debug."""

from __future__ import annotations

import msgspec

from tulle.ztunnel.traffic.line import Line
from tulle.ztunnel.traffic.parties import Parties


class Entry(
    msgspec.Struct,
    omit_defaults=True,
    rename={
        "source": "src.addr",
        "source_workload": "src.workload",
        "source_namespace": "src.namespace",
        "source_identity": "src.identity",
        "source_cluster": "src.cluster",
        "destination": "dst.addr",
        "asked_for": "dst.hbone_addr",
        "original": "dst.original_addr",
        "service": "dst.service",
        "destination_workload": "dst.workload",
        "destination_namespace": "dst.namespace",
        "destination_identity": "dst.identity",
        "destination_cluster": "dst.cluster",
    },
):
    """Fields in the order in which they are read."""

    time: str
    level: str = ""
    scope: str = ""
    message: str = ""
    source: str = ""
    source_workload: str = ""
    source_namespace: str = ""
    source_identity: str = ""
    source_cluster: str = ""
    destination: str = ""
    asked_for: str = ""
    original: str = ""
    service: str = ""
    destination_workload: str = ""
    destination_namespace: str = ""
    destination_identity: str = ""
    destination_cluster: str = ""
    direction: str = ""
    bytes_sent: int | None = None
    bytes_recv: int | None = None
    duration: str = ""
    response_flags: str = ""
    error: str = ""


def entry(line: Line, who: Parties, problem: str) -> Entry:
    """The log's line; `problem` is why the connection failed or was closed."""
    made = Entry(
        time=line.time,
        scope="access",
        source=line.source,
        source_workload=line.source_workload or (who.source.name if who.source is not None else ""),
        source_namespace=line.source_namespace or (who.source.namespace if who.source is not None else ""),
        source_identity=line.source_identity,
        source_cluster=who.source.cluster_id if who.source is not None else "",
        destination=line.destination,
        asked_for=line.asked_for,
        original=line.original,
        service=line.service or (who.service.key if who.service is not None else ""),
        destination_workload=line.destination_workload,
        destination_namespace=line.destination_namespace,
        destination_identity=line.destination_identity,
        destination_cluster=who.destination.cluster_id if who.destination is not None else "",
        direction="inbound" if line.inbound else "outbound",
    )
    if line.opened:
        made.level, made.message = "debug", "connection opened"
        return made
    if line.kind == "handshake":
        made.level, made.message = "warn", "connection failed"
    else:
        made.level, made.message = "error" if problem else "info", "connection complete"
    made.bytes_sent, made.bytes_recv, made.duration = line.bytes_sent, line.bytes_recv, line.duration
    made.response_flags = line.response_flags
    made.error = problem
    return made
