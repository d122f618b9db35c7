"""istiod's configuration for this waypoint, passed on to the Envoy beside it.

The last answer of istiod stays in these collections, so an Envoy that restarts is configured again at once, also while istiod is away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from envoy.config.cluster.v3 import cluster_pb2

from tulle.xds import types
from tulle.xds.client import Subscription
from tulle.xds.resources import ResourceMap

RELAYED = (types.CLUSTER, types.ENDPOINTS, types.LISTENER, types.ROUTES)


class Relay:
    """The four collections that istiod fills and Envoy reads."""

    def __init__(self) -> None:
        self.maps: Mapping[str, ResourceMap] = {type_url: ResourceMap(type_url) for type_url in RELAYED}

    def subscriptions(self) -> Mapping[str, Subscription]:
        """How to ask istiod: for everything of each type, since what it offers this waypoint is only what is this waypoint's."""
        return {type_url: Subscription(self._handler(type_url), wildcard=True) for type_url in RELAYED}

    def _handler(self, type_url: str) -> _Handler:
        return _Handler(self.maps[type_url])


class _Handler:
    """Applies one answer of istiod to one collection."""

    def __init__(self, resources: ResourceMap) -> None:
        self._resources = resources

    def __call__(self, updated: Mapping[str, bytes], removed: Sequence[str]) -> None:
        for name, value in updated.items():
            if self._resources.type_url == types.CLUSTER:
                # Decoded, because a cluster says which endpoints must reach Envoy before what uses it.
                self._resources.set(name, cluster_pb2.Cluster.FromString(value))
            else:
                self._resources.set_encoded(name, value)
        for name in removed:
            self._resources.remove(name)
