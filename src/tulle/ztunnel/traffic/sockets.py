"""Closing one connection of somebody else's, in somebody else's network namespace (sock_diag, SOCK_DESTROY).

Envoy has no way to be told "close this one", but the kernel has.  What is closed is the app's connection in the pod, which
exists for tunnels and plaintext alike, and its end closes the rest of the chain.  A lookup comes first, for its cookie: a
destroy by addresses alone falls through to a *listening* socket when the connection has just gone.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, TypeAlias

from tulle.ztunnel.netns import made_inside

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY: Final = 20
_SOCK_DESTROY: Final = 21
_NLMSG_ERROR: Final = 2
_NLM_F_REQUEST: Final = 1
_NLM_F_ACK: Final = 4
_NLM_F_DUMP: Final = 0x301
_NLMSG_DONE: Final = 3
_DUMP_BYTES: Final = 65536
_ANY_STATE: Final = 0xFFFFFFFF
_ESTABLISHED: Final = 1 << 1
_NO_COOKIE: Final = b"\xff" * 8
#: TCP states that are no connection: closed, listening.
_NO_CONNECTION: Final = frozenset({7, 10})

_HEADER: Final = struct.Struct("=IHHII")
#: family, protocol, extensions, pad, states; the socket id follows.
_REQUEST: Final = struct.Struct("=BBBxI")
#: source port, destination port, source, destination, interface; the cookie follows.
_ID: Final = struct.Struct("!HH16s16sI")
#: family, state, timer, retransmits before the socket id of an answer.
_ANSWER: Final = struct.Struct("=BBBB")

HostPort: TypeAlias = tuple[str, int]


class CannotCloseError(Exception):
    """The kernel does not let this process close connections; the text says what is missing."""


@dataclass(frozen=True)
class Ends:
    """One TCP connection: `local` is the end whose socket is closed with an error, the other end gets a reset."""

    local: HostPort
    remote: HostPort


def destroy(netns: int, connections: Iterable[Ends]) -> int:
    """Close connections in the network namespace of the descriptor `netns`; how many were there.

    Raises CannotCloseError when the kernel refused one (the others are closed), and OSError if the namespace cannot be entered.
    """
    closed = 0
    refused: CannotCloseError | None = None
    with made_inside(netns, _open) as link:
        for ends in connections:
            try:
                closed += _destroy(link, ends)
            except CannotCloseError as error:
                refused = error
    if refused is not None:
        raise refused
    return closed


def established(netns: int, port: int) -> list[Ends]:
    """The TCP connections in a network namespace that have `port` at one of their ends.  Raises OSError."""
    found: list[Ends] = []
    with made_inside(netns, _open) as link:
        for family in (socket.AF_INET, socket.AF_INET6):
            body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _ESTABLISHED) + bytes(_ID.size) + _NO_COOKIE
            link.send(_HEADER.pack(_HEADER.size + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_DUMP, 1, 0) + body)
            found += [ends for ends in _listed(link, family) if port in (ends.local[1], ends.remote[1])]
    return found


def _listed(link: socket.socket, family: int) -> Iterator[Ends]:
    while True:
        answer = memoryview(link.recv(_DUMP_BYTES))
        while answer:
            length, kind, _, _, _ = _HEADER.unpack_from(answer)
            if kind in (_NLMSG_DONE, _NLMSG_ERROR):
                return
            yield _ends(bytes(answer[_HEADER.size + _ANSWER.size : length]), 4 if family == socket.AF_INET else 16)
            answer = answer[(length + 3) & ~3 :]


def _ends(text: bytes, size: int) -> Ends:
    source_port, destination_port, source, destination, _ = _ID.unpack_from(text)
    local, remote = (str(ip_address(packed[:size])) for packed in (source, destination))
    return Ends((local, source_port), (remote, destination_port))


def _open() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)


def _destroy(link: socket.socket, ends: Ends) -> bool:
    found = _ask(link, _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, ends, _NO_COOKIE)
    if len(found) < _ANSWER.size + _ID.size + 8:
        return False
    state = _ANSWER.unpack_from(found)[1]
    if state in _NO_CONNECTION:
        return False
    cookie = found[_ANSWER.size + _ID.size :][:8]
    _ask(link, _SOCK_DESTROY, _NLM_F_REQUEST | _NLM_F_ACK, ends, cookie)
    return True


def _ask(link: socket.socket, kind: int, flags: int, ends: Ends, cookie: bytes) -> bytes:
    """The answer's body; empty when there is no such socket or nothing more to say."""
    source, destination = ip_address(ends.local[0]), ip_address(ends.remote[0])
    family = socket.AF_INET6 if source.version == 6 else socket.AF_INET
    sockets = _ID.pack(ends.local[1], ends.remote[1], _padded(source.packed), _padded(destination.packed), 0)
    body = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _ANY_STATE) + sockets + cookie
    link.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)
    answer = link.recv(4096)
    _, answered, _, _, _ = _HEADER.unpack_from(answer)
    payload = answer[_HEADER.size :]
    if answered != _NLMSG_ERROR:
        return payload
    number = -struct.unpack_from("=i", payload)[0]
    if number in (0, errno.ENOENT):
        return b""
    raise CannotCloseError(
        f"closing a connection: {os.strerror(number)}; needed are CAP_NET_ADMIN and a kernel with "
        "CONFIG_INET_DIAG and CONFIG_INET_DIAG_DESTROY"
    )


def _padded(packed: bytes) -> bytes:
    return packed.ljust(16, b"\0")
