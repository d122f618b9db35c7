"""Whether the agent is ready, and a few numbers, over HTTP for the kubelet and a metrics collector."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping

from aiohttp import web
from prometheus_client import CollectorRegistry, Gauge, generate_latest

Check = Callable[[], bool]


class Health:
    """``checks``: name -> whether that part is in order. Ready means all of them are."""

    def __init__(self, checks: Mapping[str, Check], numbers: Mapping[str, tuple[str, Callable[[], float]]]) -> None:
        self._checks = checks
        self._registry = CollectorRegistry()
        for name, (text, value) in numbers.items():
            Gauge(name, text, registry=self._registry).set_function(value)

    @contextlib.asynccontextmanager
    async def serve(self, address: str, port: int) -> AsyncIterator[None]:
        """``/readyz``, ``/healthz`` and ``/metrics`` inside the context. Raises OSError when the port is taken."""
        app = web.Application()
        app.add_routes(
            [web.get("/readyz", self._ready), web.get("/healthz", _alive), web.get("/metrics", self._metrics)]
        )
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, address, port).start()
            yield
        finally:
            await runner.cleanup()

    async def _ready(self, _: web.Request) -> web.Response:
        missing = [name for name, check in self._checks.items() if not check()]
        if missing:
            return web.Response(status=503, text=f"not ready: {', '.join(missing)}\n")
        return web.Response(text="ok\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), content_type="text/plain")


async def _alive(_: web.Request) -> web.Response:
    return web.Response(text="ok\n")
