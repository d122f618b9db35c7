"""An issuer's keys on their way through a whole istiod: asked for where the mesh configuration allows it, and told to the waypoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aiohttp import web

from tulle.kube.client import Client
from tulle.kube.resources import CONFIG_MAPS, GATEWAYS, REQUEST_AUTHENTICATIONS
from tulle.xds import types

from .conftest import RunIstiod, eventually
from .test_gateway_controller import gateway, make_ready
from .test_istiod import make_mesh, reading

KEY = {
    "kty": "EC",
    "crv": "P-256",
    "kid": "k",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}
"""The public key of RFC 7515, appendix A.3."""


async def test_keys_reach_the_waypoint_and_outlive_a_restart(
    client: Client, namespace: str, run_istiod: RunIstiod, tmp_path: Path
) -> None:
    asked: list[str] = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(text=json.dumps({"keys": [KEY]}))

    app = web.Application()
    app.router.add_get("/keys", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    # A spelling that gets past admission, which only reads the URL; who is asked is decided by the address.
    home, uri = f"{namespace}-home", f"http://0x7f.1:{runner.addresses[0][1]}/keys"
    refuses: dict[str, Any] = {"metadata": {"name": "istio", "namespace": home}, "data": {"mesh": "{}"}}
    extension = f"Service/{namespace}/s|tokens"
    try:
        async with run_istiod(home) as istiod:
            await client.create(CONFIG_MAPS, refuses)
            await client.create(GATEWAYS, gateway(namespace))
            await make_ready(client, namespace)
            await make_mesh(client, namespace)
            await client.create(REQUEST_AUTHENTICATIONS, _authentication(namespace, uri))

            async def held() -> bytes:
                entry = istiod.publisher.waypoints.maps((namespace, "waypoint"))[types.EXTENSION].get(extension)
                return entry.body() if entry is not None else b""

            async def without_keys() -> bool:
                return b"no keys" in await held()

            await eventually(without_keys, "the issuer is on loopback, so there are no keys")
            assert asked == []
            allowed = {"data": {"mesh": "tulle: {jwksAllowedAddresses: [127.0.0.1]}"}}
            await client.patch(CONFIG_MAPS, "istio", allowed, home)

            async def with_keys() -> bool:
                return KEY["x"].encode() in await held()

            await eventually(with_keys, "now it may be asked")
        async with (
            run_istiod(home) as again,
            reading(client, again, (namespace, "waypoint"), (types.EXTENSION,), tmp_path) as reader,
        ):
            assert KEY["x"].encode() in reader.held[types.EXTENSION][extension], "from the first answer on"
    finally:
        await runner.cleanup()


def _authentication(namespace: str, uri: str) -> dict[str, Any]:
    target = {"group": "", "kind": "Service", "name": "s"}
    rules = [{"issuer": "https://i.example.com", "jwksUri": uri, "timeout": "2s"}]
    return {"metadata": {"name": "ra", "namespace": namespace}, "spec": {"targetRefs": [target], "jwtRules": rules}}
