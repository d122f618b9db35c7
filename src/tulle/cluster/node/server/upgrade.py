"""The step from a request to a stream. It comes after every other check, so that a refusal says what is wrong with the pod."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web


async def upgraded(request: web.Request, protocols: Sequence[str]) -> web.WebSocketResponse:
    """The websocket that the request asks for. Raises web.HTTPBadRequest if it asks for none."""
    if request.headers.get("Upgrade", "").lower() != "websocket":
        raise web.HTTPBadRequest(
            text=f"Upgrade request required: a websocket is spoken here ({', '.join(protocols)}), not SPDY"
        )
    socket = web.WebSocketResponse(protocols=protocols, max_msg_size=0, compress=False)
    await socket.prepare(request)
    return socket
