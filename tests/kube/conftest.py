"""A small API server for one resource whose connections, history and data a test can break on purpose."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

from tulle.kube import Client
from tulle.kube.config import Connection


async def until(condition: Callable[[], bool]) -> None:
    """Waits for ``condition``; fails after 20 s."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.002)


class FakeApi:
    """ConfigMaps with a log of changes. ``refuse`` holds the next answers; ``drop`` ends all watches."""

    def __init__(self) -> None:
        self.rev = 10
        self.oldest = 0
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.log: list[tuple[int, str, dict[str, Any]]] = []
        self.changed = asyncio.Event()
        self.generation = 0
        self.watches = 0
        self.lists = 0
        self.requests: list[web.Request] = []
        self.refuse: list[web.Response] = []
        self.runner: web.AppRunner | None = None
        self.port = 0

    def _record(self, kind: str, obj: dict[str, Any]) -> None:
        self.log.append((self.rev, kind, json.loads(json.dumps(obj))))
        self.changed.set()
        self.changed = asyncio.Event()

    def put(self, namespace: str, name: str, uid: str = "", **data: str) -> None:
        self.rev += 1
        old = self.objects.get((namespace, name))
        uid = uid or (old["metadata"]["uid"] if old else f"uid-{self.rev}")
        meta = {"namespace": namespace, "name": name, "uid": uid, "resourceVersion": str(self.rev)}
        obj = {"metadata": meta, "data": data}
        self.objects[namespace, name] = obj
        self._record("MODIFIED" if old else "ADDED", obj)

    def remove(self, namespace: str, name: str) -> None:
        self.rev += 1
        obj = self.objects.pop((namespace, name))
        obj["metadata"]["resourceVersion"] = str(self.rev)
        self._record("DELETED", obj)

    def drop(self) -> None:
        self.generation += 1
        self.changed.set()
        self.changed = asyncio.Event()

    def compact(self) -> None:
        self.oldest = self.rev
        self.log.clear()

    async def start(self) -> None:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self.handle)
        self.runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self.runner.addresses[0][1]

    async def stop(self) -> None:
        self.drop()
        if self.runner:
            await self.runner.cleanup()
            self.runner = None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if self.refuse:
            return self.refuse.pop(0)
        if request.query.get("watch") == "true":
            return await self.watch(request)
        if request.path == "/api/v1/configmaps":
            self.lists += 1
            return self.listing(request)
        parts = request.path.split("/")
        obj = self.objects.get((parts[4], parts[6]))
        if obj is None:
            body = {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "not found"}
            return web.json_response(body, status=404)
        return web.json_response(obj)

    def listing(self, request: web.Request) -> web.Response:
        items = sorted(self.objects.values(), key=lambda o: o["metadata"]["name"])
        start, limit = int(request.query.get("continue", "0")), int(request.query.get("limit", "0"))
        page = items[start : start + limit] if limit else items[start:]
        more = str(start + limit) if limit and start + limit < len(items) else ""
        return web.json_response({"metadata": {"resourceVersion": str(self.rev), "continue": more}, "items": page})

    async def watch(self, request: web.Request) -> web.StreamResponse:
        self.watches += 1
        since = int(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        if since < self.oldest:
            status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}
            await response.write(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
            return response
        generation = self.generation
        while generation == self.generation:
            waiter = self.changed
            for rev, kind, obj in [entry for entry in self.log if entry[0] > since]:
                line = json.dumps({"type": kind, "object": obj}).encode() + b"\n"
                await response.write(line[:7])
                await response.write(line[7:])
                since = rev
            await waiter.wait()
        return response


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    fake = FakeApi()
    await fake.start()
    yield fake
    await fake.stop()


@pytest.fixture
async def client(api: FakeApi) -> AsyncIterator[Client]:
    async with Client(Connection(server=f"http://127.0.0.1:{api.port}"), component="test") as made:
        yield made
