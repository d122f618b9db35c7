"""Servers and clients inside a network namespace, as sockets of this process: a socket stays where it was made."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from network.conftest import inside

SO_ORIGINAL_DST = 80


@contextmanager
def serving(netns: str | Path, address: str, port: int, word: str = "hello") -> Iterator[None]:
    """A TCP server that tells each client ``word``, the client's address, and where the client meant to go."""
    with inside(netns):
        listener = socket.create_server((address, port), backlog=16, family=_family(address))

    def serve() -> None:
        while True:
            try:
                link, peer = listener.accept()
            except OSError:
                return
            with link:
                link.sendall(f"{word} {peer[0]} {_original(link)}".encode())

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _original(link: socket.socket) -> str:
    try:
        _, port, raw = struct.unpack("!HH4s8x", link.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16))
    except OSError:
        return ":".join(map(str, link.getsockname()))  # nothing was translated here
    return f"{socket.inet_ntoa(raw)}:{port}"


def talk(
    netns: str | Path,
    address: str,
    port: int,
    *,
    mark: int = 0,
    source: str = "",
    source_port: int = 0,
    timeout: float = 3.0,
) -> str:
    """What the server at ``address`` says to a client in ``netns``. Raises OSError (ConnectionRefusedError, TimeoutError)."""
    with inside(netns):
        link = socket.socket(_family(address), socket.SOCK_STREAM)
    with link:
        link.settimeout(timeout)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if mark:
            link.setsockopt(socket.SOL_SOCKET, 36, mark)  # SO_MARK
        if source:
            link.setsockopt(socket.SOL_IP, 19, 1)  # IP_TRANSPARENT: any source address
            link.bind((source, source_port))
        link.connect((address, port))
        return link.recv(200).decode()


def udp(netns: str | Path, address: str, port: int, payload: bytes, timeout: float = 3.0) -> bytes:
    with inside(netns):
        link = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with link:
        link.settimeout(timeout)
        link.connect((address, port))
        link.send(payload)
        return link.recv(65535)
