"""Clusters: a set of endpoints, how they are chosen, and how connections to them are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2, base_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2

from tulle.envoy.network import CONNECTION_WINDOW, STREAM_WINDOW
from tulle.envoy.wire import pack, seconds

_HTTP: Final = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_MATCH: Final = "envoy.transport_socket_match"
_UNLIMITED: Final = 0xFFFFFFFF
#: Streams on one tunnel connection, and how long an idle one is kept (spec D8).
MAX_STREAMS: Final = 100
POOL_IDLE_SECONDS: Final = 300.0
CONNECT_TIMEOUT_SECONDS: Final = 10.0
#: For how long an endpoint is left out that could not be connected to.
_LEFT_OUT_SECONDS: Final = 0.5
#: Overprovisioning factor in percent with which one healthy endpoint carries a priority of up to 10,000.
_ONE_IS_ENOUGH: Final = 1_000_000


@dataclass(frozen=True)
class Endpoint:
    """One endpoint.

    hostname: free text that `%UPSTREAM_HOST_NAMES_ATTEMPTED%` yields before a connection exists, so it can be a tunnel's
    authority.  transport: name of the cluster's transport socket to use.  metadata: texts for logs.
    """

    address: address_pb2.Address
    hostname: str = ""
    weight: int = 1
    transport: str = ""
    metadata: tuple[tuple[str, str], ...] = ()

    def message(self) -> endpoint_components_pb2.LbEndpoint:
        result = endpoint_components_pb2.LbEndpoint()
        result.endpoint.address.CopyFrom(self.address)
        result.endpoint.hostname = self.hostname
        if self.weight != 1:
            result.load_balancing_weight.value = self.weight
        if self.transport:
            result.metadata.filter_metadata[_MATCH].update({"transport": self.transport})
        if self.metadata:
            result.metadata.filter_metadata[METADATA].update(dict(self.metadata))
        return result


#: Key of this project's own facts in the metadata of endpoints, clusters and listeners.
METADATA: Final = "tulle"


def static_cluster(
    name: str,
    localities: Sequence[Sequence[Endpoint]],
    *,
    transports: Sequence[tuple[str, base_pb2.TransportSocket]] = (),
    http2: bool = False,
    fragment: cluster_pb2.Cluster | None = None,
    metadata: tuple[tuple[str, str], ...] = (),
) -> cluster_pb2.Cluster:
    """A cluster of given endpoints; each element of `localities` is one priority, the first being preferred.

    transports: by name; the first is the default of endpoints that name none.
    """
    cluster = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.STATIC)
    cluster.load_assignment.cluster_name = name
    for priority, endpoints in enumerate(localities):
        group = cluster.load_assignment.endpoints.add(priority=priority)
        group.lb_endpoints.extend(endpoint.message() for endpoint in endpoints)
    if len(transports) == 1:
        cluster.transport_socket.CopyFrom(transports[0][1])
    for label, socket in transports if len(transports) > 1 else ():
        match = cluster.transport_socket_matches.add(name=label, transport_socket=socket)
        match.match.update({"transport": label})
    if metadata:
        cluster.metadata.filter_metadata[METADATA].update(dict(metadata))
    cluster.common_lb_config.healthy_panic_threshold.value = 0
    return _finish(cluster, http2, fragment)


def fall_back_when_unreachable(cluster: cluster_pb2.Cluster) -> None:
    """Make the last priority of `cluster` what is used while nothing else can be connected to.

    An endpoint to which a connection fails (refused, timed out, TLS) is left out for a moment, and a priority is used for as
    long as one of its endpoints is left in.
    """
    detection = cluster.outlier_detection
    detection.split_external_local_origin_errors = True
    detection.consecutive_local_origin_failure.value = 1
    detection.enforcing_consecutive_local_origin_failure.value = 100
    for off in (
        detection.enforcing_consecutive_5xx,
        detection.enforcing_consecutive_gateway_failure,
        detection.enforcing_success_rate,
        detection.enforcing_local_origin_success_rate,
    ):
        off.value = 0
    detection.max_ejection_percent.value = 100
    detection.interval.CopyFrom(seconds(_LEFT_OUT_SECONDS))
    detection.base_ejection_time.CopyFrom(seconds(_LEFT_OUT_SECONDS))
    detection.max_ejection_time.CopyFrom(seconds(_LEFT_OUT_SECONDS))
    cluster.load_assignment.policy.overprovisioning_factor.value = _ONE_IS_ENOUGH


def original_destination_cluster(
    name: str,
    *,
    from_header: str = "",
    port: int = 0,
    http2: bool = False,
    fragment: cluster_pb2.Cluster | None = None,
) -> cluster_pb2.Cluster:
    """Connects to where the connection was going, or to the address in the request header `from_header`.

    port: in the place of the port that it was going to.
    """
    cluster = cluster_pb2.Cluster(name=name, type=cluster_pb2.Cluster.ORIGINAL_DST)
    cluster.lb_policy = cluster_pb2.Cluster.CLUSTER_PROVIDED
    if from_header:
        cluster.original_dst_lb_config.use_http_header = True
        cluster.original_dst_lb_config.http_header_name = from_header
    if port:
        cluster.original_dst_lb_config.upstream_port_override.value = port
    return _finish(cluster, http2, fragment)


def _finish(cluster: cluster_pb2.Cluster, http2: bool, fragment: cluster_pb2.Cluster | None) -> cluster_pb2.Cluster:
    cluster.connect_timeout.CopyFrom(seconds(CONNECT_TIMEOUT_SECONDS))
    limits = cluster.circuit_breakers.thresholds.add()
    for limit in (limits.max_connections, limits.max_pending_requests, limits.max_requests, limits.max_retries):
        limit.value = _UNLIMITED
    keepalive = cluster.upstream_connection_options.tcp_keepalive
    keepalive.keepalive_time.value = keepalive.keepalive_interval.value = 180
    keepalive.keepalive_probes.value = 9
    if http2:
        cluster.typed_extension_protocol_options[_HTTP].CopyFrom(pack(_http2()))
    if fragment is not None:
        cluster.MergeFrom(fragment)
    return cluster


def _http2() -> http_protocol_options_pb2.HttpProtocolOptions:
    options = http_protocol_options_pb2.HttpProtocolOptions()
    options.common_http_protocol_options.idle_timeout.CopyFrom(seconds(POOL_IDLE_SECONDS))
    http2 = options.explicit_http_config.http2_protocol_options
    http2.allow_connect = True
    http2.use_oghttp2_codec.value = False
    http2.max_concurrent_streams.value = MAX_STREAMS
    http2.initial_stream_window_size.value = STREAM_WINDOW
    http2.initial_connection_window_size.value = CONNECTION_WINDOW
    http2.connection_keepalive.interval.CopyFrom(seconds(10))
    http2.connection_keepalive.timeout.CopyFrom(seconds(20))
    return options
