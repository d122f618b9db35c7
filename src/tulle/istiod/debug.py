"""What each proxy has acknowledged, for istioctl: `/debug/syncz`.

The answer is the one that tools of Istio read: `envoy.service.status.v3.ClientConfig` documents, one per proxy, with a status for every
type that the proxy subscribes to. It is given on the loopback address only (`kubectl port-forward` ends there): who is connected, and from
which namespace, is nobody else's business (CVE-2026-31838).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec
from aiohttp import web

import tulle
from tulle.xds.delta import TypeState
from tulle.xds.server import Connection

SYNCED: Final = "SYNCED"
STALE: Final = "STALE"
NOT_SENT: Final = "NOT_SENT"
ERROR: Final = "ERROR"
CLIENT_CONFIG: Final = "type.googleapis.com/envoy.service.status.v3.ClientConfig"


class Debug:
    """The page; `istiod` is the pod's own name."""

    def __init__(self, istiod: str, connections: Callable[[], Iterable[Connection]]) -> None:
        self._istiod = istiod
        self._connections = connections

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/debug/syncz", self._syncz)

    async def _syncz(self, request: web.Request) -> web.Response:
        if not ipaddress.ip_address(request.remote or "0.0.0.0").is_loopback:  # noqa: S104 (an address that is not loopback)
            return web.Response(status=403, text="only from the loopback address: use kubectl port-forward\n")
        body = msgspec.json.encode(syncz(self._istiod, self._connections()))
        return web.Response(body=body, content_type="application/json")


def syncz(istiod: str, connections: Iterable[Connection]) -> dict[str, Any]:
    """The whole page: who answers, and one ClientConfig per proxy that has said who it is."""
    told = [client_config(one) for one in connections if one.node is not None and one.state is not None]
    return {
        "controlPlane": {"component": "istiod", "id": istiod, "version": tulle.__version__},
        "typeUrl": CLIENT_CONFIG,
        "resources": sorted(told, key=lambda one: str(one["node"]["id"])),
    }


def client_config(connection: Connection) -> dict[str, Any]:
    """One proxy. `identity` is what it proved, everything else of the node is what it says of itself."""
    node, state = connection.node, connection.state
    assert node is not None
    assert state is not None
    return {
        "@type": CLIENT_CONFIG,
        "node": {"id": node.id, "metadata": told_metadata(node.metadata)},
        "identity": node.peer.identity if node.peer else "",
        "address": connection.address,
        "genericXdsConfigs": [_type(one) for one in state.states],
    }


def told_metadata(said: Mapping[str, Any]) -> dict[str, str]:
    """What of a proxy's own metadata tools read."""
    return {key: str(said[key]) for key in ("CLUSTER_ID", "ISTIO_VERSION", "NODE_NAME") if said.get(key)}


def _type(state: TypeState) -> dict[str, Any]:
    told = {"typeUrl": state.type_url, "configStatus": status(state), "resources": len(state.sent)}
    return told if state.rejection is None else {**told, "errorState": {"details": state.rejection.message}}


def status(state: TypeState) -> str:
    """How far a proxy is with a type."""
    if state.rejection is not None:
        return ERROR
    if not state.answered:
        return NOT_SENT
    return SYNCED if state.idle() else STALE
