"""The apps behind a waypoint: one that says what it saw of a request, one that speaks no HTTP, one that speaks first."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from aiohttp import web


async def _echo(request: web.Request) -> web.Response:
    headers = [(name.lower(), value) for name, value in request.headers.items()]
    return web.json_response({"method": request.method, "path": request.raw_path, "headers": headers})


async def _upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1000):
            writer.write(data.upper())
    writer.close()


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"220 ready\r\n")
    await _upper(reader, writer)


@contextlib.asynccontextmanager
async def backends(host: str) -> AsyncIterator[None]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", _echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, host, 8080).start()
    opaque = await asyncio.start_server(_upper, host, 8081)
    greeting = await asyncio.start_server(_greet, host, 8082)
    try:
        yield
    finally:
        opaque.close()
        greeting.close()
        await runner.cleanup()
