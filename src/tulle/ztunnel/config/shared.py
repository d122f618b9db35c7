"""What all pods of the node share: ways out to apps and plain peers, and ways to refuse.

A refused client must see the same thing every time.  Closing at once does not give that: whether the client sees a
reset or an orderly end depends on whether its first bytes have arrived yet.  So a refused connection is led to the
*sink*, a loopback listener that waits until there is a first byte (half a second at most, for clients that wait for the
server to speak first) and resets; the reset travels back along the chain of connections to the client.  Inside a tunnel
it has to pass one hop more, because Envoy passes a reset on as a reset only when it came over HTTP/2.  A refusal that is
explained goes to an HTTP server of this Envoy instead, which answers 503 to whatever version of HTTP it is asked in.
"""

from __future__ import annotations

from typing import Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.route.v3 import route_pb2

from tulle.envoy import filter_state, network, routes
from tulle.envoy.clusters import Endpoint, original_destination_cluster, static_cluster
from tulle.envoy.network import Http
from tulle.envoy.sockets import abortive_close, bind_in_connection_netns, internal_address, tcp_address
from tulle.envoy.tls import after_proxy_header, internal_upstream
from tulle.envoy.wire import seconds
from tulle.ztunnel.config import names

#: How long a refused client may stay silent, in seconds.
_SILENCE: Final = 0.5


def clusters(sink_port: int) -> list[cluster_pb2.Cluster]:
    """The shared clusters; `sink_port` is a free port on 127.0.0.1 of the proxy's own namespace."""
    return [
        original_destination_cluster(
            names.APP_BY_AUTHORITY, from_header=":authority", fragment=bind_in_connection_netns(names.MARK)
        ),
        original_destination_cluster(names.ORIGINAL_DESTINATION, fragment=bind_in_connection_netns(names.MARK)),
        _app_after_header(),
        _inside(names.APP_TUNNEL, names.APP_TUNNEL_LISTENER, http2=False),
        static_cluster(names.RESET_TCP, [[Endpoint(tcp_address("127.0.0.1", sink_port))]]),
        original_destination_cluster(
            names.RESET_IN_POD, port=names.SINK_PORT, fragment=bind_in_connection_netns(names.MARK)
        ),
        _inside(names.RESET, names.RESET_LISTENER, http2=True),
        _inside(names.EXPLAIN, names.EXPLAIN_LISTENER, http2=False),
    ]


def listeners(sink_port: int) -> list[listener_pb2.Listener]:
    """The shared listeners: all internal but the sink."""
    reason = filter_state.Value(names.REFUSAL_REASON, names.NO_ENDPOINT)
    return [
        _internal(names.PLAIN_LISTENER, _connect(routes.terminate_connect("plain", names.APP_BY_AUTHORITY))),
        _app_tunnel(),
        _internal(names.RESET_LISTENER, _connect(routes.terminate_connect("reset", names.RESET_TCP))),
        _internal(names.RESET_FRONT_LISTENER, _connect(routes.forward_connect("reset", names.RESET))),
        _internal(
            names.EXPLAIN_FRONT_LISTENER,
            _connect(routes.terminate_connect("explain", names.EXPLAIN), filter_state.http_filter(reason)),
        ),
        _internal(names.EXPLAIN_LISTENER, _explainer()),
        _sink(sink_port),
    ]


def _app_after_header() -> cluster_pb2.Cluster:
    cluster = original_destination_cluster(names.APP_AFTER_HEADER, fragment=bind_in_connection_netns(names.MARK))
    cluster.transport_socket.CopyFrom(after_proxy_header())
    return cluster


def _app_tunnel() -> listener_pb2.Listener:
    """Between a pod's tunnels and an app that wants to be told of the peer: only a connection has ends to tell of."""
    listener = listener_pb2.Listener(name=names.APP_TUNNEL_LISTENER)
    listener.internal_listener.SetInParent()
    listener.listener_filters.append(network.original_destination())
    peer = names.PEER_TLV, f"%FILTER_STATE({names.TUNNEL_PEER}:PLAIN)%"
    proxy = network.tcp_proxy(names.APP_AFTER_HEADER, stat_prefix="app-tunnel", proxy_tlv=peer)
    listener.filter_chains.append(listener_components_pb2.FilterChain(filters=[proxy]))
    return listener


def _inside(name: str, listener: str, *, http2: bool) -> cluster_pb2.Cluster:
    return static_cluster(
        name,
        [[Endpoint(internal_address(listener))]],
        transports=[("inside", internal_upstream())],
        http2=http2,
    )


def _internal(name: str, http: Http) -> listener_pb2.Listener:
    listener = listener_pb2.Listener(name=name)
    listener.internal_listener.SetInParent()
    listener.filter_chains.append(listener_components_pb2.FilterChain(filters=[http.network_filter()]))
    return listener


def _connect(route: object, *filters: object) -> Http:
    table: route_pb2.RouteConfiguration = routes.table("", route)
    return Http(stat_prefix="inside", routes=table, filters=tuple(filters))


def _explainer() -> Http:
    return Http(
        stat_prefix="explain",
        codec="AUTO",
        routes=routes.table("", routes.answer("explain", 503, "refused")),
        local_status=503,
        local_reply=f"%FILTER_STATE({names.REFUSAL_REASON}:PLAIN)%\n",
        # What is refused now may be allowed to the next request, and a connection that is kept leads here for ever.
        requests=1,
    )


def _sink(port: int) -> listener_pb2.Listener:
    return sink(listener_pb2.Listener(name=names.RESET_SINK_LISTENER, address=tcp_address("127.0.0.1", port)))


def sink(listener: listener_pb2.Listener) -> listener_pb2.Listener:
    """`listener`, resetting whatever it takes."""
    listener.socket_options.append(abortive_close())
    listener.listener_filters.append(network.peek_first_bytes())
    listener.listener_filters_timeout.CopyFrom(seconds(_SILENCE))
    chain = listener_components_pb2.FilterChain(name="never", filters=[network.tcp_proxy("none", stat_prefix="sink")])
    chain.filter_chain_match.server_names.append("never.invalid")
    listener.filter_chains.append(chain)
    return listener
