"""The garbage collector while kinds come and go: it decides on nothing that it has not seen whole."""

import asyncio
from typing import Any

import pytest

from tulle.cluster.controllers import garbagecollector
from tulle.cluster.controllers.garbagecollector import GarbageCollector
from tulle.cluster.controllers.ownergraph import ORPHAN
from tulle.kube import ApiError, NotFound, Resource
from tulle.kube.codec import ListResult
from tulle.kube.resources import CONFIG_MAPS, CUSTOM_RESOURCE_DEFINITIONS, SECRETS, untyped

from .memoryapi import MemoryApi, running, until
from .test_controllers_alone import NOW, config_map

THINGS = untyped("e.com", "v1", "things", "Thing", True)


class Api(MemoryApi):
    """``undiscovered``: how often discovery fails first. ``listed``: what the list of a resource waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.undiscovered = 0
        self.unserved: set[str] = set()
        self.listed: dict[str, asyncio.Event] = {}

    def serve(self, *resources: Resource[Any]) -> None:
        self.discovery = {"items": [_group(resource) for resource in resources]}

    async def raw(self, _: str, path: str, **__: Any) -> bytes:
        if path == "/api" and self.undiscovered:
            self.undiscovered -= 1
            raise ApiError(503, "ServiceUnavailable", "starting")
        return await super().raw(_, path, **__)

    async def list(self, res: Resource[Any], *more: Any, **named: Any) -> ListResult[Any]:
        if f"{res.plural}/{res.version}" in self.unserved:
            raise NotFound(404, "NotFound", "the server could not find the requested resource")
        if res.plural in self.listed:
            await self.listed[res.plural].wait()
        return await super().list(res, *more, **named)


def _group(resource: Resource[Any]) -> Any:
    entry = {
        "resource": resource.plural,
        "responseKind": {"kind": resource.kind},
        "scope": "Namespaced",
        "verbs": ["list", "watch", "delete"],
    }
    return {"metadata": {"name": resource.group}, "versions": [{"version": resource.version, "resources": [entry]}]}


def owned_by(owner: str, api_version: str = "v1", kind: str = "ConfigMap", **meta: Any) -> Any:
    reference = {"apiVersion": api_version, "kind": kind, "name": owner, "uid": owner, "blockOwnerDeletion": True}
    return {"metadata": {"namespace": "a", "ownerReferences": [reference], **meta}}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbagecollector, "_REDISCOVER_SECONDS", 0.01)


@pytest.mark.parametrize("undiscovered", [0, 2])
async def test_nothing_is_decided_before_every_kind_has_been_seen(undiscovered: int) -> None:
    api = Api()
    api.serve(CONFIG_MAPS, SECRETS)
    api.undiscovered, api.listed["secrets"] = undiscovered, asyncio.Event()
    api.put(CONFIG_MAPS, config_map("going", deletionTimestamp=NOW, finalizers=[ORPHAN]))
    api.put(SECRETS, owned_by("going", name="kept"))
    async with running(api, GarbageCollector):
        await asyncio.sleep(0.2)
        assert api.objects["configmaps"]["a", "going"]["metadata"]["finalizers"] == [ORPHAN]
        api.listed["secrets"].set()
        await until(lambda: "finalizers" not in api.objects["configmaps"]["a", "going"]["metadata"])
        assert "ownerReferences" not in api.objects["secrets"]["a", "kept"]["metadata"]


async def test_a_kind_that_goes_before_it_was_listed_does_not_stop_the_collector() -> None:
    api = Api()
    api.serve(CONFIG_MAPS, THINGS)
    api.unserved.add("things/v1")
    api.put(CONFIG_MAPS, config_map("left", "nobody"))
    async with running(api, GarbageCollector):
        await asyncio.sleep(0.1)
        api.serve(CONFIG_MAPS)
        await until(lambda: not api.objects["configmaps"])


async def test_objects_of_a_definition_that_is_only_not_served_keep_what_is_theirs() -> None:
    api = Api()
    api.serve(CONFIG_MAPS, THINGS)
    api.put(CUSTOM_RESOURCE_DEFINITIONS, {"metadata": {"name": "things.e.com"}})
    api.put(THINGS, {"metadata": {"namespace": "a", "name": "owner", "uid": "owner"}})
    api.put(CONFIG_MAPS, owned_by("owner", "e.com/v1", "Thing", name="kept"))

    def unserved(verb: str, plural: str, name: str) -> None:
        if plural == "things":
            raise NotFound(404, "NotFound", "the server could not find the requested resource")

    async with running(api, GarbageCollector):
        await asyncio.sleep(0.1)
        api.fail = unserved
        api.serve(CONFIG_MAPS)
        await asyncio.sleep(0.2)
        assert ("a", "kept") in api.objects["configmaps"]
        del api.objects["customresourcedefinitions"]["", "things.e.com"]
        await until(lambda: not api.objects["configmaps"])


async def test_a_kind_is_followed_in_the_version_that_is_served_now() -> None:
    api = Api()
    api.serve(CONFIG_MAPS, THINGS)
    api.put(CUSTOM_RESOURCE_DEFINITIONS, {"metadata": {"name": "things.e.com"}})
    api.put(THINGS, {"metadata": {"namespace": "a", "name": "owner", "uid": "owner"}})
    api.put(CONFIG_MAPS, owned_by("owner", "e.com/v1", "Thing", name="kept"))
    async with running(api, GarbageCollector):
        await asyncio.sleep(0.1)
        api.unserved.add("things/v1")
        api._watchers.clear()
        api.serve(CONFIG_MAPS, untyped("e.com", "v2", "things", "Thing", True))
        await asyncio.sleep(0.1)
        assert ("a", "kept") in api.objects["configmaps"]
        api.remove(THINGS, "owner", "a")
        await until(lambda: not api.objects["configmaps"])
