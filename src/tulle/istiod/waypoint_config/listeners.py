"""The three listeners of a waypoint: HBONE in, the request in plain, HBONE out.

`connect_terminate` takes the tunnel off, and hands the client's SPIFFE URI, its address and the address it asked for to
`main_internal` as filter state. There a filter chain per target port reads HTTP (or passes opaque TCP), decides policy on that
identity, and picks an endpoint. `connect_originate` puts the tunnel on again, with the waypoint's identity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.extensions.filters.listener.http_inspector.v3 import http_inspector_pb2

from tulle.envoy import filter_state, network, svid
from tulle.envoy.clusters import METADATA
from tulle.envoy.filter_state import Value
from tulle.envoy.network import Header, Http, Tunnel
from tulle.envoy.sockets import tcp_address
from tulle.envoy.tls import mutual_server
from tulle.envoy.wire import pack, seconds
from tulle.istiod.waypoint_config import chains, names
from tulle.istiod.waypoint_config.clusters import HBONE_PORT, REFUSAL_HEADER
from tulle.istiod.waypoint_config.view import ANY_PORT, PortView, WaypointConfigView

_SAN_OVERRIDE = "envoy.network.upstream_subject_alt_names"
_LOCAL_IP = "envoy.filters.listener.original_dst.local_ip"
_REMOTE_IP = "envoy.filters.listener.original_dst.remote_ip"
_SILENCE = 5.0
"""How long a connection to a port of unknown protocol may stay silent, in seconds, before it counts as one of those protocols in
which the server speaks first."""


def handed_over(*, onward: bool = False) -> tuple[Value, ...]:
    """What a tunnel hands to the request inside it. `onward`: the address asked for goes with it to the endpoint."""
    return (
        Value(names.PEER_PRINCIPAL, "%DOWNSTREAM_PEER_URI_SAN%", factory="envoy.string", upstream="ONCE"),
        Value(
            names.PEER_ADDRESS,
            "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
            factory="envoy.network.ip",
            upstream="ONCE",
        ),
        Value(_LOCAL_IP, "%REQ(:AUTHORITY)%", factory=_LOCAL_IP, upstream="TRANSITIVE" if onward else "ONCE"),
        Value(_REMOTE_IP, "%DOWNSTREAM_REMOTE_ADDRESS%", factory=_REMOTE_IP, upstream="ONCE"),
    )


def connect_terminate(view: WaypointConfigView) -> listener_pb2.Listener:
    """HBONE in on port 15008."""
    hand_over = filter_state.http_filter(*handed_over())
    manager = Http(stat_prefix=names.CONNECT_TERMINATE, routes=names.CONNECT_TERMINATE, filters=(hand_over,))
    chain = listener_components_pb2.FilterChain(
        name=names.CONNECT_TERMINATE,
        filters=[
            filter_state.network_filter(after_handshake=svid.FACTS),
            svid.leaf_of(view.trust_domain),
            manager.network_filter(),
        ],
        transport_socket=mutual_server(view.identity, view.trust_domain),
    )
    # All addresses of the pod's own network namespace, in which nothing else listens.
    everywhere = tcp_address("0.0.0.0", HBONE_PORT)  # noqa: S104
    return listener_pb2.Listener(name=names.CONNECT_TERMINATE, address=everywhere, filter_chains=[chain])


def main_internal(view: WaypointConfigView) -> listener_pb2.Listener:
    """The request in plain: the chains of every Service's ports; an address that none of them serves is closed."""
    return _main(view, names.MAIN_INTERNAL, lambda port: port.port != ANY_PORT)


def main_pods(view: WaypointConfigView) -> listener_pb2.Listener:
    """The same for what is addressed to pods. A listener of its own, as Envoy looks no further than the chains for a port if
    there are any."""
    return _main(view, names.MAIN_PODS, lambda port: port.port == ANY_PORT)


def _main(view: WaypointConfigView, name: str, here: Callable[[PortView], bool]) -> listener_pb2.Listener:
    listener = listener_pb2.Listener(
        name=name,
        internal_listener=listener_pb2.Listener.InternalListenerConfig(),
        listener_filters=[network.original_destination()],
    )
    unknown: set[int] = set()
    for target in view.targets:
        for port in filter(here, target.ports if target.addresses else ()):
            listener.filter_chains.extend(chains.of_port(view, target, port))
            if port.protocol == "AUTO":
                unknown.add(port.port)
    if unknown:
        listener.listener_filters.append(_look_for_http(sorted(unknown)))
        listener.listener_filters_timeout.CopyFrom(seconds(_SILENCE))
        listener.continue_on_listener_filters_timeout = True
    return listener


def _look_for_http(ports: Sequence[int]) -> listener_components_pb2.ListenerFilter:
    """Look at the first bytes of connections to these ports, and only to these: others need not wait for any."""
    inspector = listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.http_inspector", typed_config=pack(http_inspector_pb2.HttpInspector())
    )
    if ANY_PORT in ports:
        return inspector
    wanted = [listener_components_pb2.ListenerFilterChainMatchPredicate() for _ in ports]
    for predicate, port in zip(wanted, ports, strict=True):
        predicate.destination_port_range.start, predicate.destination_port_range.end = port, port + 1
    looked_at = inspector.filter_disabled.not_match
    if len(wanted) == 1:
        looked_at.CopyFrom(wanted[0])
    else:
        looked_at.or_match.rules.extend(wanted)
    return inspector


def connect_originate() -> listener_pb2.Listener:
    """HBONE out: CONNECT to the endpoint's address, whose certificate must carry the identity named in its metadata."""
    expect = Value(_SAN_OVERRIDE, f"%DYNAMIC_METADATA({METADATA}:identity)%", factory=_SAN_OVERRIDE, upstream="NONE")
    refusals = Header(REFUSAL_HEADER, f"%DYNAMIC_METADATA({METADATA}:refusals)%")
    onward = network.tcp_proxy(
        names.CONNECT_ORIGINATE,
        stat_prefix=names.CONNECT_ORIGINATE,
        tunnel=Tunnel("%DOWNSTREAM_LOCAL_ADDRESS%", headers=(refusals,)),
    )
    chain = listener_components_pb2.FilterChain(
        name=names.CONNECT_ORIGINATE, filters=[filter_state.network_filter(expect), onward]
    )
    return listener_pb2.Listener(
        name=names.CONNECT_ORIGINATE,
        internal_listener=listener_pb2.Listener.InternalListenerConfig(),
        listener_filters=[network.original_destination()],
        filter_chains=[chain],
    )
