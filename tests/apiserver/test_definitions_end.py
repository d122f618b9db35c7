"""The end of a CustomResourceDefinition: nothing of it stays behind, whatever is on its way meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tulle.cluster.apiserver.rest.call import Change, Options

from .conftest import Api
from .test_schemas import definition, until

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
ONE = f"{DEFINITIONS}/xs.e.com"
OBJECTS = "/apis/e.com/v1/xs"


class Gate:
    """Holds creations back where a slow webhook would, after everything has been checked."""

    def __init__(self, review: Callable[[Change, Options], Awaitable[None]]) -> None:
        self._review = review
        self.reached, self.opened = asyncio.Event(), asyncio.Event()

    async def review(self, change: Change, options: Options) -> None:
        await self._review(change, options)
        if change.operation == "CREATE":
            self.reached.set()
            await self.opened.wait()


@pytest.fixture
def gate(api: Api, monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate(api.server.webhooks.review)
    monkeypatch.setattr(api.server.webhooks, "review", gate.review)
    gate.opened.set()
    return gate


async def held(api: Api, gate: Gate, path: str, body: Any) -> asyncio.Task[tuple[int, Any]]:
    """A creation that has been checked and is not written yet."""
    gate.opened.clear()
    gate.reached.clear()
    task = asyncio.create_task(api.call("POST", path, body))
    await gate.reached.wait()
    return task


async def test_an_object_made_while_its_definition_goes_does_not_come_back_with_it(api: Api, gate: Gate) -> None:
    await api.ok("POST", DEFINITIONS, definition())
    await api.ok("POST", OBJECTS, {"metadata": {"name": "first"}})
    late = await held(api, gate, OBJECTS, {"metadata": {"name": "late"}})
    await api.ok("DELETE", ONE)
    await until(api, ONE, 404)
    gate.opened.set()
    assert (await late)[0] == 404
    await api.ok("POST", DEFINITIONS, definition())
    assert (await api.ok("GET", OBJECTS))["items"] == []


async def test_nothing_is_made_of_a_definition_that_is_being_deleted(api: Api, gate: Gate) -> None:
    await api.ok("POST", DEFINITIONS, definition())
    await api.ok("POST", OBJECTS, {"metadata": {"name": "first", "finalizers": ["e.com/hold"]}})
    late = await held(api, gate, OBJECTS, {"metadata": {"name": "late"}})
    await api.ok("DELETE", ONE)
    gate.opened.set()
    message = "create not allowed while custom resource definition is terminating"
    for status, refused in (await late, await api.call("POST", OBJECTS, {"metadata": {"name": "new"}})):
        assert (status, refused["reason"], refused["message"]) == (405, "MethodNotAllowed", message)
    assert [item["metadata"]["name"] for item in (await api.ok("GET", OBJECTS))["items"]] == ["first"]


async def test_objects_of_versions_that_are_not_served_go_with_their_definition(api: Api) -> None:
    await api.ok("POST", DEFINITIONS, definition())
    await api.ok("POST", OBJECTS, {"metadata": {"name": "a"}})
    (version,) = definition()["spec"]["versions"]
    patch = {"spec": {"versions": [{**version, "served": False}]}}
    await api.ok("PATCH", ONE, patch, headers={"Content-Type": "application/merge-patch+json"})
    await api.ok("DELETE", ONE)
    await until(api, ONE, 404)
    await api.ok("POST", DEFINITIONS, definition())
    assert (await api.ok("GET", OBJECTS))["items"] == []


async def test_a_definition_that_is_deleted_at_once_takes_its_objects_along(api: Api) -> None:
    await api.server.custom.stop()  # nobody has come round to it yet
    await api.ok("POST", DEFINITIONS, definition())
    await api.ok("POST", OBJECTS, {"metadata": {"name": "a"}})
    await api.ok("DELETE", ONE)
    await api.server.custom.start()
    await until(api, ONE, 404)
    await api.ok("POST", DEFINITIONS, definition())
    assert (await api.ok("GET", OBJECTS))["items"] == []


async def test_an_object_made_while_its_namespace_goes_does_not_outlive_it(api: Api, gate: Gate) -> None:
    path = f"{await api.namespace('n')}/configmaps"
    late = await held(api, gate, path, {"metadata": {"name": "late"}})
    namespace = await api.ok("DELETE", "/api/v1/namespaces/n")
    assert namespace["status"]["phase"] == "Terminating"
    await api.ok("PUT", "/api/v1/namespaces/n/finalize", {"metadata": {"name": "n"}, "spec": {"finalizers": []}})
    gate.opened.set()
    assert (await late)[0] == 404
    await api.ok("POST", "/api/v1/namespaces", {"metadata": {"name": "n"}})
    assert (await api.ok("GET", path))["items"] == []
