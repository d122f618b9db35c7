"""Istio's metrics of the DNS proxy (spec D13)."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

from tulle.ztunnel.state.model import Workload

_LABELS: Final = (
    "request_query_type",
    "request_protocol",
    "source_canonical_service",
    "source_canonical_revision",
)
_UNKNOWN: Final = "unknown"
#: A client can ask for 65536 types; those that nobody asks for are told apart no further.
_TYPES: Final = {
    1: "a",
    2: "ns",
    5: "cname",
    6: "soa",
    12: "ptr",
    15: "mx",
    16: "txt",
    28: "aaaa",
    33: "srv",
    65: "https",
}
_SECONDS: Final = (0.001, 0.005, 0.01, 0.1, 1.0, 5.0)


class DnsCounters:
    """Questions, those that went on to a resolver, and how long it took."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str) -> Counter:
            return Counter(f"istio_{name}", text, _LABELS, registry=registry)

        self._requests = counter("dns_requests", "DNS requests.")
        self._upstream = counter("dns_upstream_requests", "DNS requests that went on to a resolver.")
        self._failures = counter("dns_upstream_failures", "DNS requests that no resolver answered.")
        self._duration = Histogram(
            "istio_dns_upstream_request_duration_seconds",
            "How long resolvers took to answer.",
            _LABELS,
            registry=registry,
            buckets=_SECONDS,
        )

    @staticmethod
    def labels(kind: int, *, stream: bool, client: Workload | None) -> tuple[str, str, str, str]:
        """The values of the labels; `kind` is the type asked for, `client` the pod that asks."""
        name, revision = (client.canonical_name, client.canonical_revision) if client is not None else ("", "")
        return _TYPES.get(kind, _UNKNOWN), "tcp" if stream else "udp", name or _UNKNOWN, revision or _UNKNOWN

    def asked(self, labels: tuple[str, str, str, str]) -> None:
        self._requests.labels(*labels).inc()

    def forwarded(self, labels: tuple[str, str, str, str], seconds: float) -> None:
        self._upstream.labels(*labels).inc()
        self._duration.labels(*labels).observe(seconds)

    def failed(self, labels: tuple[str, str, str, str]) -> None:
        self._failures.labels(*labels).inc()
