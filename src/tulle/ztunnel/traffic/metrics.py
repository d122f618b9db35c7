"""Istio's standard metrics of TCP (spec D13), counted from lines about connections.

Every label value comes from istiod's records or is a certificate's identity, so that a stranger cannot make new ones; and
the number of combinations has a limit, beyond which connections are counted with everything unknown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

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
    "region",
    "zone",
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


@dataclass(slots=True, eq=False)
class Opened:
    """The counter of one combination when connections open."""

    connections: int = 0


@dataclass(slots=True, eq=False)
class Ended:
    """The counters of one combination when connections end; `failed` counts those that failed or were refused."""

    closed: int = 0
    received: int = 0
    sent: int = 0
    failed: int = 0


class Metrics(Collector):
    """Counters of connections, and of messages of istiod.

    Those of connections are plain numbers, which whoever counts adds to, and become metrics when somebody asks.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self.dns = DnsCounters(self._registry)
        self._messages = self._counter("xds_message", "xDS responses received.", ("url",))
        self._message_bytes = self._counter("xds_message_bytes", "Bytes of resources received by xDS.", ("url",))
        self._terminations = self._counter(
            "xds_connection_terminations", "Streams of istiod that ended, or could not be opened.", ("reason",)
        )
        self._on_demand_dns = self._counter(
            "on_demand_dns", "Endpoints looked up by host name because of a connection.", ()
        )
        self._revoked = self._counter(
            "crl_policy_rejections", "Connections refused for a revoked certificate.", ("reporter",)
        )
        self._untracked = self._counter(
            "crl_untracked_connections", "Tunnelled connections whose peer's certificate is not known.", ("reporter",)
        )
        self._ended: dict[tuple[str, ...], Ended] = {}
        self._opened: dict[tuple[str, ...], Opened] = {}
        build = Gauge("istio_build", "Version of the proxy.", ("component", "tag"), registry=self._registry)
        build.labels("ztunnel", tulle.__version__).set(1)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(f"istio_{name}", text, labels, registry=self._registry)

    def opened(self, labels: tuple[str, ...]) -> Opened:
        """What counts the connections of these labels that open."""
        return self._opened.setdefault(_bounded(self._opened, labels, "-"), Opened())

    def ended(self, labels: tuple[str, ...], flag: str) -> Ended:
        """What counts those that end; `flag` other than "-" says why they failed."""
        return self._ended.setdefault(_bounded(self._ended, labels, flag), Ended())

    def xds_message(self, type_url: str, size: int) -> None:
        self._messages.labels(type_url).inc()
        self._message_bytes.labels(type_url).inc(size)

    def xds_ended(self, reason: str) -> None:
        self._terminations.labels(reason).inc()

    def on_demand_dns(self) -> None:
        self._on_demand_dns.inc()

    def revoked(self, line: Line) -> None:
        """A connection was refused because of a revoked certificate."""
        self._revoked.labels(_reporter(line)).inc()

    def untracked(self, line: Line) -> None:
        """A connection was opened that a later revocation cannot end."""
        self._untracked.labels(_reporter(line)).inc()

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        """The counters of connections as metrics; called by the registry."""
        opened = {labels: counts.connections for labels, counts in self._opened.items() if counts.connections}
        ended = {labels: counts for labels, counts in self._ended.items() if counts.closed}
        failed = {labels: counts.failed for labels, counts in ended.items() if counts.failed}
        yield _family("tcp_connections_opened", "TCP connections opened.", opened)
        yield _family("tcp_connections_closed", "TCP connections closed.", {k: ended[k].closed for k in ended})
        yield _family(
            "tcp_received_bytes", "Bytes of requests of TCP connections.", {k: ended[k].received for k in ended}
        )
        yield _family("tcp_sent_bytes", "Bytes of responses of TCP connections.", {k: ended[k].sent for k in ended})
        yield _family("tcp_connections_failed", "TCP connections that failed or were refused.", failed)
        yield self._sockets_open()

    def _sockets_open(self) -> GaugeMetricFamily:
        ended: dict[tuple[str, ...], int] = {}
        for values, counts in self._ended.items():
            ended[values[:-1]] = ended.get(values[:-1], 0) + counts.closed
        family = GaugeMetricFamily("istio_tcp_sockets_open", "TCP connections that are open now.", labels=LABELS)
        for values, opened in self._opened.items():
            family.add_metric(values[:-1], opened.connections - ended.get(values[:-1], 0))
        return family

    def render(self) -> str:
        """Prometheus' text format."""
        return generate_latest(self._registry).decode()


def _family(name: str, text: str, values: Mapping[tuple[str, ...], int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"istio_{name}", text, labels=_ALL)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _bounded(known: Mapping[tuple[str, ...], object], labels: tuple[str, ...], flag: str) -> tuple[str, ...]:
    values = (*labels, flag)
    return values if values in known or len(known) < MAX_SERIES else (*_OVERFLOW, flag)


def labels_of(line: Line, who: Parties) -> tuple[str, ...]:
    """The values of LABELS for one connection."""
    service = who.service
    named = (service.hostname, service.namespace, service.name) if service is not None else (_UNKNOWN,) * 3
    secure = line.tunnelled and bool(line.source_identity)
    return (
        _reporter(line),
        *_side(who.source, line.source_identity if secure else ""),
        *_side(who.destination, line.destination_identity if secure else ""),
        *named,
        "tcp",
        "mutual_tls" if secure else _UNKNOWN,
    )


def _reporter(line: Line) -> str:
    return "destination" if line.inbound else "source"


def _side(workload: Workload | None, identity: str) -> tuple[str, ...]:
    principal = identity or _UNKNOWN
    if workload is None:
        return (*(_UNKNOWN,) * 4, principal, *(_UNKNOWN,) * 5)
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
        workload.locality.region or _UNKNOWN,
        workload.locality.zone or _UNKNOWN,
    )
