"""The waypoint's readiness on port 15021: ready once it has its certificate, istiod's answer, and an Envoy that serves them."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

READY_PORT = 15021
READY_PATH = "/healthz/ready"


class Readiness:
    """Serves the readiness probe. `pending` names what is still missing; an empty answer is ready (spec D14)."""

    def __init__(self, pending: Callable[[], tuple[str, ...]], port: int = READY_PORT) -> None:
        self._pending = pending
        self._port = port
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get(READY_PATH, self._answer)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "0.0.0.0", self._port).start()  # noqa: S104 (the kubelet probes the pod's address)

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, _request: web.Request) -> web.Response:
        missing = self._pending()
        if missing:
            return web.Response(status=500, text=f"not ready, waiting for: {', '.join(missing)}\n")
        return web.Response(text="ready\n")
