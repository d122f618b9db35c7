"""istiod's own metrics, under upstream's names where upstream has them."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

import tulle

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """One process's metrics; a registry of its own, so that several istiods may live in one test."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        Gauge("pilot_info", "Version of this istiod.", ["version"], registry=self.registry).labels(
            tulle.__version__
        ).set(1)
        self.proxies = Gauge("pilot_xds", "Proxies connected to this istiod.", registry=self.registry)
        self.rejects = Counter(
            "pilot_total_xds_rejects", "Configurations that a proxy refused.", ["type"], registry=self.registry
        )
        self.flushes = Histogram(
            "tulle_index_flush_seconds",
            "Time to compute and publish what a batch of changes reaches.",
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 10),
            registry=self.registry,
        )
        self.objects = Gauge("tulle_mesh_objects", "Objects in the mesh index.", ["kind"], registry=self.registry)
        self.certificates = Counter(
            "citadel_server_csr", "Certificate requests by result.", ["result"], registry=self.registry
        )
        self.leading = Gauge("tulle_leader", "1 while this istiod writes statuses.", registry=self.registry)

    def observe(self, proxies: Callable[[], int]) -> None:
        """Read the number of connected proxies whenever somebody asks."""
        self.proxies.set_function(lambda: float(proxies()))

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)
