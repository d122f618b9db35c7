"""Addresses and socket options: where Envoy listens, and how its own connections look to the kernel."""

from __future__ import annotations

import struct
from typing import Final

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.core.v3 import address_pb2, extension_pb2, socket_option_pb2
from envoy.extensions.local_address_selectors.filter_state_override.v3 import config_pb2

from tulle.envoy.wire import extension

_SOL_SOCKET: Final = 1
_SO_MARK: Final = 36
_SO_LINGER: Final = 13


def tcp_address(host: str, port: int, netns_path: str = "") -> address_pb2.Address:
    """A TCP address; a listener with `netns_path` is opened inside that network namespace."""
    address = address_pb2.Address()
    address.socket_address.address = host
    address.socket_address.port_value = port
    address.socket_address.network_namespace_filepath = netns_path
    return address


def internal_address(listener: str, endpoint_id: str = "") -> address_pb2.Address:
    """An internal listener of the same Envoy; `endpoint_id` tells apart endpoints that share a listener."""
    address = address_pb2.Address()
    address.envoy_internal_address.server_listener_name = listener
    address.envoy_internal_address.endpoint_id = endpoint_id
    return address


def mark(value: int) -> socket_option_pb2.SocketOption:
    """SO_MARK before bind: what the redirect rules of a pod look at to leave the proxy's own connections alone."""
    return socket_option_pb2.SocketOption(
        description="SO_MARK", level=_SOL_SOCKET, name=_SO_MARK, int_value=value, state="STATE_PREBIND"
    )


def abortive_close() -> socket_option_pb2.SocketOption:
    """SO_LINGER {on, 0 s} on a listening socket: every accepted connection is closed by a reset.

    Only for listeners that never carry data worth keeping, because a close discards what is still unsent.
    """
    return socket_option_pb2.SocketOption(
        description="SO_LINGER 0",
        level=_SOL_SOCKET,
        name=_SO_LINGER,
        buf_value=struct.pack("ii", 1, 0),
        state="STATE_LISTENING",
    )


def bind_in_connection_netns(so_mark: int) -> cluster_pb2.Cluster:
    """A cluster fragment: upstream sockets carry `so_mark` and open in the netns that the connection's filter state names.

    The source address is any, of the IP version of the endpoint.

    See `filter_state.NETNS`.  Merge it into a cluster with `MergeFrom`.
    """
    fragment = cluster_pb2.Cluster()
    bind = fragment.upstream_bind_config
    bind.source_address.address = "0.0.0.0"  # noqa: S104 (source address: any)
    bind.source_address.port_value = 0
    bind.socket_options.append(mark(so_mark))
    other = bind.extra_source_addresses.add()
    other.address.address = "::"
    other.address.port_value = 0
    selector: extension_pb2.TypedExtensionConfig = extension(
        "envoy.upstream.local_address_selector.filter_state_override", config_pb2.Config()
    )
    bind.local_address_selector.CopyFrom(selector)
    return fragment
