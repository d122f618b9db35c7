"""A real Envoy is the judge: everything it needs comes over one delta ADS stream on a unix socket."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401 (known to the JSON parser)
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2  # noqa: F401
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2, tls_pb2  # noqa: F401
from google.protobuf.json_format import ParseDict

from tulle.envoy.binary import find_envoy
from tulle.envoy.bootstrap import NodeInfo, UnixSocket, ads_source, bootstrap
from tulle.envoy.process import EnvoyOptions, EnvoyProcess
from tulle.xds import types
from tulle.xds.delta import Rejection
from tulle.xds.resources import ResourceMap
from tulle.xds.server import AdsServer, ClientNode

_TYPE = "type.googleapis.com/"
_URLS = (types.CLUSTER, types.ENDPOINTS, types.LISTENER, types.ROUTES, types.SECRET)


async def eventually(check: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await check():
            await asyncio.sleep(0.02)


@dataclass
class World:
    """The server, the Envoy that is fed by it, and two applications behind it."""

    path: Path
    maps: dict[str, ResourceMap]
    rejections: list[Rejection] = field(default_factory=list)
    envoy: EnvoyProcess = field(init=False)

    async def serve(self) -> None:
        self.ads = AdsServer(lambda _, url: self.maps.get(url), on_rejection=self._rejected)
        self.server = grpc.aio.server()
        self.ads.add_to(self.server)
        self.server.add_insecure_port(f"unix:{self.path}/xds.sock")
        await self.server.start()

    def _rejected(self, _: ClientNode, rejection: Rejection) -> None:
        self.rejections.append(rejection)

    def cluster(self, name: str, app: str, timeout: str = "1s") -> None:
        self.maps[types.ENDPOINTS].set(name, endpoints(name, self.path / f"{app}.sock"))
        eds = {"eds_config": ads_source()}
        document = {"name": name, "type": "EDS", "connect_timeout": timeout, "eds_cluster_config": eds}
        self.maps[types.CLUSTER].set(name, ParseDict(document, cluster_pb2.Cluster()))

    def route(self, cluster: str) -> None:
        self.maps[types.ROUTES].set("routes", routes("routes", cluster))

    def listener(self, name: str = "in", **changes: Any) -> None:
        self.maps[types.LISTENER].set(name, listener(name, self.path / f"{name}.listen", **changes))

    async def get(self, name: str = "in") -> tuple[int, str]:
        connector = aiohttp.UnixConnector(str(self.path / f"{name}.listen"))
        async with aiohttp.ClientSession(connector=connector) as session, session.get("http://x/") as response:
            return response.status, await response.text()

    async def until(self, answer: str, name: str = "in") -> None:
        async def check() -> bool:
            try:
                return (await self.get(name))[1] == answer
            except (aiohttp.ClientError, OSError):
                return False  # the listener is not there yet

        await eventually(check)

    async def acknowledged(self) -> None:
        async def check() -> bool:
            streams = [c.state for c in self.ads.connections if c.state is not None]
            return bool(streams) and all(stream.synced() for stream in streams)

        await eventually(check)


def endpoints(name: str, path: Path) -> endpoint_pb2.ClusterLoadAssignment:
    address = {"address": {"pipe": {"path": str(path)}}}
    document = {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": address}]}]}
    return ParseDict(document, endpoint_pb2.ClusterLoadAssignment())


def routes(name: str, cluster: str) -> route_pb2.RouteConfiguration:
    host = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}]}
    return ParseDict({"name": name, "virtual_hosts": [host]}, route_pb2.RouteConfiguration())


def listener(name: str, path: Path, *, secret: str = "", chains: bool = True) -> listener_pb2.Listener:
    http = _TYPE + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = _TYPE + "envoy.extensions.filters.http.router.v3.Router"
    manager = {
        "@type": http,
        "stat_prefix": "in",
        "rds": {"config_source": ads_source(), "route_config_name": "routes"},
        "http_filters": [{"name": "router", "typed_config": {"@type": router}}],
    }
    chain: dict[str, Any] = {"filters": [{"name": "http", "typed_config": manager}]}
    if secret:
        tls = _TYPE + "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
        secrets = [{"name": secret, "sds_config": ads_source()}]
        context = {"@type": tls, "common_tls_context": {"tls_certificate_sds_secret_configs": secrets}}
        chain["transport_socket"] = {"name": "tls", "typed_config": context}
    document = {"name": name, "address": {"pipe": {"path": str(path)}}, "filter_chains": [chain] if chains else []}
    return ParseDict(document, listener_pb2.Listener())


@asynccontextmanager
async def application(path: Path, answer: str) -> AsyncIterator[None]:
    """An HTTP server that always says the same; ends when its connections have."""
    open_connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(answer)}\r\n\r\n{answer}".encode())
                await writer.drain()
        await closed(writer)

    def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_connections.add(asyncio.create_task(serve(reader, writer)))

    async with await asyncio.start_unix_server(connection, path):
        yield
        if open_connections:
            await asyncio.wait(open_connections)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


@pytest.fixture
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    path = tmp_path_factory.mktemp("x")
    made = World(path, {url: ResourceMap(url) for url in _URLS})
    await made.serve()
    admin = UnixSocket(f"{path}/admin.sock")
    document = bootstrap(NodeInfo("test", "test"), xds=UnixSocket(f"{path}/xds.sock"), admin=admin)
    envoy = EnvoyProcess(
        find_envoy(), document, run_dir=path / "run", admin=admin, options=EnvoyOptions(concurrency=1), name="test"
    )
    made.envoy = envoy
    async with application(path / "a.sock", "a"), application(path / "b.sock", "b"):
        await envoy.start()
        yield made
        await envoy.stop()
        await made.server.stop(0)


async def test_configuration_by_ads(world: World) -> None:
    world.cluster("one", "a")
    world.route("one")
    world.listener()
    await world.until("a")
    await world.acknowledged()
    assert world.rejections == []


async def test_empty_configuration_makes_envoy_live(world: World) -> None:
    async with asyncio.timeout(60):
        await world.envoy.wait_live()


async def test_a_route_moves_to_a_new_cluster_without_a_failed_request(world: World) -> None:
    world.cluster("one", "a")
    world.route("one")
    world.listener()
    await world.until("a")
    await world.acknowledged()
    answers: list[tuple[int, str]] = []
    stop = asyncio.Event()

    async def load() -> None:
        while not stop.is_set():
            answers.append(await world.get())

    loading = asyncio.create_task(load())
    for turn in range(10):
        old, new, app = (("one", "two", "b"), ("two", "one", "a"))[turn % 2]
        world.cluster(new, app)
        world.route(new)
        world.maps[types.CLUSTER].remove(old)
        world.maps[types.ENDPOINTS].remove(old)
        await world.until(app)
    stop.set()
    await loading
    await world.acknowledged()
    assert len(answers) > 10
    assert {status for status, _ in answers} == {200}
    assert world.rejections == []


async def test_a_changed_cluster_with_unchanged_endpoints_is_used_at_once(world: World) -> None:
    world.cluster("one", "a")
    world.route("one")
    world.listener()
    await world.until("a")
    world.cluster("one", "a", timeout="2s")
    await world.acknowledged()

    async def check() -> bool:
        return await active_timeout(world) == "2s"

    await eventually(check)
    assert (await world.get())[0] == 200


async def active_timeout(world: World) -> str:
    connector = aiohttp.UnixConnector(str(world.path / "admin.sock"))
    url = "http://x/config_dump?resource=dynamic_active_clusters"
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as response:
        dump = json.loads(await response.text())
    (cluster,) = (c["cluster"] for c in dump["configs"] if c["cluster"]["name"] == "one")
    return str(cluster["connect_timeout"])


async def test_a_refused_listener_is_reported_and_the_others_stay(world: World) -> None:
    world.cluster("one", "a")
    world.route("one")
    world.listener()
    await world.until("a")
    world.listener("bad", chains=False)
    world.listener("good")
    await world.until("a", "good")
    await world.acknowledged()
    (rejection,) = world.rejections
    assert rejection.type_url == types.LISTENER
    assert rejection.names == ("bad",)
    assert "bad" in rejection.message
    assert (await world.get())[1] == "a"
    world.listener("bad")
    await world.until("a", "bad")
    assert len(world.rejections) == 1


async def test_configuration_goes_on_after_the_server_was_away(world: World) -> None:
    world.cluster("one", "a")
    world.cluster("two", "b")
    world.route("one")
    world.listener()
    await world.until("a")
    await world.server.stop(0)
    assert (await world.get())[1] == "a"
    world.route("two")
    await world.serve()
    await world.until("b")
    assert world.rejections == []


async def test_a_secret_that_comes_late_is_waited_for(world: World) -> None:
    from ca_material import certificate

    world.cluster("one", "a")
    world.route("one")
    world.listener("tls", secret="spiffe://x/ns/a/sa/b")

    async def asked() -> bool:
        return world.maps[types.SECRET].wanted() == {"spiffe://x/ns/a/sa/b"}

    await eventually(asked)
    chain, key = certificate("spiffe://x/ns/a/sa/b")
    secret = secret_pb2.Secret(name="spiffe://x/ns/a/sa/b")
    secret.tls_certificate.certificate_chain.inline_bytes = chain
    secret.tls_certificate.private_key.inline_bytes = key
    world.maps[types.SECRET].set(secret.name, secret)

    async def shown() -> bool:
        return await presented(world.path / "tls.listen") == chain

    await eventually(shown)
    assert world.rejections == []


async def presented(path: Path) -> bytes:
    """The certificate that a TLS listener shows, as PEM; empty if there is none to show."""
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        _, writer = await asyncio.open_unix_connection(path, ssl=context, server_hostname="x")
    except OSError:
        return b""
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    await closed(writer)
    return ssl.DER_cert_to_PEM_cert(der).encode()
