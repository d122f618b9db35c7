"""The little of a Kubernetes client that an informer uses, over objects that the test holds in its hand."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator
from typing import Any

import msgspec

from tulle.kube.client import WatchEvent
from tulle.kube.codec import ListResult
from tulle.kube.errors import NotFound


class FakeApi:
    def __init__(self) -> None:
        self.objects: dict[str, dict[tuple[str, str], Any]] = defaultdict(dict)
        self.version = 1
        self.changed = asyncio.Event()
        self.patches: list[tuple[str, str, Any]] = []
        self._watchers: list[tuple[str, asyncio.Queue[Any]]] = []

    def put(self, plural: str, obj: Any) -> None:
        key = (obj.metadata.namespace, obj.metadata.name)
        kind = "MODIFIED" if key in self.objects[plural] else "ADDED"
        self.objects[plural][key] = obj
        self._tell(plural, kind, obj)

    def remove(self, plural: str, namespace: str, name: str) -> None:
        self._tell(plural, "DELETED", self.objects[plural].pop((namespace, name)))

    def _tell(self, plural: str, kind: Any, obj: Any) -> None:
        self.version += 1
        self.changed.set()
        for watched, queue in self._watchers:
            if watched == plural:
                queue.put_nowait(WatchEvent(kind, obj, str(self.version)))

    async def get(self, res: Any, name: str, namespace: str | None = None) -> Any:
        try:
            return self.objects[res.plural][namespace or "", name]
        except KeyError:
            raise NotFound(404, "NotFound", f"{res.plural} {name!r} not found") from None

    async def patch(self, res: Any, name: str, body: Any, namespace: str | None = None, **how: Any) -> Any:
        """A merge patch of annotations, which is all that the agent ever writes."""
        assert how == {"kind": "merge", "subresource": "status"}
        assert set(body) == {"metadata"}
        old = await self.get(res, name, namespace)
        assert body["metadata"]["uid"] == old.metadata.uid
        self.patches.append((namespace or "", name, body["metadata"]["annotations"]))
        merged = {**old.metadata.annotations, **body["metadata"]["annotations"]}
        annotations = {key: value for key, value in merged.items() if value is not None}
        metadata = msgspec.structs.replace(
            old.metadata, annotations=annotations, resource_version=str(self.version + 1)
        )
        self.put(res.plural, msgspec.structs.replace(old, metadata=metadata))
        return self.objects[res.plural][namespace or "", name]

    async def list(self, res: Any, namespace: str | None = None, **_: Any) -> ListResult[Any]:
        return ListResult(tuple(self.objects[res.plural].values()), str(self.version))

    async def watch(self, res: Any, namespace: str | None = None, **_: Any) -> AsyncGenerator[Any, None]:
        queue: asyncio.Queue[Any] = asyncio.Queue()
        entry = (res.plural, queue)
        self._watchers.append(entry)
        try:
            while True:
                yield await queue.get()
        finally:
            self._watchers.remove(entry)
