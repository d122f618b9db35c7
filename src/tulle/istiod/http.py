"""istiod's plain HTTP: readiness, metrics, version, and what each proxy has acknowledged.

The last is for istioctl and answers on the loopback address only (`kubectl port-forward` ends there): who is connected and from which
namespace is nobody else's business.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from aiohttp import web

import tulle
from tulle.istiod.metrics import CONTENT_TYPE, Metrics
from tulle.xds.delta import TypeState
from tulle.xds.server import Connection


class HttpServer:
    """Serves on any number of ports. `pending` names what is missing before istiod is ready."""

    def __init__(
        self, metrics: Metrics, pending: Callable[[], Iterable[str]], connections: Callable[[], Iterable[Connection]]
    ) -> None:
        self._metrics = metrics
        self._pending = pending
        self._connections = connections
        app = web.Application()
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics_page)
        app.router.add_get("/version", self._version)
        app.router.add_get("/debug/syncz", self._syncz)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)

    async def start(self, address: str, *ports: int) -> tuple[int, ...]:
        """Listen on each port; returns them (0 picks one)."""
        await self._runner.setup()
        for port in ports:
            await web.TCPSite(self._runner, address, port).start()
        return tuple(bound[1] for bound in self._runner.addresses)

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _ready(self, _: web.Request) -> web.Response:
        missing = ", ".join(self._pending())
        return web.Response(status=503, text=f"waiting for {missing}\n") if missing else web.Response(text="ready\n")

    async def _metrics_page(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def _version(self, _: web.Request) -> web.Response:
        return web.Response(text=f"{tulle.__version__}\n")

    async def _syncz(self, request: web.Request) -> web.Response:
        if not ipaddress.ip_address(request.remote or "0.0.0.0").is_loopback:  # noqa: S104
            return web.Response(status=403, text="only from the loopback address: use kubectl port-forward\n")
        proxies = [_proxy(connection) for connection in self._connections() if connection.node and connection.state]
        return web.Response(body=msgspec.json.encode(proxies), content_type="application/json")


def _proxy(connection: Connection) -> dict[str, Any]:
    assert connection.node is not None
    assert connection.state is not None
    return {
        "proxy": connection.node.id,
        "identity": connection.node.peer.identity if connection.node.peer else "",
        "address": connection.address,
        "types": {state.type_url: _state(state) for state in connection.state.states},
    }


def _state(state: TypeState) -> dict[str, Any]:
    if state.rejection is not None:
        return {"status": "ERROR", "message": state.rejection.message, "resources": len(state.sent)}
    return {"status": "SYNCED" if state.answered and state.idle() else "STALE", "resources": len(state.sent)}
