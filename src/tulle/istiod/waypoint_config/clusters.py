"""Where a waypoint sends requests: one cluster per target port, and the one that tunnels to HBONE endpoints.

An HBONE endpoint is written as an address inside the proxy (the `connect_originate` listener) whose metadata names the real address
and the identity it must present; an endpoint outside the mesh is its plain socket address. Which of the two transports is used is
decided per endpoint by that metadata, so one Service may mix captured and uncaptured pods.
"""

from __future__ import annotations

from envoy.config.cluster.v3 import circuit_breaker_pb2, cluster_pb2
from envoy.config.core.v3 import address_pb2, base_pb2, config_source_pb2, protocol_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.extensions.transport_sockets.internal_upstream.v3 import internal_upstream_pb2
from envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2
from envoy.type.metadata.v3 import metadata_pb2
from google.protobuf import duration_pb2, struct_pb2, wrappers_pb2

from tulle.istiod.waypoint_config import names, tls
from tulle.istiod.waypoint_config.pack import pack
from tulle.istiod.waypoint_config.view import EndpointView, PortView, TargetView, WaypointConfigView

HBONE_PORT = 15008
ORIGINAL_DST = "envoy.filters.listener.original_dst"
ENDPOINT_METADATA = "tulle.endpoint"
"""Metadata of an HBONE endpoint: `identity`, the SPIFFE URI that it must present."""
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_MATCH = "envoy.transport_socket_match"
_TUNNEL = {"tunnel": "hbone"}
_CONNECT_TIMEOUT = duration_pb2.Duration(seconds=10)
_STREAM_WINDOW = 4 << 20
_CONNECTION_WINDOW = 16 << 20
"""HTTP/2 windows of a tunnel in bytes (spec D8)."""


def http2_tunnel_options() -> protocol_pb2.Http2ProtocolOptions:
    return protocol_pb2.Http2ProtocolOptions(
        allow_connect=True,
        initial_stream_window_size=wrappers_pb2.UInt32Value(value=_STREAM_WINDOW),
        initial_connection_window_size=wrappers_pb2.UInt32Value(value=_CONNECTION_WINDOW),
    )


def _raw_buffer() -> base_pb2.TransportSocket:
    return base_pb2.TransportSocket(
        name="envoy.transport_sockets.raw_buffer", typed_config=pack(raw_buffer_pb2.RawBuffer())
    )


def _internal_upstream(*metadata: str) -> base_pb2.TransportSocket:
    """The transport into another listener of the same process, taking along the endpoint's metadata of these names."""
    host = metadata_pb2.MetadataKind(host=metadata_pb2.MetadataKind.Host())
    sources = [
        internal_upstream_pb2.InternalUpstreamTransport.MetadataValueSource(kind=host, name=name) for name in metadata
    ]
    config = internal_upstream_pb2.InternalUpstreamTransport(
        passthrough_metadata=sources, transport_socket=_raw_buffer()
    )
    return base_pb2.TransportSocket(name="envoy.transport_sockets.internal_upstream", typed_config=pack(config))


def _internal_address(listener: str, endpoint_id: str = "") -> address_pb2.Address:
    return address_pb2.Address(
        envoy_internal_address=address_pb2.EnvoyInternalAddress(server_listener_name=listener, endpoint_id=endpoint_id)
    )


def _unlimited() -> circuit_breaker_pb2.CircuitBreakers:
    most = wrappers_pb2.UInt32Value(value=(1 << 32) - 1)
    return circuit_breaker_pb2.CircuitBreakers(
        thresholds=[
            circuit_breaker_pb2.CircuitBreakers.Thresholds(
                max_connections=most, max_pending_requests=most, max_requests=most, max_retries=most
            )
        ]
    )


def main_internal() -> cluster_pb2.Cluster:
    """From the terminated tunnel to the listener where the request inside it is read."""
    endpoint = endpoint_components_pb2.Endpoint(address=_internal_address(names.MAIN_INTERNAL))
    load = endpoint_pb2.ClusterLoadAssignment(
        cluster_name=names.MAIN_INTERNAL,
        endpoints=[
            endpoint_components_pb2.LocalityLbEndpoints(
                lb_endpoints=[endpoint_components_pb2.LbEndpoint(endpoint=endpoint)]
            )
        ],
    )
    return cluster_pb2.Cluster(
        name=names.MAIN_INTERNAL,
        type=cluster_pb2.Cluster.STATIC,
        load_assignment=load,
        transport_socket=_internal_upstream(),
        circuit_breakers=_unlimited(),
        connect_timeout=_CONNECT_TIMEOUT,
    )


