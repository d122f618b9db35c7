"""HTTP for people and probes: `/config_dump`, `/logging`, `/quitquitquit` on loopback, metrics, readiness (spec D14)."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from tulle.ztunnel.loglevels import HELP, LevelError, LogLevels

#: Paths that only POST does anything at.
_COMMANDS: Final = ("/logging", "/quitquitquit")


class Admin:
    """Three small servers.  `pending` names what readiness still waits for; `stop` brings the proxy to its end."""

    def __init__(
        self,
        *,
        dump: Callable[[], Any],
        metrics: Callable[[], str],
        envoy_get: Callable[[str], Awaitable[str]],
        pending: Callable[[], tuple[str, ...]],
        levels: LogLevels,
        stop: Callable[[], None],
        admin_port: int,
        stats_port: int,
        ready_port: int,
    ) -> None:
        self._dump = dump
        self._own_metrics = metrics
        self._envoy_get = envoy_get
        self._pending = pending
        self._levels = levels
        self._stop = stop
        self._sites = (
            (
                "127.0.0.1",
                admin_port,
                {
                    "/": self._index,
                    "/config_dump": self._config,
                    "/envoy/{path:.*}": self._envoy,
                    "/logging": self._logging,
                    "/quitquitquit": self._quit,
                },
            ),
            ("0.0.0.0", stats_port, {"/metrics": self._metrics, "/stats/prometheus": self._metrics}),  # noqa: S104
            ("0.0.0.0", ready_port, {"/healthz/ready": self._ready}),  # noqa: S104 (the kubelet probes it)
        )
        self._runners: list[web.AppRunner] = []

    async def start(self) -> None:
        for host, port, handlers in self._sites:
            app = web.Application()
            for path, handler in handlers.items():
                app.router.add_route("*" if path in _COMMANDS else "GET", path, handler)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            self._runners.append(runner)
            await web.TCPSite(runner, host, port).start()

    async def stop(self) -> None:
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()

    async def _index(self, _: web.Request) -> web.Response:
        return web.Response(
            text="/config_dump\n/logging\n/quitquitquit\n/envoy/config_dump\n/envoy/stats\n/envoy/clusters\n/envoy/listeners\n"
        )

    async def _config(self, _: web.Request) -> web.Response:
        return web.Response(text=json.dumps(self._dump(), indent=2), content_type="application/json")

    async def _logging(self, request: web.Request) -> web.Response:
        """Show the levels, or change them and show them then."""
        if request.method != "POST":
            return web.Response(status=405, text=f"Invalid HTTP method\n{HELP}")
        text, reset = request.query.get("level", ""), "reset" in request.query
        if text or reset:
            try:
                await self._levels.change(text, reset=reset)
            except LevelError as error:
                return web.Response(status=400, text=f"Invalid level provided: {error}\n{HELP}")
        return web.Response(text=f"current log level is {self._levels.now}\n")

    async def _quit(self, request: web.Request) -> web.Response:
        if request.method != "POST":
            return web.Response(status=405, text="POST ends the proxy as SIGTERM does\n")
        self._stop()
        return web.Response(text="shutdown now\n")

    async def _envoy(self, request: web.Request) -> web.Response:
        query = f"?{request.query_string}" if request.query_string else ""
        return await self._from_envoy(f"/{request.match_info['path']}{query}")

    async def _metrics(self, _: web.Request) -> web.Response:
        """The proxy's own, and Envoy's when it is there."""
        try:
            of_envoy = await self._envoy_get("/stats/prometheus")
        except (aiohttp.ClientError, OSError):
            of_envoy = ""
        body = (self._own_metrics() + of_envoy).encode()
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _from_envoy(self, path: str) -> web.Response:
        try:
            return web.Response(text=await self._envoy_get(path))
        except (aiohttp.ClientError, OSError) as error:
            return web.Response(status=503, text=f"Envoy does not answer: {error}\n")

    async def _ready(self, _: web.Request) -> web.Response:
        pending = self._pending()
        if pending:
            return web.Response(status=500, text=f"not ready, pending: {', '.join(pending)}\n")
        return web.Response(text="ready\n")
