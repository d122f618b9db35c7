"""The pages under `/debug`, and the one about proxies: `/debug/syncz`, what each has been sent and has acknowledged.

Its answer has the shape that tools of Istio read (istio pilot/pkg/xds/debug.go, `SyncStatus`): one document per proxy, with the nonces of
the last response and of the last acknowledged one for every type. Every page is given on the loopback address only (`kubectl
port-forward` ends there): who is connected, from which namespace, and what it is told, is nobody else's business (CVE-2026-31838).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias

import msgspec
from aiohttp import web

from tulle.xds import types
from tulle.xds.delta import TypeState
from tulle.xds.server import ClientNode, Connection

SYNCED: Final = "SYNCED"
STALE: Final = "STALE"
NOT_SENT: Final = "NOT_SENT"
ERROR: Final = "ERROR"
_FIELDS: Final[Mapping[str, str]] = {
    types.CLUSTER: "cluster",
    types.LISTENER: "listener",
    types.ROUTES: "route",
    types.ENDPOINTS: "endpoint",
    types.EXTENSION: "extensionconfig",
}
"""What the older fields of the page are called that some types have beside `resources`."""


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


def syncz(connections: Iterable[Connection], namespace: str = "") -> list[dict[str, Any]]:
    """The whole page: every proxy that has said who it is, those of one namespace if it is named."""
    told = [
        _sync_status(one.node, one.state.states)
        for one in connections
        if one.node is not None and one.state is not None
    ]
    wanted = [one for one in told if not namespace or one["proxy"].rpartition(".")[2] == namespace]
    return sorted(wanted, key=lambda one: str(one["proxy"]))


def _sync_status(node: ClientNode, states: Iterable[TypeState]) -> dict[str, Any]:
    metadata = told_metadata(node.metadata)
    facts = {
        "cluster_id": metadata.get("CLUSTER_ID", ""),
        "proxy": proxy_id(node),
        "proxy_type": node.id.partition("~")[0] if "~" in node.id else "",
        "istio_version": metadata.get("ISTIO_VERSION", ""),
    }
    resources = {}
    for state in states:
        status = {"sent": state.nonce_sent, "acked": state.nonce_acked}
        if state.rejection is not None:
            status["lastError"] = state.rejection.message
        resources[state.type_url] = _said(status)
        field = _FIELDS.get(state.type_url)
        if field is not None:
            facts |= {f"{field}_sent": state.nonce_sent, f"{field}_acked": state.nonce_acked}
    return {**_said(facts), "resources": resources}


def _said(facts: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in facts.items() if value}


def proxy_id(node: ClientNode) -> str:
    """`pod.namespace`, as tools name a proxy; the third part of a node's id where it has the usual four."""
    parts = node.id.split("~")
    return parts[2] if len(parts) == 4 else node.id


def told_metadata(said: Mapping[str, Any]) -> dict[str, str]:
    """What of a proxy's own metadata tools read."""
    return {key: str(said[key]) for key in ("CLUSTER_ID", "ISTIO_VERSION", "NODE_NAME") if said.get(key)}


def status(state: TypeState) -> str:
    """How far a proxy is with a type."""
    if state.rejection is not None:
        return ERROR
    if not state.answered:
        return NOT_SENT
    return SYNCED if state.idle() else STALE
