"""The informer's promise: for each key an unbroken chain of changes that ends in what the server has."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from tulle.kube import Change, Client, Informer
from tulle.kube.codec import identity
from tulle.kube.config import Connection
from tulle.kube.objects import ConfigMap
from tulle.kube.resources import CONFIG_MAPS

from .conftest import FakeApi, until

Key = tuple[str, str]


class Follower:
    """Replays changes and checks that each follows from the one before."""

    def __init__(self, informer: Informer[ConfigMap]) -> None:
        self.seen: dict[Key, ConfigMap] = {}
        self.changes: list[Change[ConfigMap]] = []
        informer.on_change(self.follow)

    def follow(self, change: Change[ConfigMap]) -> None:
        assert self.seen.get(change.key) is change.old
        assert change.old is not None or change.new is not None
        if change.old is not None and change.new is not None:
            assert identity(change.old).uid == identity(change.new).uid
            assert identity(change.old).resource_version != identity(change.new).resource_version
        self.changes.append(change)
        if change.new is None:
            del self.seen[change.key]
        else:
            self.seen[change.key] = change.new


@asynccontextmanager
async def running(informer: Informer[ConfigMap]) -> AsyncIterator[None]:
    task = asyncio.create_task(informer.run())
    try:
        async with asyncio.timeout(60):
            await informer.synced()
        yield
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def settle(api: FakeApi, informer: Informer[ConfigMap]) -> None:
    """Until the store equals the server's objects."""

    def equal() -> bool:
        here = {key: identity(obj).resource_version for key, obj in informer.store.items()}
        return here == {key: obj["metadata"]["resourceVersion"] for key, obj in api.objects.items()}

    await until(equal)


async def test_first_list_comes_as_additions_then_changes_follow(api: FakeApi, client: Client) -> None:
    api.put("a", "one", x="1")
    informer = Informer(client, CONFIG_MAPS)
    follower = Follower(informer)
    async with running(informer):
        api.put("a", "two", x="1")
        api.put("a", "one", x="2")
        api.remove("a", "two")
        await settle(api, informer)
        await until(lambda: len(follower.changes) == 4)
    kinds = [(c.key[1], c.old is not None, c.new is not None) for c in follower.changes]
    assert kinds == [("one", False, True), ("two", False, True), ("one", True, True), ("two", True, False)]
    assert api.lists == 1


async def test_a_late_reader_gets_what_is_known(api: FakeApi, client: Client) -> None:
    api.put("a", "one")
    informer = Informer(client, CONFIG_MAPS)
    async with running(informer):
        follower = Follower(informer)
        assert list(follower.seen) == [("a", "one")]


async def test_ended_watch_is_taken_up_without_a_list(api: FakeApi, client: Client) -> None:
    informer = Informer(client, CONFIG_MAPS)
    Follower(informer)
    async with running(informer):
        for n in range(3):
            api.put("a", f"n{n}")
            api.drop()
            api.put("a", f"m{n}")
            await settle(api, informer)
    assert api.lists == 1


async def test_expired_history_tells_only_differences(api: FakeApi, client: Client) -> None:
    api.put("a", "kept")
    api.put("a", "changed")
    api.put("a", "gone")
    api.put("a", "remade", uid="first")
    informer = Informer(client, CONFIG_MAPS)
    follower = Follower(informer)
    async with running(informer):
        await settle(api, informer)
        follower.changes.clear()
        api.drop()
        api.put("a", "changed", x="2")
        api.remove("a", "gone")
        api.remove("a", "remade")
        api.put("a", "remade", uid="second")
        api.compact()
        await settle(api, informer)
    assert sorted((c.key[1], c.old is not None, c.new is not None) for c in follower.changes) == [
        ("changed", True, True),
        ("gone", True, False),
        ("remade", False, True),
        ("remade", True, False),
    ]


async def test_server_restart(api: FakeApi, client: Client) -> None:
    api.put("a", "one")
    informer = Informer(client, CONFIG_MAPS)
    Follower(informer)
    async with running(informer):
        await api.stop()
        api.put("a", "two")
        api.remove("a", "one")
        await api.start()
        await settle(api, informer)


async def test_refusals_do_not_end_it(api: FakeApi, client: Client) -> None:
    api.refuse = [web.json_response({"code": 404, "reason": "NotFound"}, status=404), web.Response(status=403)]
    api.put("a", "one")
    informer = Informer(client, CONFIG_MAPS)
    async with running(informer):
        assert list(informer.store) == [("a", "one")]


async def test_nothing_is_left_running(api: FakeApi, client: Client) -> None:
    before = asyncio.all_tasks()
    informer = Informer(client, CONFIG_MAPS)
    async with running(informer):
        pass
    await client.close()
    await asyncio.sleep(0)
    left = {t for t in asyncio.all_tasks() - before if "informer" in repr(t.get_coro())}
    assert not left


@pytest.mark.filterwarnings("default::ResourceWarning")
@settings(max_examples=12, deadline=None)
@given(
    steps=st.lists(st.sampled_from(["put", "put", "remove", "drop", "compact", "wait", "bounce"]), max_size=25),
    seed=st.integers(),
)
def test_any_trouble_ends_in_the_servers_state(steps: list[str], seed: int) -> None:
    asyncio.run(_trouble(steps, random.Random(seed)))


async def _trouble(steps: list[str], rng: random.Random) -> None:
    api = FakeApi()
    await api.start()
    async with Client(Connection(server=f"http://127.0.0.1:{api.port}")) as client:
        informer = Informer(client, CONFIG_MAPS)
        follower = Follower(informer)
        async with running(informer):
            for step in steps:
                await _step(step, api, rng)
            await settle(api, informer)
            assert dict(informer.store) == follower.seen
    await api.stop()


async def _step(step: str, api: FakeApi, rng: random.Random) -> None:
    match step:
        case "put":
            name = rng.choice("xyz")
            api.put("a", name, n=str(api.rev))
        case "remove":
            if api.objects:
                api.remove(*rng.choice(sorted(api.objects)))
        case "drop":
            api.drop()
        case "compact":
            api.drop()
            api.compact()
        case "wait":
            await asyncio.sleep(rng.random() * 0.01)
        case "bounce":
            await api.stop()
            await api.start()
