"""Whom the pod asked before the question was redirected here: the kernel's connection tracking knows.

For a stream the socket can be asked; for datagrams there is one lookup over netlink, by the only side that is visible
here, which is the answer's.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Final, TypeAlias

HostPort: TypeAlias = tuple[str, int]

_NETFILTER: Final = 12
_GET: Final = 0x0101
_NEW: Final = 0x0100
_REQUEST: Final = 1
_NESTED: Final = 0x8000
_SO_ORIGINAL_DST: Final = 80
#: Attributes of a tracked connection: the tuples of both directions, and what is in them.
_ORIGINAL, _REPLY = 1, 2
_ADDRESSES, _PROTOCOL = 1, 2
_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
#: Source and destination address by family.
_ADDRESS_ATTRIBUTES: Final = {socket.AF_INET: (1, 2), socket.AF_INET6: (3, 4)}

_HEADER: Final = struct.Struct("=IHHII")
_FAMILY: Final = struct.Struct("!BBH")
_ATTRIBUTE: Final = struct.Struct("=HH")
#: What the kernel fills in for a socket's original destination.
_IPV4: Final = struct.Struct("!2xH4s8x")
_IPV6: Final = struct.Struct("!2xH4x16s4x")


class UnknownOriginError(Exception):
    """The kernel does not say whom the pod asked."""


def of_stream(descriptor: int) -> HostPort:
    """Whom the other end of an accepted connection had dialled.  Raises UnknownOriginError."""
    with socket.socket(fileno=os.dup(descriptor)) as connection:
        return _dialled(connection)


def _dialled(connection: socket.socket) -> HostPort:
    six = connection.family == socket.AF_INET6
    level, shape = (socket.IPPROTO_IPV6, _IPV6) if six else (socket.IPPROTO_IP, _IPV4)
    try:
        port, address = shape.unpack(connection.getsockopt(level, _SO_ORIGINAL_DST, shape.size))
    except OSError as error:
        raise UnknownOriginError(f"SO_ORIGINAL_DST: {error}") from error
    return str(ip_address(address)), port


def open_tracking() -> socket.socket:
    """A socket for `of_datagram`, to be made in the pod's namespace.  Raises OSError."""
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETFILTER)
    link.settimeout(1.0)
    return link


def of_datagram(tracking: socket.socket, own: HostPort, peer: HostPort) -> HostPort:
    """Whom `peer` had asked when its datagram came to `own`.  Raises UnknownOriginError."""
    body = _query(own, peer)
    try:
        tracking.send(_HEADER.pack(_HEADER.size + len(body), _GET, _REQUEST, 1, 0) + body)
        reply = tracking.recv(8192)
    except OSError as error:
        raise UnknownOriginError(f"connection tracking: {error}") from error
    if _HEADER.unpack_from(reply)[1] != _NEW:
        raise UnknownOriginError(
            f"connection tracking: nothing about {peer[0]}:{peer[1]}; needed are CAP_NET_ADMIN and a kernel with "
            "CONFIG_NF_CT_NETLINK"
        )
    return _original(reply[_HEADER.size + _FAMILY.size :])


def _query(own: HostPort, peer: HostPort) -> bytes:
    source, destination = ip_address(own[0]), ip_address(peer[0])
    family = socket.AF_INET6 if source.version == 6 else socket.AF_INET
    of_source, of_destination = _ADDRESS_ATTRIBUTES[family]
    addresses = _attribute(of_source, source.packed) + _attribute(of_destination, destination.packed)
    ports = (
        _attribute(_NUMBER, bytes((socket.IPPROTO_UDP,)))
        + _attribute(_SOURCE_PORT, own[1].to_bytes(2, "big"))
        + _attribute(_DESTINATION_PORT, peer[1].to_bytes(2, "big"))
    )
    both = _attribute(_ADDRESSES | _NESTED, addresses) + _attribute(_PROTOCOL | _NESTED, ports)
    return _FAMILY.pack(family, 0, 0) + _attribute(_REPLY | _NESTED, both)


def _original(attributes: bytes) -> HostPort:
    original = dict(_attributes(dict(_attributes(attributes))[_ORIGINAL]))
    addresses, ports = dict(_attributes(original[_ADDRESSES])), dict(_attributes(original[_PROTOCOL]))
    destination = next(addresses[second] for _, second in _ADDRESS_ATTRIBUTES.values() if second in addresses)
    return str(ip_address(destination)), int.from_bytes(ports[_DESTINATION_PORT], "big")


def _attribute(kind: int, data: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(data), kind) + data + bytes(-len(data) % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        size, kind = _ATTRIBUTE.unpack_from(data)
        yield kind & ~_NESTED, data[_ATTRIBUTE.size : size]
        data = data[size + -size % 4 :]