def connect_originate(view: WaypointConfigView) -> cluster_pb2.Cluster:
    """HBONE to whichever endpoint address the request inside was routed to, on port 15008, with the waypoint's own SVID."""
    options = http_protocol_options_pb2.HttpProtocolOptions(
        explicit_http_config=http_protocol_options_pb2.HttpProtocolOptions.ExplicitHttpConfig(
            http2_protocol_options=http2_tunnel_options()
        )
    )
    cluster = cluster_pb2.Cluster(
        name=names.CONNECT_ORIGINATE,
        type=cluster_pb2.Cluster.ORIGINAL_DST,
        lb_policy=cluster_pb2.Cluster.CLUSTER_PROVIDED,
        original_dst_lb_config=cluster_pb2.Cluster.OriginalDstLbConfig(
            upstream_port_override=wrappers_pb2.UInt32Value(value=HBONE_PORT)
        ),
        transport_socket=tls.upstream(view.identity, view.trust_domain),
        circuit_breakers=_unlimited(),
        connect_timeout=_CONNECT_TIMEOUT,
        cleanup_interval=duration_pb2.Duration(seconds=60),
    )
    cluster.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(pack(options))
    return cluster


def for_port(target: TargetView, port: PortView) -> cluster_pb2.Cluster:
    """The cluster of one port of a target; its endpoints come by EDS, so that a pod's coming and going changes nothing here."""
    ads = config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(), resource_api_version=config_source_pb2.ApiVersion.V3
    )
    tunnel = struct_pb2.Struct()
    tunnel.update(_TUNNEL)
    matches = [
        cluster_pb2.Cluster.TransportSocketMatch(
            name="hbone", match=tunnel, transport_socket=_internal_upstream(ORIGINAL_DST, ENDPOINT_METADATA)
        ),
        cluster_pb2.Cluster.TransportSocketMatch(
            name="plaintext", match=struct_pb2.Struct(), transport_socket=_raw_buffer()
        ),
    ]
    cluster = cluster_pb2.Cluster(
        name=names.target_port(target, port.port),
        type=cluster_pb2.Cluster.EDS,
        eds_cluster_config=cluster_pb2.Cluster.EdsClusterConfig(eds_config=ads),
        lb_policy=cluster_pb2.Cluster.LEAST_REQUEST,
        transport_socket_matches=matches,
        circuit_breakers=_unlimited(),
        connect_timeout=_CONNECT_TIMEOUT,
    )
    if port.protocol == "HTTP":
        same = http_protocol_options_pb2.HttpProtocolOptions(
            use_downstream_protocol_config=http_protocol_options_pb2.HttpProtocolOptions.UseDownstreamHttpConfig(
                http_protocol_options=protocol_pb2.Http1ProtocolOptions(),
                http2_protocol_options=protocol_pb2.Http2ProtocolOptions(),
            )
        )
        cluster.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(pack(same))
    return cluster


def _endpoint(endpoint: EndpointView) -> endpoint_components_pb2.LbEndpoint:
    where = f"{endpoint.address}:{endpoint.port}"
    if not endpoint.hbone:
        plain = tls.socket_address(endpoint.address, endpoint.port)
        return endpoint_components_pb2.LbEndpoint(endpoint=endpoint_components_pb2.Endpoint(address=plain))
    lb = endpoint_components_pb2.LbEndpoint(
        endpoint=endpoint_components_pb2.Endpoint(address=_internal_address(names.CONNECT_ORIGINATE, where))
    )
    lb.metadata.filter_metadata[_MATCH].update(_TUNNEL)
    lb.metadata.filter_metadata[ORIGINAL_DST].update({"local": where})
    lb.metadata.filter_metadata[ENDPOINT_METADATA].update({"identity": endpoint.identity})
    return lb


def endpoints(target: TargetView, port: PortView) -> endpoint_pb2.ClusterLoadAssignment:
    """The endpoints of one port; with none, requests are answered 503 (a bound waypoint fails closed, spec A4)."""
    locality = endpoint_components_pb2.LocalityLbEndpoints(lb_endpoints=[_endpoint(e) for e in port.endpoints])
    return endpoint_pb2.ClusterLoadAssignment(
        cluster_name=names.target_port(target, port.port), endpoints=[locality] if port.endpoints else []
    )
