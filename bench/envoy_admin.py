"""What an Envoy of the mesh answers on its admin socket, which only root of the machine reaches."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from bench.processes import Process

_SOCKET = "admin.sock"


def ask(envoy: Process, path: str) -> Mapping[str, Any]:
    """The JSON at a path such as /memory. Raises OSError when the process is gone."""
    folder = envoy.command[envoy.command.index("-c") + 1].rsplit("/", 1)[0]
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(f"/proc/{envoy.pid}/root{folder}/{_SOCKET}")
        link.sendall(f"GET {path} HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: link.recv(1 << 20), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        body = b"".join(_chunks(body))
    found: Mapping[str, Any] = json.loads(body)
    return found


def _chunks(body: bytes) -> Iterator[bytes]:
    while body:
        size, _, rest = body.partition(b"\r\n")
        count = int(size, 16)
        yield rest[:count]
        body = rest[count + 2 :]
