"""What the node proxy's Envoy is configured with, read from its admin interface: how much of it there is, and what is new."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from bench import processes
from bench.mesh import Mesh, MeshError

_SOCKET = "admin.sock"
_STATES = ("dynamic_listeners", "dynamic_active_clusters", "dynamic_route_configs", "dynamic_active_secrets")
"""The parts of a dump that came by xDS."""


def read(mesh: Mesh) -> Mapping[str, Any]:
    """The dump of the first node's Envoy. Raises MeshError."""
    envoys = [process for process in mesh.processes() if processes.name(process) == "ztunnel's Envoy"]
    if not envoys:
        raise MeshError("no process is ztunnel's Envoy")
    pid = envoys[0].pid
    config = next(word for word in envoys[0].command if word.startswith("/run/tulle-ztunnel/"))
    folder = config.rsplit("/", 1)[0]
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(f"/proc/{pid}/root{folder}/{_SOCKET}")
        link.sendall(b"GET /config_dump HTTP/1.1\r\nHost: envoy\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: link.recv(1 << 20), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" in head.lower():
        body = b"".join(_chunks(body))
    dump: Mapping[str, Any] = json.loads(body)
    return dump


def _chunks(body: bytes) -> Iterator[bytes]:
    while body:
        size, _, rest = body.partition(b"\r\n")
        count = int(size, 16)
        yield rest[:count]
        body = rest[count + 2 :]


def _parts(dump: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every resource in use that came by xDS, by its kind; listeners that only let open connections end are left out."""
    for section in dump["configs"]:
        for state in _STATES:
            for found in section.get(state, ()):
                used = found.get("active_state") if state == "dynamic_listeners" else found
                if used is not None:
                    yield state.split("_")[-1], used


def _bytes(part: Mapping[str, Any]) -> int:
    return len(json.dumps(part, separators=(",", ":")))


def sizes(dump: Mapping[str, Any]) -> dict[str, int]:
    """How many listeners there are, and how long everything is that came by xDS, written as JSON."""
    parts = list(_parts(dump))
    return {
        "listeners": sum(kind == "listeners" for kind, _ in parts),
        "bytes": sum(_bytes(part) for _, part in parts),
        "listener_bytes": sum(_bytes(part) for kind, part in parts if kind == "listeners"),
    }


def renewed(dump: Mapping[str, Any], since: float) -> dict[str, int]:
    """How many resources are newer than a moment, and how long they are, written as JSON."""
    new = [part for _, part in _parts(dump) if datetime.fromisoformat(part["last_updated"]).timestamp() > since]
    return {"resources": len(new), "bytes": sum(map(_bytes, new))}
