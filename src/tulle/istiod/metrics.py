"""istiod's own metrics, under upstream's names where upstream has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

import tulle

CONTENT_TYPE = CONTENT_TYPE_LATEST

_RESULTS: Final[Mapping[str, tuple[str, str]]] = {
    "success": ("citadel_server_success_cert_issuance_count", "Certificates issued."),
    "unauthenticated": ("citadel_server_authentication_failure_count", "Requests of callers that may not have it."),
    "csr": ("citadel_server_csr_parsing_err_count", "Requests that are no proper ones."),
    "authority": ("citadel_server_csr_sign_err_count", "Requests that could not be signed."),
    "rate_limited": ("tulle_csr_rate_limited_count", "Requests of callers that asked too often."),
}


class Metrics:
    """One process's metrics; a registry of its own, so that several istiods may live in one test."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        Gauge("pilot_info", "Version of this istiod.", ["version"], registry=self.registry).labels(
            tulle.__version__
        ).set(1)
        self.proxies = Gauge("pilot_xds", "Proxies connected to this istiod.", registry=self.registry)
        # Upstream's counters do not end in `_total`, which this library gives to every counter: they are gauges that only grow.
        self.rejects = Gauge(
            "pilot_total_xds_rejects", "Configurations that a proxy refused.", ["type"], registry=self.registry
        )
        self.flushes = Histogram(
            "tulle_index_flush_seconds",
            "Time to compute and publish what a batch of changes reaches.",
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 10),
            registry=self.registry,
        )
        self.objects = Gauge("tulle_mesh_objects", "Objects in the mesh index.", ["kind"], registry=self.registry)
        self.services = Gauge("pilot_services", "Services in the mesh.", registry=self.registry)
        self._requests = Gauge("citadel_server_csr_count", "Certificate requests.", registry=self.registry)
        self._results = {result: Gauge(name, text, registry=self.registry) for result, (name, text) in _RESULTS.items()}
        self.leading = Gauge("tulle_leader", "1 while this istiod writes statuses.", registry=self.registry)

    def observe(self, proxies: Callable[[], int]) -> None:
        """Read the number of connected proxies whenever somebody asks."""
        self.proxies.set_function(lambda: float(proxies()))

    def certificate(self, result: str) -> None:
        """A certificate request was answered; the results are those of `CertificateService`."""
        self._requests.inc()
        self._results[result].inc()

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)
