"""A policy that is handed over from node proxies to a waypoint changes hands at the acknowledgement, and at no timer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.istiod.test_mesh_index import lifted
from tests.istiod.test_publish import TRUST, Mesh


@contextlib.asynccontextmanager
async def publishing(mesh: Mesh) -> AsyncIterator[None]:
    task = asyncio.ensure_future(mesh.publisher.run())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_acknowledgement_finishes_the_handover() -> None:
    mesh = Mesh()
    proxy, node = mesh.waypoint_proxy(), mesh.node_proxy()
    proxy.acknowledge()
    node.acknowledge()
    async with publishing(mesh):
        mesh.apply(lifted())
        await turns()
        assert mesh.policies() == ["hello/v2"]
        mesh.publisher.answered()
        await turns()
        assert mesh.policies() == ["hello/v2"], "an answer, but not this one"
        proxy.acknowledge()
        mesh.publisher.answered()
        await turns()
        assert mesh.policies() == [TRUST]


async def test_a_refusal_does_not() -> None:
    mesh = Mesh()
    proxy = mesh.waypoint_proxy()
    proxy.acknowledge()
    async with publishing(mesh):
        mesh.apply(lifted())
        proxy.acknowledge(error="no")
        mesh.publisher.answered()
        await turns()
        assert mesh.policies() == ["hello/v2"]


async def test_answers_cost_nothing_while_nothing_waits() -> None:
    mesh = Mesh()
    async with publishing(mesh):
        mesh.publisher.answered()
        await turns()
        assert not mesh.publisher.advance()
