"""Istio's standard metrics of TCP (spec D13), counted from lines about connections.

Every label value comes from istiod's records or is a certificate's identity, so that a stranger cannot make new ones; and
the number of combinations has a limit, beyond which connections are counted with everything unknown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest

import tulle
from tulle.ztunnel.dns.counters import DnsCounters
from tulle.ztunnel.state.model import Workload
from tulle.ztunnel.traffic.line import Line
from tulle.ztunnel.traffic.parties import Parties

disable_created_metrics()  # type: ignore[no-untyped-call]

#: Combinations of label values that are told apart.
MAX_SERIES: Final = 10_000
_UNKNOWN: Final = "unknown"
_SIDE: Final = (
    "workload",
    "canonical_service",
    "canonical_revision",
    "workload_namespace",
    "principal",
    "app",
    "version",
    "cluster",
)
LABELS: Final = (
    "reporter",
    *(f"source_{name}" for name in _SIDE),
    *(f"destination_{name}" for name in _SIDE),
    "destination_service",
    "destination_service_namespace",
    "destination_service_name",
    "request_protocol",
    "connection_security_policy",
)
_ALL: Final = (*LABELS, "response_flags")
_OVERFLOW: Final = tuple(_UNKNOWN for _ in LABELS)


class _Series:
    """The counters of one combination at the end of connections, looked up once."""

    def __init__(self, metrics: Metrics, values: tuple[str, ...]) -> None:
        self.closed = metrics.closed.labels(*values)
        self.received = metrics.received.labels(*values)
        self.sent = metrics.sent.labels(*values)


class Metrics:
    """Counters of connections, and of messages of istiod."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.opened = self._counter("tcp_connections_opened", "TCP connections opened.", _ALL)
        self.closed = self._counter("tcp_connections_closed", "TCP connections closed.", _ALL)
        self.received = self._counter("tcp_received_bytes", "Bytes of requests of TCP connections.", _ALL)
        self.sent = self._counter("tcp_sent_bytes", "Bytes of responses of TCP connections.", _ALL)
        self.failed = self._counter("tcp_connections_failed", "TCP connections that failed or were refused.", _ALL)
        self._messages = self._counter("xds_message", "xDS responses received.", ("url",))
        self._message_bytes = self._counter("xds_message_bytes", "Bytes of resources received by xDS.", ("url",))
        self.dns = DnsCounters(self._registry)
        self._series: dict[tuple[str, ...], _Series] = {}
        self._opened: dict[tuple[str, ...], Counter] = {}
        build = Gauge("istio_build", "Version of the proxy.", ("component", "tag"), registry=self._registry)
        build.labels("ztunnel", tulle.__version__).set(1)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"istio_{name}", text, labels, registry=self._registry)

    def connection_opened(self, labels: tuple[str, ...]) -> None:
        values = _bounded(self._opened, labels, "-")
        counter = self._opened.get(values)
        if counter is None:
            counter = self._opened[values] = self.opened.labels(*values)
        counter.inc()

    def connection_closed(self, labels: tuple[str, ...], line: Line, flag: str) -> None:
        """A connection ended; `flag` other than "-" says why it failed."""
        series = self._of(labels, flag)
        series.closed.inc()
        series.received.inc(line.bytes_recv)
        series.sent.inc(line.bytes_sent)

    def connection_failed(self, labels: tuple[str, ...], flag: str) -> None:
        self.failed.labels(*_bounded(self._series, labels, flag)).inc()

    def xds_message(self, type_url: str, size: int) -> None:
        self._messages.labels(type_url).inc()
        self._message_bytes.labels(type_url).inc(size)

    def render(self) -> str:
        """Prometheus' text format."""
        return generate_latest(self._registry).decode()

    def _of(self, labels: tuple[str, ...], flag: str) -> _Series:
        values = _bounded(self._series, labels, flag)
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = _Series(self, values)
        return series


def _bounded(known: Mapping[tuple[str, ...], object], labels: tuple[str, ...], flag: str) -> tuple[str, ...]:
    values = (*labels, flag)
    return values if values in known or len(known) < MAX_SERIES else (*_OVERFLOW, flag)


def labels_of(line: Line, who: Parties) -> tuple[str, ...]:
    """The values of LABELS for one connection."""
    service = who.service
    named = (service.hostname, service.namespace, service.name) if service is not None else (_UNKNOWN,) * 3
    secure = line.tunnelled and bool(line.source_identity)
    return (
        "destination" if line.inbound else "source",
        *_side(who.source, line.source_identity if secure else ""),
        *_side(who.destination, line.destination_identity if secure else ""),
        *named,
        "tcp",
        "mutual_tls" if secure else _UNKNOWN,
    )


def _side(workload: Workload | None, identity: str) -> tuple[str, ...]:
    principal = identity or _UNKNOWN
    if workload is None:
        return (_UNKNOWN, _UNKNOWN, _UNKNOWN, _UNKNOWN, principal, _UNKNOWN, _UNKNOWN, _UNKNOWN)
    app = workload.canonical_name or _UNKNOWN
    version = workload.canonical_revision or _UNKNOWN
    return (
        workload.workload_name or workload.name or _UNKNOWN,
        app,
        version,
        workload.namespace or _UNKNOWN,
        principal,
        app,
        version,
        workload.cluster_id or _UNKNOWN,
    )
