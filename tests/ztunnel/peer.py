"""An HBONE peer in another network namespace: `python -m tests.ztunnel.peer '<json>'` prints what it saw as JSON.

client: {"mode": "client", "host", "port", "cert", "key", "ca", "requests": [{"authority", "headers", "method", "send"}]}
server: {"mode": "server", "host", "port", "cert", "key", "ca", "backend": [host, port]}; prints each CONNECT.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from typing import Any

from tests.support.hbone import Accepted, Client, Server, tls


async def client(what: dict[str, Any]) -> list[dict[str, Any]]:
    context = tls(what["cert"], what["key"], what["ca"], server=False)
    answers = []
    async with Client.connect(what["host"], what["port"], context) as connection:
        for request in what["requests"]:
            headers = tuple((name, value) for name, value in request.get("headers", ()))
            tunnel = await connection.tunnel(request["authority"], headers, request.get("method", "CONNECT"))
            answer: dict[str, Any] = {"status": tunnel.status, "peer": connection.peer}
            if tunnel.status == 200 and "send" in request:
                await tunnel.write(request["send"].encode())
                answer["data"] = (await asyncio.wait_for(tunnel.reader.read(65536), 60)).decode()
            answers.append(answer)
    return answers


async def server(what: dict[str, Any]) -> None:
    def decide(accepted: Accepted) -> int:
        told = {name: accepted.headers.get(name) for name in what.get("headers", ())}
        print(json.dumps({"authority": accepted.authority, "peer": accepted.peer, **told}), flush=True)
        return int(what.get("status", 200))

    context = tls(what["cert"], what["key"], what["ca"], server=True)
    host, port = what["backend"]
    async with Server(context, (host, port), decide).serving(what["host"], what["port"]):
        print("listening", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    what = json.loads(sys.argv[1])
    if what["mode"] == "server":
        asyncio.run(server(what))
        return
    try:
        print(json.dumps(asyncio.run(client(what))))
    except (OSError, ssl.SSLError) as error:
        print(json.dumps([{"error": type(error).__name__}]))


main()
