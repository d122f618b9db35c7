"""The listeners of one captured pod, opened inside its network namespace (spec D1).

Their content depends on the pod and on nothing else of the mesh but the prefixes of its addresses, so that a change of
services or policies rewrites none of them and cuts no connection.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network
from typing import Final

from envoy.config.core.v3 import address_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2

from tulle.envoy import filter_state, matching, network, original_source, svid, tls
from tulle.envoy.network import Header, Http, Tunnel
from tulle.envoy.sockets import tcp_address
from tulle.ztunnel.config import introduction, logs, names
from tulle.ztunnel.config.access import ALLOW_CHAIN, DENY_CHAIN, Access, plaintext_matcher
from tulle.ztunnel.config.local_pod import LocalPod
from tulle.ztunnel.config.prefixes import Prefixes
from tulle.ztunnel.config.shared import sink
from tulle.ztunnel.policy.terms import Address, Network

_SERVICE_CHAIN: Final = "service"
_DIRECT_CHAIN: Final = "direct"
_OUTSIDE_CHAIN: Final = "outside"
_LOOP_CHAIN: Final = "loop"
#: The address that a connection was redirected to, whatever it was made to.
_HERE: Final = "%DOWNSTREAM_DIRECT_LOCAL_ADDRESS%"
_LOOPBACK: Final = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
#: Seconds to wait for the cluster of a destination that is used for the first time.
_ON_DEMAND_SECONDS: Final = 5.0
#: A tunnel that cannot be made is tried again after short pauses.  It seldom helps the tunnel; it makes sure that the
#: client's first bytes have arrived before its connection is closed, so that the client sees a reset every time.
_CONNECT_ATTEMPTS: Final = 3
_RETRY_SECONDS: Final = 0.03


def outbound_listener(
    pod: LocalPod, addresses: Iterable[Address], mesh: Prefixes, *, is_waypoint: bool = False
) -> listener_pb2.Listener:
    """Takes what the pod sends: to the mesh by the cluster named after the destination, anywhere else onwards.

    `addresses` are the pod's own; what comes to one of the proxy's own ports there came to the proxy by mistake.
    `is_waypoint`: it has destinations of its own, which do not lead back to it.
    """
    listener = _listener(pod, names.OUTBOUND, names.OUTBOUND_PORT)
    listener.listener_filters.append(network.original_destination())
    caller = pod.uid if is_waypoint else ""
    services = names.service_format(pod.namespace, caller), "%UPSTREAM_HOST_NAMES_ATTEMPTED%"
    direct = names.direct_format(pod.namespace, caller), "%DOWNSTREAM_LOCAL_ADDRESS%"
    listener.filter_chains.extend(
        [
            _mesh_chain(pod, _SERVICE_CHAIN, *services),
            _mesh_chain(pod, _DIRECT_CHAIN, *direct),
            _outside_chain(pod),
            _reset_chain(_LOOP_CHAIN),
        ]
    )
    by_chain = {name: matching.use_chain(name) for name in (_SERVICE_CHAIN, _DIRECT_CHAIN, _LOOP_CHAIN)}
    loops = {str(port): by_chain[_LOOP_CHAIN] for port in names.OWN_PORTS}
    own_ports = matching.use_matcher(matching.by_text(matching.destination_port(), loops, by_chain[_DIRECT_CHAIN]))
    own = [ip_network(address) for address in addresses]
    choices: list[tuple[list[Network], matching.Choice]] = [
        (list(_LOOPBACK), by_chain[_LOOP_CHAIN]),
        (own, own_ports),
        ([prefix for prefix in mesh.services if prefix not in own], by_chain[_SERVICE_CHAIN]),
        ([prefix for prefix in mesh.direct if prefix not in own], by_chain[_DIRECT_CHAIN]),
    ]
    used = [(networks, choice) for networks, choice in choices if networks]
    matcher = matching.by_network(matching.destination_ip(), used, matching.use_chain(_OUTSIDE_CHAIN))
    listener.filter_chain_matcher.CopyFrom(matcher)
    return listener


def _mesh_chain(pod: LocalPod, name: str, cluster: str, asked_for: str) -> listener_components_pb2.FilterChain:
    """Tunnels to `cluster`, asking for `asked_for`; both are format strings."""
    carried = filter_state.network_filter(
        filter_state.netns(pod.netns),
        filter_state.client_certificate(names.client_secret(pod.identity)),
        filter_state.tcp_cluster(cluster),
    )
    proxy = network.tcp_proxy(
        "none",
        stat_prefix=name,
        tunnel=Tunnel(asked_for, introduction.headers(pod, by_service=name == _SERVICE_CHAIN)),
        on_demand_timeout=_ON_DEMAND_SECONDS,
        connect_attempts=_CONNECT_ATTEMPTS,
        retry_backoff=_RETRY_SECONDS,
        logs=[logs.outbound(pod, asked_for)],
        log_opened=True,
    )
    return listener_components_pb2.FilterChain(name=name, filters=[carried, proxy])


def _outside_chain(pod: LocalPod) -> listener_components_pb2.FilterChain:
    log = logs.outbound(pod, "")
    proxy = network.tcp_proxy(names.ORIGINAL_DESTINATION, stat_prefix=_OUTSIDE_CHAIN, logs=[log], log_opened=True)
    carried = filter_state.network_filter(filter_state.netns(pod.netns))
    return listener_components_pb2.FilterChain(name=_OUTSIDE_CHAIN, filters=[carried, proxy])


def plaintext_listener(pod: LocalPod, access: Access) -> listener_pb2.Listener:
    """Takes what others send to the pod outside of a tunnel, as far as policies allow that without an identity."""
    allow = listener_components_pb2.FilterChain(
        name=ALLOW_CHAIN,
        filters=[
            filter_state.network_filter(filter_state.netns(pod.netns)),
            network.tcp_proxy(
                names.ORIGINAL_DESTINATION, stat_prefix="plaintext", logs=[logs.plaintext(pod)], log_opened=True
            ),
        ],
    )
    reason = "connection closed due to policy rejection: plaintext is not allowed"
    refuse = names.RESET_IN_POD if pod.keeps_source else names.RESET_TCP
    refused = network.tcp_proxy(refuse, stat_prefix="plaintext", logs=[logs.plaintext(pod, reason)])
    deny = listener_components_pb2.FilterChain(name=DENY_CHAIN, filters=[refused])
    listener = _listener(pod, names.PLAINTEXT, names.PLAINTEXT_PORT)
    listener.listener_filters.append(network.original_destination())
    if pod.keeps_source:
        # For every connection of the listener: also one that is refused is led on under its client's address.
        listener.listener_filters.append(original_source.listener_filter(names.MARK))
        deny.filters.insert(0, filter_state.network_filter(filter_state.netns(pod.netns), filter_state.target(_HERE)))
    listener.filter_chains.extend([allow, deny])
    listener.filter_chain_matcher.CopyFrom(plaintext_matcher(access))
    return listener


def sink_listener(pod: LocalPod) -> listener_pb2.Listener:
    """Resets what the plaintext listener refuses.

    It stands in the pod's namespace because a connection under the client's address finds its way back only there.
    """
    return sink(_listener(pod, names.SINK, names.SINK_PORT))


def hbone_listener(pod: LocalPod) -> listener_pb2.Listener:
    """Takes tunnels.  Envoy opens it when the pod's certificate is there; the pod's route table decides."""
    http = Http(
        stat_prefix="hbone",
        routes=names.routes(pod.uid),
        early_headers=(
            Header(names.PRINCIPAL_HEADER, "%DOWNSTREAM_PEER_URI_SAN%"),
            Header(names.SOURCE_HEADER, "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%"),
        ),
        filters=(filter_state.http_filter(), original_source.http_filter(names.MARK)),
        logs=(logs.hbone(pod),),
        log_opened=True,
    )
    chain = listener_components_pb2.FilterChain(
        name="hbone",
        transport_socket=tls.mutual_server(pod.identity, pod.trust_domain),
        filters=[
            filter_state.network_filter(filter_state.netns(pod.netns), after_handshake=svid.FACTS),
            svid.leaf_of(pod.trust_domain),
            http.network_filter(),
        ],
    )
    listener = _listener(pod, names.HBONE, names.HBONE_PORT)
    listener.access_log.append(logs.handshake(pod))
    listener.filter_chains.append(chain)
    return listener


def _reset_chain(name: str) -> listener_components_pb2.FilterChain:
    return listener_components_pb2.FilterChain(
        name=name, filters=[network.tcp_proxy(names.RESET_TCP, stat_prefix="reset")]
    )


def _listener(pod: LocalPod, kind: str, port: int) -> listener_pb2.Listener:
    address: address_pb2.Address = tcp_address("0.0.0.0", port, pod.netns)  # noqa: S104 (inside the pod)
    listener = listener_pb2.Listener(
        name=names.listener(pod.uid, kind), address=address, stat_prefix=kind, ignore_global_conn_limit=True
    )
    if pod.ipv6:
        listener.additional_addresses.add(address=tcp_address("::", port, pod.netns))
    return listener
