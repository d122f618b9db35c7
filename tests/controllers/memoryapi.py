"""An API in memory, for one controller alone: a test decides what the caches know, which requests fail, and when.

Objects are plain dictionaries; what a controller reads of them is decoded as from the real API. Nothing is admitted,
defaulted or collected.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from tulle.cluster.controllers.caches import Caches, Context
from tulle.cluster.controllers.manager import Controller
from tulle.kube import ApiError, EventRecorder, NotFound, Resource
from tulle.kube.client import WatchEvent
from tulle.kube.codec import ListResult, decode

Object = dict[str, Any]
Key = tuple[str, str]


class Silent(EventRecorder):
    """Events of a controller are not what these tests look at."""

    def __init__(self) -> None:
        pass

    def event(self, *_: Any) -> None:
        pass


class MemoryApi:
    """``put`` and ``remove`` are what others do. ``fail`` may raise for a request: (verb, plural, name)."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[Key, Object]] = {}
        self.requests: list[tuple[str, str, str]] = []
        self.fail: Callable[[str, str, str], None] = lambda *_: None
        self.discovery: Object = {"items": []}
        self._revision = 0
        self._watchers: list[tuple[str, asyncio.Queue[WatchEvent[Any]]]] = []
        self._types: dict[str, Resource[Any]] = {}

    def put(self, res: Resource[Any], obj: Any) -> Any:
        plain: Object = json.loads(msgspec.json.encode(obj))
        self._revision += 1
        meta = plain["metadata"]
        meta["resourceVersion"] = str(self._revision)
        meta.setdefault("uid", f"uid-{self._revision}")
        self.objects.setdefault(res.plural, {})[meta.get("namespace", ""), meta["name"]] = plain
        return self._tell("MODIFIED", res, plain)

    def remove(self, res: Resource[Any], name: str, namespace: str = "") -> None:
        self._tell("DELETED", res, self.objects[res.plural].pop((namespace, name)))

    def _tell(self, kind: Any, res: Resource[Any], plain: Object) -> Any:
        obj = decode(json.dumps(plain).encode(), res.type, res.plural)
        for plural, queue in self._watchers:
            if plural == res.plural:
                queue.put_nowait(WatchEvent(kind, obj, str(self._revision)))
        return obj

    def _found(self, verb: str, res: Resource[Any], name: str, namespace: str | None) -> Object:
        self.requests.append((verb, res.plural, name))
        self.fail(verb, res.plural, name)
        found = self.objects.get(res.plural, {}).get((namespace or "", name))
        if found is None:
            raise NotFound(404, "NotFound", f"{res.plural} {name} not found")
        return found

    async def list(self, res: Resource[Any], *_: Any, **__: Any) -> ListResult[Any]:
        found = self.objects.get(res.plural, {}).values()
        return ListResult(
            tuple(decode(json.dumps(o).encode(), res.type, res.plural) for o in found), str(self._revision)
        )

    async def watch(self, res: Resource[Any], *_: Any, **__: Any) -> AsyncGenerator[WatchEvent[Any], None]:
        queue: asyncio.Queue[WatchEvent[Any]] = asyncio.Queue()
        self._watchers.append((res.plural, queue))
        while True:
            yield await queue.get()

    async def get(self, res: Resource[Any], name: str, namespace: str | None = None) -> Any:
        return decode(json.dumps(self._found("get", res, name, namespace)).encode(), res.type, res.plural)

    async def patch(self, res: Resource[Any], name: str, body: Any, namespace: str | None = None, **_: Any) -> Any:
        old = self._found("patch", res, name, namespace)
        return self.put(res, merged(old, json.loads(msgspec.json.encode(body))))

    async def delete(self, res: Resource[Any], name: str, namespace: str | None = None, **_: Any) -> None:
        self._found("delete", res, name, namespace)
        self.remove(res, name, namespace or "")

    async def create(self, res: Resource[Any], body: Any, namespace: str | None = None, **_: Any) -> Any:
        meta = {**body["metadata"], **({"namespace": namespace} if namespace else {})}
        meta.setdefault("name", f"{meta.get('generateName')}{self._revision}")
        self.requests.append(("create", res.plural, meta["name"]))
        self.fail("create", res.plural, meta["name"])
        return self.put(res, {**body, "metadata": meta})

    async def post(self, res: Resource[Any], name: str, _: str, body: Any, namespace: str | None = None) -> Object:
        """A binding."""
        old = self._found("post", res, name, namespace)
        self.put(res, merged(old, {"spec": {"nodeName": body["target"]["name"]}}))
        return {}

    async def raw(self, _: str, path: str, **__: Any) -> bytes:
        return msgspec.json.encode(self.discovery if path == "/api" else {"items": []})


def merged(old: Any, patch: Any) -> Any:
    """A merge patch, with conditions by their type as a strategic one has them."""
    if isinstance(patch, dict):
        result = dict(old) if isinstance(old, dict) else {}
        result |= {key: merged(result.get(key), value) for key, value in patch.items()}
        return {key: value for key, value in result.items() if value is not None}
    if isinstance(patch, list) and patch and all(isinstance(one, dict) and "type" in one for one in patch):
        return list({one["type"]: one for one in [*(old or ()), *patch]}.values())
    return patch


@asynccontextmanager
async def running(api: MemoryApi, make: Callable[[Context], Controller]) -> AsyncIterator[Caches]:
    """A controller at work on what ``api`` holds."""
    caches = Caches(api)  # type: ignore[arg-type]
    controller = make(Context(api, caches, lambda _: Silent()))  # type: ignore[arg-type]
    tasks = [asyncio.create_task(caches.run()), asyncio.create_task(controller.run())]
    try:
        await caches.synced(*caches.informers)
        yield caches
    finally:
        for task in tasks:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results), results


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


def unavailable(*_: Any) -> None:
    raise ApiError(500, "InternalError", "try again")
