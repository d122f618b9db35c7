"""Where a waypoint sends requests: one cluster per target port, one per authorizer, and the one that tunnels to HBONE endpoints.

An HBONE endpoint is written as an address inside the proxy (the `connect_originate` listener) whose metadata names the real address
and the identity it must present; an endpoint outside the mesh is its plain socket address. Which of the two transports is used is
decided per endpoint by that metadata, so one Service may mix captured and uncaptured pods. Where endpoints have host names, see `named`.
"""

from __future__ import annotations

from collections.abc import Iterable

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_components_pb2, endpoint_pb2
from envoy.extensions.upstreams.http.v3 import http_protocol_options_pb2

from tulle.envoy.clusters import METADATA, Endpoint, original_destination_cluster, static_cluster
from tulle.envoy.sockets import internal_address, tcp_address
from tulle.envoy.tls import internal_upstream, one_client, plaintext
from tulle.envoy.wire import from_ads, pack, seconds
from tulle.istiod.waypoint_config import named, names
from tulle.istiod.waypoint_config.view import (
    ANY_PORT,
    AuthorizerView,
    EndpointView,
    PortView,
    TargetView,
    WaypointConfigView,
)

HBONE_PORT = 15008
REFUSAL_HEADER = "x-tulle-refusal"
"""Header of a CONNECT request that says how its sender wants to be refused; node proxies read it."""
_IN_TUNNEL, _BY_STATUS = "in-tunnel", "by-status"
"""Its values: by an HTTP answer inside the tunnel, which reaches the client, or by the status of the CONNECT request."""
_ORIGINAL_DST = "envoy.filters.listener.original_dst"
_HTTP_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_HBONE, _PLAIN = "hbone", "plaintext"


def inward(listener: str) -> cluster_pb2.Cluster:
    """From the terminated tunnel to a listener where the request inside it is read."""
    inside = Endpoint(internal_address(listener))
    return static_cluster(listener, [[inside]], transports=[("inside", internal_upstream())])


def connect_originate(view: WaypointConfigView) -> cluster_pb2.Cluster:
    """HBONE to whichever endpoint address the request inside was routed to, on port 15008, with the waypoint's own SVID."""
    fragment = cluster_pb2.Cluster(
        transport_socket=one_client(view.identity, view.trust_domain), cleanup_interval=seconds(60)
    )
    return original_destination_cluster(names.CONNECT_ORIGINATE, port=HBONE_PORT, http2=True, fragment=fragment)


def for_port(target: TargetView, port: PortView) -> cluster_pb2.Cluster:
    """The cluster of one port of a target; its endpoints come by EDS, so that a pod's coming and going changes nothing here, unless
    some are known by name."""
    name = names.target_port(target, port.port)
    if port.by_name:
        cluster = named.cluster(name, port.endpoints, one_address=port.one_address)
    else:
        cluster = original_destination_cluster(name) if port.outside else _by_eds(name)
    if port.protocol != "TCP":
        same = http_protocol_options_pb2.HttpProtocolOptions()
        same.use_downstream_protocol_config.http_protocol_options.SetInParent()
        same.use_downstream_protocol_config.http2_protocol_options.SetInParent()
        cluster.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(pack(same))
    return cluster


def for_authorizer(view: AuthorizerView) -> cluster_pb2.Cluster:
    """The cluster of an external authorizer: HTTP/2 for gRPC, else HTTP/1.1."""
    name = names.authorizer(view.name)
    cluster = named.cluster(name, view.endpoints) if view.by_name else _by_eds(name)
    options = http_protocol_options_pb2.HttpProtocolOptions()
    if view.settings.grpc:
        options.explicit_http_config.http2_protocol_options.SetInParent()
    else:
        options.explicit_http_config.http_protocol_options.SetInParent()
    cluster.typed_extension_protocol_options[_HTTP_OPTIONS].CopyFrom(pack(options))
    return cluster


def _by_eds(name: str) -> cluster_pb2.Cluster:
    inside = internal_upstream(_ORIGINAL_DST, METADATA)
    cluster = static_cluster(name, [], transports=[(_HBONE, inside), (_PLAIN, plaintext())])
    cluster.type = cluster_pb2.Cluster.EDS
    cluster.ClearField("load_assignment")
    cluster.eds_cluster_config.eds_config.CopyFrom(from_ads())
    cluster.lb_policy = cluster_pb2.Cluster.LEAST_REQUEST
    return cluster


def endpoints(target: TargetView, port: PortView) -> endpoint_pb2.ClusterLoadAssignment:
    """The endpoints of one port; with none, requests are answered 503 (a bound waypoint fails closed, spec A4)."""
    return _load(names.target_port(target, port.port), port.endpoints, explain=port.explain)


def authorizer_endpoints(view: AuthorizerView) -> endpoint_pb2.ClusterLoadAssignment:
    """The endpoints of an external authorizer."""
    return _load(names.authorizer(view.name), view.endpoints, explain=False)


def _load(name: str, found: Iterable[EndpointView], *, explain: bool) -> endpoint_pb2.ClusterLoadAssignment:
    load = endpoint_pb2.ClusterLoadAssignment(cluster_name=name)
    made = [_endpoint(endpoint, explain) for endpoint in found]
    if made:
        load.endpoints.add(lb_endpoints=made)
    return load


def _endpoint(endpoint: EndpointView, explain: bool) -> endpoint_components_pb2.LbEndpoint:
    address = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    where = address if endpoint.port == ANY_PORT else f"{address}:{endpoint.port}"
    if not endpoint.hbone:
        return Endpoint(tcp_address(endpoint.address, endpoint.port), transport=_PLAIN).message()
    facts = (
        ("address", where),
        ("identity", endpoint.identity),
        ("refusals", _IN_TUNNEL if explain else _BY_STATUS),
    )
    made = Endpoint(internal_address(names.CONNECT_ORIGINATE, where), transport=_HBONE, metadata=facts).message()
    if endpoint.port != ANY_PORT:
        # For any port it is what the tunnel was asked for, which comes along as filter state.
        made.metadata.filter_metadata[_ORIGINAL_DST].update({"local": where})
    return made
