"""Events: written without the caller waiting, repeated ones counted, kept while the server is away."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from tulle.kube import Client, EventRecorder, reference
from tulle.kube.config import Connection
from tulle.kube.objects import ObjectMeta, Pod
from tulle.kube.resources import PODS

POD = Pod(metadata=ObjectMeta(name="p", namespace="a", uid="u"))


class Events:
    """Takes events; ``answers`` are given instead of taking the next ones."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, dict[str, Any]]] = []
        self.answers: list[int] = []
        self.port = 0

    async def handle(self, request: web.Request) -> web.Response:
        if self.answers:
            return web.json_response({"code": self.answers[0], "message": "no"}, status=self.answers.pop(0))
        body = json.loads(await request.read())
        self.taken.append((request.method, body))
        return web.json_response({"metadata": {"name": "x"}})


@pytest.fixture
async def server() -> AsyncIterator[Events]:
    events = Events()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", events.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    events.port = runner.addresses[0][1]
    yield events
    await runner.cleanup()


@pytest.fixture
async def recorder(server: Events) -> AsyncIterator[EventRecorder]:
    async with Client(Connection(server=f"http://127.0.0.1:{server.port}")) as client:
        made = EventRecorder(client, "kubelet", host="n1")
        task = asyncio.create_task(made.run())
        yield made
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_repeated_events_are_counted(server: Events, recorder: EventRecorder) -> None:
    for _ in range(3):
        recorder.event(reference(PODS, POD), "Warning", "BackOff", "again")
    recorder.event(reference(PODS, POD), "Normal", "Pulled", "once")
    async with asyncio.timeout(60):
        await recorder.flush()
    assert [(method, body.get("count")) for method, body in server.taken] == [
        ("POST", 1),
        ("PATCH", 2),
        ("PATCH", 3),
        ("POST", 1),
    ]
    first = server.taken[0][1]
    assert first["involvedObject"] == {"apiVersion": "v1", "kind": "Pod", "namespace": "a", "name": "p", "uid": "u"}
    assert first["source"] == {"component": "kubelet", "host": "n1"}
    assert first["metadata"]["name"].startswith("p.")


async def test_an_event_that_expired_is_made_anew(server: Events, recorder: EventRecorder) -> None:
    recorder.event(reference(PODS, POD), "Normal", "Pulled", "once")
    async with asyncio.timeout(60):
        await recorder.flush()
    server.answers = [404]
    recorder.event(reference(PODS, POD), "Normal", "Pulled", "once")
    async with asyncio.timeout(60):
        await recorder.flush()
    assert [method for method, _ in server.taken] == ["POST", "POST"]


async def test_a_refused_event_does_not_hold_up_others(server: Events, recorder: EventRecorder) -> None:
    server.answers = [403, 422]
    for reason in ("A", "B", "C"):
        recorder.event(reference(PODS, POD), "Normal", reason, "m" * 2000)
    async with asyncio.timeout(60):
        await recorder.flush()
    assert [(body["reason"], len(body["message"])) for _, body in server.taken] == [("C", 1024)]
