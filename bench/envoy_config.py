"""What the node proxy's Envoy is configured with, read from its admin interface: how much of it there is, and what is new."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from bench import envoy_admin, processes
from bench.mesh import Mesh, MeshError

_STATES = ("dynamic_listeners", "dynamic_active_clusters", "dynamic_route_configs", "dynamic_active_secrets")
"""The parts of a dump that came by xDS."""


def read(mesh: Mesh) -> Mapping[str, Any]:
    """The dump of the first node's Envoy. Raises MeshError."""
    envoys = [process for process in mesh.processes() if processes.name(process) == "ztunnel's Envoy"]
    if not envoys:
        raise MeshError("no process is ztunnel's Envoy")
    return envoy_admin.ask(envoys[0], "/config_dump")


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
