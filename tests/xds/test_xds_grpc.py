"""Client and server against each other over real gRPC on a unix socket."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

import grpc
import pytest
from envoy.config.core.v3 import base_pb2

from tulle.xds import channels, types
from tulle.xds.backoff import Backoff
from tulle.xds.client import AdsClient, Rejected, Subscription
from tulle.xds.proto import workload_pb2
from tulle.xds.resources import ResourceMap
from tulle.xds.server import SERVER_OPTIONS, AccessDenied, AdsServer, ClientNode


def address(name: str) -> workload_pb2.Address:
    return workload_pb2.Address(workload=workload_pb2.Workload(uid=name, name=name))


class Store:
    """A handler that keeps what it is given."""

    def __init__(self, refuse: str = "") -> None:
        self.held: dict[str, bytes] = {}
        self.updated: list[str] = []
        self.removed: list[str] = []
        self.changed = asyncio.Event()
        self.refuse = refuse

    def __call__(self, updated: Mapping[str, bytes], removed: Sequence[str]) -> None:
        self.changed.set()
        self.updated.extend(updated)
        bad = [name for name in updated if name == self.refuse]
        self.held.update({name: value for name, value in updated.items() if name not in bad})
        for name in removed:
            self.held.pop(name, None)
            self.removed.append(name)
        if bad:
            raise Rejected(f"{bad[0]} is not acceptable", bad)

    async def until(self, *names: str) -> None:
        async with asyncio.timeout(60):
            while set(self.held) != set(names):
                self.changed.clear()
                await self.changed.wait()


class Running:
    """A server on a socket, which can be stopped and started again."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.addresses = ResourceMap(types.ADDRESS)
        self.policies = ResourceMap(types.AUTHORIZATION)
        self.rejected: list[tuple[str, str]] = []
        self.ads = AdsServer(self.source, on_rejection=lambda node, why: self.rejected.append((node.id, why.message)))

    def source(self, node: ClientNode, type_url: str) -> ResourceMap | None:
        if node.id == "intruder":
            raise AccessDenied("intruder is nobody")
        return {types.ADDRESS: self.addresses, types.AUTHORIZATION: self.policies}.get(type_url)

    async def start(self) -> None:
        self.server = grpc.aio.server(options=SERVER_OPTIONS)
        self.ads.add_to(self.server)
        self.server.add_insecure_port(f"unix:{self.path}")
        await self.server.start()

    async def stop(self) -> None:
        await self.server.stop(0)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    made = Running(tmp_path / "s.sock")
    await made.start()
    yield made
    await made.stop()


def client(path: Path, node: str, **handlers: Store | Subscription) -> AdsClient:
    wanted = {{"address": types.ADDRESS, "policy": types.AUTHORIZATION}[key]: value for key, value in handlers.items()}
    return AdsClient(channels.unix(path), base_pb2.Node(id=node), wanted, backoff=Backoff(first=0.02, cap=0.1))


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


async def end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait((task,))


async def test_empty_first_answer_makes_a_client_synced(running: Running) -> None:
    ads = client(running.path, "n", address=Store(), policy=Store())
    task = asyncio.create_task(ads.run())
    async with asyncio.timeout(60):
        await ads.synced()
    await end(task)


async def test_changes_and_removals_arrive(running: Running) -> None:
    store = Store()
    running.addresses.set("a", address("a"))
    ads = client(running.path, "n", address=store)
    task = asyncio.create_task(ads.run())
    await store.until("a")
    running.addresses.set("b", address("b"))
    await store.until("a", "b")
    running.addresses.remove("a")
    await store.until("b")
    await end(task)


async def test_reconnection_resumes_by_versions(running: Running) -> None:
    store = Store()
    for name in "abc":
        running.addresses.set(name, address(name))
    ads = client(running.path, "n", address=store)
    task = asyncio.create_task(ads.run())
    await store.until("a", "b", "c")
    await running.stop()
    running.addresses.remove("a")
    running.addresses.set("d", address("d"))
    store.updated.clear()
    await running.start()
    await store.until("b", "c", "d")
    assert store.updated == ["d"]
    await end(task)


async def test_refusal_reaches_the_server_and_the_rest_is_used(running: Running) -> None:
    store = Store(refuse="bad")
    for name in ("bad", "good"):
        running.addresses.set(name, address(name))
    ads = client(running.path, "n", address=store)
    task = asyncio.create_task(ads.run())
    await store.until("good")
    running.addresses.set("later", address("later"))
    await store.until("good", "later")
    async with asyncio.timeout(60):
        await until(lambda: len(running.rejected) > 0)
    assert running.rejected == [("n", "bad is not acceptable")]
    assert dict(ads.versions(types.ADDRESS)).keys() == {"good", "later"}
    await end(task)


