"""Every namespace has the root, and revocation lists if there are any, whatever happens to them."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from tulle.istiod.ca.config_map_publisher import REVOCATIONS, ROOT, ConfigMapPublisher
from tulle.kube.errors import AlreadyExists, Forbidden
from tulle.kube.informer import Change
from tulle.kube.objects import ConfigMap, Namespace, ObjectMeta

TEXT = "-----BEGIN CERTIFICATE-----\nroot\n"
NAME = ROOT[0]


class Copy:
    """A local copy of a kind, changed by the test or by the API below."""

    def __init__(self) -> None:
        self.store: dict[tuple[str, str], Any] = {}
        self.handlers: list[Callable[[Change[Any]], None]] = []

    def on_change(self, fn: Callable[[Change[Any]], None]) -> None:
        self.handlers.append(fn)

    async def synced(self) -> None:
        return

    def put(self, key: tuple[str, str], new: Any) -> None:
        old = self.store.pop(key, None)
        if new is not None:
            self.store[key] = new
        for fn in self.handlers:
            fn(Change(key, old, new))


class Cluster:
    """Namespaces and ConfigMaps, and the two requests that the publisher makes."""

    def __init__(self) -> None:
        self.namespaces, self.config_maps = Copy(), Copy()
        self.publisher: ConfigMapPublisher
        self.requests: list[str] = []
        self.forbidden = ""

    def add(self, name: str, deleted: str = "") -> None:
        self.namespaces.put(("", name), Namespace(metadata=ObjectMeta(name=name, deletion_timestamp=deleted)))

    async def create(self, res: Any, obj: dict[str, Any], namespace: str) -> None:
        self.requests.append(f"create {namespace}")
        if namespace == self.forbidden:
            raise Forbidden(403, "Forbidden", "no")
        if (namespace, obj["metadata"]["name"]) in self.config_maps.store:
            raise AlreadyExists(409, "AlreadyExists", "there")
        self.config_maps.put((namespace, obj["metadata"]["name"]), ConfigMap(data=obj["data"]))

    async def replace(self, res: Any, obj: dict[str, Any]) -> None:
        namespace = obj["metadata"]["namespace"]
        self.requests.append(f"replace {namespace}")
        self.config_maps.put((namespace, obj["metadata"]["name"]), ConfigMap(data=obj["data"]))

    def published(self) -> set[str]:
        return {key[0] for key, found in self.config_maps.store.items() if found.data == {"root-cert.pem": TEXT}}

    async def until(self, *namespaces: str) -> None:
        async with asyncio.timeout(60):
            while self.published() != set(namespaces):
                await asyncio.sleep(0.005)


@pytest.fixture
async def cluster() -> Any:
    made = Cluster()
    made.publisher = ConfigMapPublisher(made, made.namespaces, ROOT, TEXT, made.config_maps)  # type: ignore[arg-type]
    task = asyncio.create_task(made.publisher.run())
    yield made
    task.cancel()
    await asyncio.wait((task,))


async def test_namespaces_old_and_new(cluster: Cluster) -> None:
    cluster.add("a")
    await cluster.until("a")
    cluster.add("b")
    await cluster.until("a", "b")
    assert cluster.requests == ["create a", "create b"]


async def test_deleted_or_edited_it_comes_back(cluster: Cluster) -> None:
    cluster.add("a")
    await cluster.until("a")
    cluster.config_maps.put(("a", NAME), None)
    await cluster.until("a")
    cluster.config_maps.put(("a", NAME), ConfigMap(data={"root-cert.pem": "another", "more": "x"}))
    await cluster.until("a")
    assert cluster.requests == ["create a", "create a", "replace a"]


async def test_another_root_reaches_every_namespace(cluster: Cluster) -> None:
    cluster.add("a")
    cluster.add("b")
    await cluster.until("a", "b")
    cluster.publisher.republish("another")
    await cluster.until()
    cluster.publisher.republish(TEXT)
    await cluster.until("a", "b")


async def test_a_namespace_that_is_going_is_left_alone(cluster: Cluster) -> None:
    cluster.add("going", deleted="2030-01-01T00:00:00Z")
    cluster.add("a")
    await cluster.until("a")
    assert cluster.requests == ["create a"]


async def test_what_is_forbidden_in_one_does_not_hold_up_the_others(cluster: Cluster) -> None:
    cluster.forbidden = "closed"
    cluster.add("closed")
    cluster.add("a")
    await cluster.until("a")


async def test_without_a_text_nothing_is_made_and_what_there_was_is_emptied(cluster: Cluster) -> None:
    name, key = REVOCATIONS
    cluster.config_maps.put(("left", name), ConfigMap(data={key: "old"}))
    publisher = ConfigMapPublisher(cluster, cluster.namespaces, REVOCATIONS, None, cluster.config_maps)  # type: ignore[arg-type]
    task = asyncio.create_task(publisher.run())
    cluster.add("left")
    cluster.add("a")

    async def until(**wanted: str) -> None:
        async with asyncio.timeout(20):
            while {
                ns: found.data[key] for (ns, one), found in cluster.config_maps.store.items() if one == name
            } != wanted:
                await asyncio.sleep(0.005)

    await until(left="")
    publisher.republish("listed")
    await until(left="listed", a="listed")
    publisher.republish(None)
    await until(left="", a="")
    task.cancel()
    await asyncio.wait((task,))
