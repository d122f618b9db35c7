"""istiod's plain HTTP: readiness, metrics, version, and the pages for istioctl (`tulle.istiod.debug`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from aiohttp import web

import tulle
from tulle.istiod.debug import Debug
from tulle.istiod.metrics import CONTENT_TYPE, Metrics


class HttpServer:
    """Serves on any number of ports. `pending` names what is missing before istiod is ready."""

    def __init__(self, metrics: Metrics, pending: Callable[[], Iterable[str]], debug: Debug) -> None:
        self._metrics = metrics
        self._pending = pending
        app = web.Application()
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics_page)
        app.router.add_get("/version", self._version)
        debug.add_to(app)
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
        """As istioctl reads it: nothing but the version."""
        return web.Response(text=tulle.__version__)
