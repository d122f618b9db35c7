"""Tries a path over and over and prints each change of what it meets: `python -m bench.prober new|kept ADDRESS PORT`.

Started in a pod's network by `policy` and `curves`. A line is the CLOCK_MONOTONIC time in seconds, which all processes of a machine
share, and `open` or `closed`. `new` opens a connection for every request; `kept` sends requests on one connection, and opens another
only when that one ends. `first - PORT` reads addresses, each as it becomes known, and prints `open` once there was an answer from it.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import time

_REQUEST = b"GET /ok HTTP/1.1\r\nHost: probe\r\n\r\n"
_PAUSE = 0.001


def connect(address: str, port: int) -> socket.socket:
    made = socket.create_connection((address, port), 2.0)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def ask(connection: socket.socket) -> bool:
    """Whether the answer is 200; OSError when the connection is reset or ended."""
    connection.sendall(_REQUEST)
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(4096)
        if not more:
            raise ConnectionResetError
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    while len(body) < length:
        body += connection.recv(4096)
    return head.startswith(b"HTTP/1.1 200")


def _first(port: int) -> None:
    for line in sys.stdin:
        while True:
            with contextlib.suppress(OSError), connect(line.strip(), port) as connection:
                if ask(connection):
                    break
            time.sleep(_PAUSE)
        print(f"{time.monotonic():.6f} open", flush=True)


def main() -> None:
    """Probe until killed."""
    how, address, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if how == "first":
        _first(port)
        return
    state: bool | None = None
    kept: socket.socket | None = None
    while True:
        found = False
        with contextlib.suppress(OSError):
            kept = kept or connect(address, port)
            try:
                found = ask(kept)
            except OSError:
                kept.close()
                kept = None
                raise
        if how == "new" and kept is not None:
            kept.close()
            kept = None
        if found is not state:
            state = found
            print(f"{time.monotonic():.6f} {'open' if found else 'closed'}", flush=True)
        time.sleep(_PAUSE)


if __name__ == "__main__":
    main()
