"""A waypoint as it runs in its pod: agent and Envoy in a network of their own, under a real istiod server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.support import netns
from tulle.istiod.ca.authority import Authority
from tulle.istiod.ca.callers import Caller
from tulle.istiod.ca.service import CertificateService
from tulle.istiod.server import IstiodServer, RotatingCertificate
from tulle.istiod.waypoint_config import names
from tulle.xds.resources import ResourceMap

from .. import world


class _Token:
    """Stands for the API's token review: whoever calls is the waypoint."""

    async def caller(self, _context: object) -> Caller:
        return Caller(world.WAYPOINT.identity, "waypoint-1", "uid-1", "node1")


def empty_maps() -> dict[str, ResourceMap]:
    """A map for every type of resource that a waypoint is served."""
    types = [value for name, value in vars(names).items() if name.endswith("_TYPE")]
    return {type_url: ResourceMap(type_url) for type_url in types}


@contextlib.asynccontextmanager
async def istiod(host: str, authority: Authority, maps: dict[str, ResourceMap]) -> AsyncIterator[int]:
    """Serves `maps` and certificates; yields its port."""
    token: Any = _Token()
    pods: Any = None
    service = CertificateService(authority, token, pods)
    server = IstiodServer(RotatingCertificate(authority, [host]), token, service, lambda _, url: maps.get(url))
    listening = await server.start(f"{host}:0")
    try:
        yield listening.port
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def waypoint(place: netns.Joined, port: int, folder: Path) -> AsyncIterator[None]:
    """The waypoint's own process, ready."""
    (folder / "token").write_text("token")
    environment = {
        **os.environ,
        "POD_NAME": "waypoint-1",
        "POD_NAMESPACE": "hello",
        "SERVICE_ACCOUNT": "waypoint",
        "GATEWAY_NAME": "waypoint",
        "INSTANCE_IP": place.inside,
        "NODE_NAME": "node1",
        "XDS_ADDRESS": f"https://{place.host}:{port}",
        "CA_ADDRESS": f"https://{place.host}:{port}",
        "AUTH_TOKEN_PATH": str(folder / "token"),
        "ROOT_CERT_PATH": str(folder / "root.pem"),
        "RUN_DIR": str(folder / "run"),
        "TERMINATION_DRAIN_DURATION_SECONDS": "0",
    }
    command = place.command(sys.executable, "-m", "tulle.waypoint")
    with (folder / "waypoint.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=log, stderr=log)
    try:
        await _until_ready(place, process)
        yield
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 60)


async def _until_ready(place: netns.Joined, process: asyncio.subprocess.Process) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        while process.returncode is None:
            with contextlib.suppress(aiohttp.ClientConnectorError):
                async with session.get(f"http://{place.inside}:15021/healthz/ready") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.05)
    raise RuntimeError(f"the waypoint ended with {process.returncode} before it was ready")
