"""istiod's own metrics, under upstream's names where upstream has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

import tulle
from tulle.xds import types

CONTENT_TYPE = CONTENT_TYPE_LATEST

_RESULTS: Final[Mapping[str, tuple[str, str]]] = {
    "success": ("citadel_server_success_cert_issuance_count", "Certificates issued."),
    "unauthenticated": ("citadel_server_authentication_failure_count", "Requests of callers that may not have it."),
    "csr": ("citadel_server_csr_parsing_err_count", "Requests that are no proper ones."),
    "authority": ("citadel_server_csr_sign_err_count", "Requests that could not be signed."),
    "rate_limited": ("tulle_csr_rate_limited_count", "Requests of callers that asked too often."),
}


_SHORT: Final[Mapping[str, str]] = {
    types.CLUSTER: "cds",
    types.LISTENER: "lds",
    types.ROUTES: "rds",
    types.ENDPOINTS: "eds",
    types.SECRET: "sds",
    types.EXTENSION: "ecds",
    types.ADDRESS: "wds",
    types.WORKLOAD: "wds",
    types.AUTHORIZATION: "wads",
}
"""Types as upstream's metrics call them; any other is called as it is."""


class Metrics:
    """One process's metrics; a registry of its own, so that several istiods may live in one test."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        Gauge("pilot_info", "Version of this istiod.", ["version"], registry=self.registry).labels(
            tulle.__version__
        ).set(1)
        self.proxies = Gauge("pilot_xds", "Proxies connected to this istiod.", registry=self.registry)
        # Upstream's counters do not end in `_total`, which this library gives to every counter: they are gauges that only grow.
        self._pushes = Gauge("pilot_xds_pushes", "Answers sent to proxies.", ["type"], registry=self.registry)
        self._pushed: Counter[str] = Counter()
        self._rejects = Gauge(
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
        self._root_expires = Gauge(
            "citadel_server_root_cert_expiry_timestamp",
            "When the first root expires, Unix seconds.",
            registry=self.registry,
        )
        self._signer_expires = Gauge(
            "citadel_server_cert_chain_expiry_timestamp",
            "When the certificate that signs expires, Unix seconds.",
            registry=self.registry,
        )
        self.leading = Gauge("tulle_leader", "1 while this istiod writes statuses.", registry=self.registry)

    def observe(self, proxies: Callable[[], int]) -> None:
        """Read the number of connected proxies whenever somebody asks."""
        self.proxies.set_function(lambda: float(proxies()))

    def pushed(self, type_url: str) -> None:
        """An answer of that type went out. This is called for every proxy at every change, hence so little."""
        self._pushed[_SHORT.get(type_url, type_url)] += 1

    def rejected(self, type_url: str) -> None:
        """A proxy refused an answer of that type."""
        self._rejects.labels(_SHORT.get(type_url, type_url)).inc()

    def authority(self, expires: Callable[[], tuple[float, float]]) -> None:
        """Read when the root and the certificate that signs expire, in Unix seconds, whenever somebody asks."""
        self._root_expires.set_function(lambda: expires()[0])
        self._signer_expires.set_function(lambda: expires()[1])

    def certificate(self, result: str) -> None:
        """A certificate request was answered; the results are those of `CertificateService`."""
        self._requests.inc()
        self._results[result].inc()

    def render(self) -> bytes:
        """The exposition text."""
        for short, count in self._pushed.items():
            self._pushes.labels(short).set(count)
        return generate_latest(self.registry)
