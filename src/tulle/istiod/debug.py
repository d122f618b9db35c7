"""The pages under `/debug`, and the one for istioctl: `/debug/syncz`, what each proxy has acknowledged.

Its answer is the one that tools of Istio read: `envoy.service.status.v3.ClientConfig` documents, one per proxy, with a status for every
type that the proxy subscribes to. Every page is given on the loopback address only (`kubectl port-forward` ends there): who is connected,
from which namespace, and what it is told, is nobody else's business (CVE-2026-31838).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

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


Page: TypeAlias = Callable[[Mapping[str, str]], Any]
"""From the query to what is shown as JSON. Raises PageError."""


class PageError(Exception):
    """A question that has no answer: the HTTP status, and what to ask instead."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Debug:
    """Pages by path, and `/debug/list`, which names them."""

    def __init__(self, pages: Mapping[str, Page]) -> None:
        self._pages: Mapping[str, Page] = {**pages, "/debug/list": lambda _: sorted(pages)}

    def add_to(self, app: web.Application) -> None:
        for path in self._pages:
            app.router.add_get(path, self._page)

    async def _page(self, request: web.Request) -> web.Response:
        if not ipaddress.ip_address(request.remote or "0.0.0.0").is_loopback:  # noqa: S104 (an address that is not loopback)
            return web.Response(status=403, text="only from the loopback address: use kubectl port-forward\n")
        try:
            body = msgspec.json.encode(self._pages[request.path](request.query))
        except PageError as error:
            return web.Response(status=error.status, text=f"{error}\n")
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
