"""A real API server for the tests that need one, and an istiod inside the test's own event loop."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from tests.support.api_server import api_server as serving
from tulle.istiod.app import Istiod
from tulle.istiod.settings import Settings
from tulle.kube.client import Client
from tulle.kube.errors import AlreadyExists
from tulle.kube.resources import NAMESPACES, SERVICE_ACCOUNTS

_numbers = itertools.count()


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The kubeconfig of an API server with the mesh's custom resources and its namespace."""

    async def prepare(client: Client) -> None:
        await client.create(NAMESPACES, {"metadata": {"name": "istio-system"}})

    with serving(tmp_path_factory.mktemp("tk-istiod"), prepare) as kubeconfig:
        yield kubeconfig


@pytest.fixture
async def client(api_server: str) -> AsyncIterator[Client]:
    async with Client.from_kubeconfig(api_server) as client:
        yield client
    # TLS connections end with a message of their own, which takes a turn of the event loop.
    await asyncio.sleep(0.05)


@pytest.fixture
async def namespace(client: Client) -> str:
    """A namespace of the test's own."""
    name = f"n{next(_numbers)}"
    await client.create(NAMESPACES, {"metadata": {"name": name}})
    await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "default", "namespace": name}})
    return name


RunIstiod = Callable[..., Any]


@pytest.fixture
def run_istiod(client: Client) -> RunIstiod:
    """Run an istiod for the length of an `async with`; its mesh configuration is in its own namespace."""

    @asynccontextmanager
    async def running(home: str = "istio-system", pod: str = "istiod-0") -> AsyncIterator[Istiod]:
        with suppress(AlreadyExists):
            await client.create(NAMESPACES, {"metadata": {"name": home}})
        settings = Settings(
            pod_name=pod,
            namespace=home,
            waypoint_image="tulle/tulle:test",
            listen="127.0.0.1",
            xds_port=0,
            plaintext_port=0,
            webhook_port=0,
            http_port=0,
            metrics_port=0,
        )
        istiod, stop = Istiod(client, settings), asyncio.Event()
        task = asyncio.ensure_future(istiod.run(stop))
        ready = asyncio.ensure_future(istiod.ready.wait())
        try:
            await asyncio.wait((task, ready), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            yield istiod
        finally:
            ready.cancel()
            stop.set()
            await task

    return running


async def eventually(check: Callable[[], Awaitable[Any]], why: str) -> Any:
    """Wait until `check` gives something true and return it; `why` says what was waited for."""
    async with asyncio.timeout(60):
        while not (found := await check()):
            await asyncio.sleep(0.02)
    return found