async def test_what_was_refused_for_now_is_sent_again_when_the_client_asks(running: Running) -> None:
    store = Store(refuse="a")
    running.addresses.set("a", address("a"))
    ads = client(running.path, "n", address=store)
    task = asyncio.create_task(ads.run())
    async with asyncio.timeout(60):
        await until(lambda: running.rejected == [("n", "a is not acceptable")])
        (connection,) = running.ads.connections
        assert connection.state is not None
        assert connection.state.rejections()
        store.refuse = ""
        ads.ask_again(types.ADDRESS, ["a", "gone"])
        await store.until("a")
        await until(
            lambda: connection.state is not None and connection.state.synced() and not connection.state.rejections()
        )
        (state,) = connection.state.states
        assert state.wildcard
        assert not state.named
        running.addresses.remove("a")
        await store.until()
    await end(task)


async def test_on_demand_by_alias(running: Running) -> None:
    running.addresses.set("uid/a", address("a"), aliases=["net/10.0.0.1"])
    running.addresses.set("uid/b", address("b"), aliases=["net/10.0.0.2"])
    store = Store()
    ads = client(running.path, "n", address=Subscription(store, wildcard=False))
    task = asyncio.create_task(ads.run())
    async with asyncio.timeout(60):
        await ads.synced()
    assert store.held == {}
    ads.subscribe(types.ADDRESS, ["net/10.0.0.1", "net/10.9.9.9"])
    await store.until("uid/a")
    assert store.removed == ["net/10.9.9.9"]
    ads.unsubscribe(types.ADDRESS, ["net/10.0.0.1"])
    ads.subscribe(types.ADDRESS, ["net/10.0.0.2"])
    await store.until("uid/a", "uid/b")
    assert dict(ads.versions(types.ADDRESS)).keys() == {"uid/b"}
    await end(task)


async def test_denied_client_is_told_nothing(running: Running) -> None:
    async with channels.unix(running.path)() as channel:
        ads = AdsClient(lambda: channel, base_pb2.Node(id="intruder"), {types.ADDRESS: Store()})
        ended = await ads.stream(channel)
    assert isinstance(ended, grpc.aio.AioRpcError)
    assert ended.code() is grpc.StatusCode.PERMISSION_DENIED
    assert ended.details() == "permission denied"


async def test_a_root_certificate_that_comes_later_is_waited_for(tmp_path: Path) -> None:
    attempts: list[int] = []
    connect = channels.tls("localhost:1", tmp_path / "root.pem")

    def counted() -> grpc.aio.Channel:
        attempts.append(1)
        return connect()

    ads = AdsClient(counted, base_pb2.Node(id="n"), {types.ADDRESS: Store()}, backoff=Backoff(first=0.01, cap=0.02))
    task = asyncio.create_task(ads.run())
    async with asyncio.timeout(60):
        await until(lambda: len(attempts) > 2)
    assert not task.done()
    await end(task)


class Silent(AdsServer):
    """A server that takes requests and never answers."""

    streams = 0

    async def _delta(self, _: object, context: grpc.aio.ServicerContext) -> None:
        self.streams += 1
        while await context.read() is not grpc.aio.EOF:
            pass


async def test_a_server_that_does_not_answer_is_left(running: Running, tmp_path: Path) -> None:
    silent = Running(tmp_path / "silent.sock")
    silent.ads = quiet = Silent(silent.source)
    await silent.start()
    ads = AdsClient(
        channels.unix(silent.path),
        base_pb2.Node(id="n"),
        {types.ADDRESS: Store()},
        backoff=Backoff(first=0.02, cap=0.1),
        patience=0.05,
    )
    task = asyncio.create_task(ads.run())
    async with asyncio.timeout(60):
        await until(lambda: quiet.streams > 2)
    await end(task)
    await silent.stop()


async def test_clients_that_come_and_go_at_any_moment_leave_nothing_behind(running: Running) -> None:
    for turn in range(6):
        clients = [client(running.path, f"n{i}", address=Store(), policy=Store()) for i in range(30)]
        tasks = [asyncio.create_task(ads.run()) for ads in clients]
        await asyncio.sleep(0.004 * turn)
        for task in tasks:
            task.cancel()
        async with asyncio.timeout(60):
            await asyncio.wait(tasks)
            await until(lambda: not running.ads.connections)
    assert running.addresses._listeners == {}


async def test_streams_leave_nothing_behind(running: Running) -> None:
    before = len(asyncio.all_tasks())
    clients = [client(running.path, f"n{i}", address=Store(), policy=Store()) for i in range(50)]
    tasks = [asyncio.create_task(ads.run()) for ads in clients]
    async with asyncio.timeout(60):
        await asyncio.gather(*(ads.synced() for ads in clients))
        assert len(running.ads.connections) == 50
        for task in tasks:
            await end(task)
        await until(lambda: not running.ads.connections)
    assert running.addresses._listeners == {}
    await running.stop()
    assert len(asyncio.all_tasks()) <= before
