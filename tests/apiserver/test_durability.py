"""kill -9 while clients write: everything that was acknowledged is there afterwards."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import aiohttp

from tulle.cluster.pki import Pki

from .conftest import ServerProcess, client_tls

_WRITERS = 8


async def _write_until_killed(server: ServerProcess, enough: int) -> dict[str, str]:
    acknowledged: dict[str, str] = {}
    url = f"https://127.0.0.1:{server.port}/api/v1/namespaces/default/configmaps"
    killed = asyncio.Event()

    async def writer(session: aiohttp.ClientSession, number: int) -> None:
        for count in range(10_000):
            name = f"w{number}-{count}"
            try:
                async with session.post(url, json={"metadata": {"name": name}, "data": {"n": str(count)}}) as answer:
                    body = await answer.json()
                    assert answer.status == 201, body
            except (aiohttp.ClientError, ConnectionError):
                return
            acknowledged[name] = body["metadata"]["resourceVersion"]
            if len(acknowledged) >= enough and not killed.is_set():
                killed.set()
                server.end(signal.SIGKILL)

    pki = Pki(server.state / "pki")
    connector = aiohttp.TCPConnector(ssl=client_tls(pki, "admin"))
    async with aiohttp.ClientSession(connector=connector) as session:
        await asyncio.gather(*(writer(session, number) for number in range(_WRITERS)))
    return acknowledged


async def _stored(server: ServerProcess) -> dict[str, str]:
    pki = Pki(server.state / "pki")
    connector = aiohttp.TCPConnector(ssl=client_tls(pki, "admin"))
    async with aiohttp.ClientSession(connector=connector) as session:
        url = f"https://127.0.0.1:{server.port}/api/v1/namespaces/default/configmaps"
        async with session.get(url) as answer:
            items = (await answer.json())["items"]
    return {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in items}


async def test_nothing_acknowledged_is_lost_by_a_kill(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path / "state")
    server.start()
    acknowledged = await _write_until_killed(server, 300)
    server.start()
    stored = await _stored(server)
    assert {name: stored.get(name) for name in acknowledged} == acknowledged
    revisions = [int(revision) for revision in stored.values()]
    assert len(set(revisions)) == len(revisions)
    assert server.end() == 0
