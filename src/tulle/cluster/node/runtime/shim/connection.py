"""One client of the shim's socket: buffers, and the two things a connection can be (control or attach)."""

from __future__ import annotations

import socket
from collections.abc import Callable

from tulle.cluster.node.runtime.shim import protocol

OUTPUT_LIMIT = 8 << 20
"""Bytes that may wait for a client that does not read; past that it is cut off, so that it cannot hold up the
container.
"""


class Connection:
    """A non-blocking stream with a write buffer; `wake` tells the loop that its interest changed."""

    def __init__(self, sock: socket.socket, wake: Callable[[Connection], None]) -> None:
        self.sock = sock
        self.received = bytearray()
        self.sending = bytearray()
        self.attached_to: str | None = None
        self.streams: frozenset[str] = frozenset()
        self.stdin = False
        self.watching = False
        self.closing = False
        self.eof = False
        self._wake = wake
        sock.setblocking(False)

    def send(self, data: bytes) -> None:
        self.sending += data
        if len(self.sending) > OUTPUT_LIMIT:
            self.sending.clear()
            self.closing = True
        self._wake(self)

    def flush(self) -> bool:
        """Write what the socket takes; False when the peer is gone."""
        try:
            sent = self.sock.send(self.sending)
        except BlockingIOError:
            return True
        except OSError:
            return False
        del self.sending[:sent]
        return True

    def receive(self) -> bool:
        """Read what is there; False at the end."""
        try:
            data = self.sock.recv(64 * 1024)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.received += data
        return bool(data)

    def output(self, stream: str, data: bytes) -> None:
        if stream in self.streams:
            self.send(protocol.frame(protocol.STDOUT if stream == "stdout" else protocol.STDERR, data))

    def finished(self) -> None:
        self.closing = True
        self._wake(self)
