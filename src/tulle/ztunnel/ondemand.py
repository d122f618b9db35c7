"""The stream on which Envoy asks for the clusters of destinations.

Each is asked for by name when a pod first connects to it, and it is answered on a stream of its own: over the stream that
carries everything else, Envoy holds every cluster to be part of "all clusters" and gets each twice.
"""

from __future__ import annotations

from typing import Any, Final

import grpc
from envoy.service.discovery.v3 import discovery_pb2

from tulle.xds.server import AdsServer

_SERVICE: Final = "envoy.service.cluster.v3.ClusterDiscoveryService"


class OnDemandServer(AdsServer):
    """The delta protocol for clusters alone."""

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """`ClusterDiscoveryService.DeltaClusters`."""
        method = grpc.stream_stream_rpc_method_handler(
            self._delta, request_deserializer=discovery_pb2.DeltaDiscoveryRequest.FromString
        )
        return grpc.method_handlers_generic_handler(_SERVICE, {"DeltaClusters": method})
