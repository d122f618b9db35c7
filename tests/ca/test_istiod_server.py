"""The whole way over real TLS: prove who one is, get a certificate, get configuration, and see refusals refused."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from ca_support import Clock, make_csr, uri
from cryptography import x509
from envoy.config.core.v3 import base_pb2

from tulle.envoy import ca_client
from tulle.envoy.cert_request import Request, accept
from tulle.envoy.certificates import CaClient, CaError, CertificateManager
from tulle.istiod.ca.authority import Authority
from tulle.istiod.ca.callers import Authenticator, Caller, NotAuthenticated
from tulle.istiod.ca.impersonation import PodFacts
from tulle.istiod.ca.limiter import RateLimiter
from tulle.istiod.ca.service import CertificateService
from tulle.istiod.server import SERVICE_ACCOUNT, IstiodServer, RotatingCertificate, serving_names
from tulle.security.identity import Identity
from tulle.xds import channels, types
from tulle.xds.client import LOST, METHOD, AdsClient, words
from tulle.xds.resources import ResourceMap
from tulle.xds.server import AccessDenied, ClientNode

ZTUNNEL = Identity("cluster.local", "istio-system", "ztunnel")
CART = Identity("cluster.local", "shop", "cart")
TOKENS = {
    "node-1": Caller(ZTUNNEL, "ztunnel-1", "u1", "n1"),
    "cart": Caller(CART, "cart-1", "u2", "n1"),
}


class Pods:
    def find(self, namespace: str, name: str) -> PodFacts | None:
        return PodFacts("u1", "ztunnel", "n1") if (namespace, name) == ("istio-system", "ztunnel-1") else None

    def runs(self, node: str, namespace: str, service_account: str) -> bool:
        return (node, namespace, service_account) == ("n1", "shop", "cart")


async def judge(token: str) -> Caller:
    if token not in TOKENS:
        raise NotAuthenticated("unknown token")
    return TOKENS[token]


class Istiod:
    """A running server on loopback."""

    def __init__(self, authority: Authority, clock: Clock, path: Path) -> None:
        self.results: list[str] = []
        self.clock = clock
        self.root = path / "root.pem"
        self.root.write_text(authority.root_pem)
        self.certificate = RotatingCertificate(authority, serving_names(), clock=clock)
        authenticator = Authenticator(judge, "cluster.local")
        limiter = RateLimiter(rate=0.0, burst=20)
        service = CertificateService(authority, authenticator, Pods(), limiter=limiter, on_result=self.results.append)
        self.addresses = ResourceMap(types.ADDRESS)
        self.server = IstiodServer(self.certificate, authenticator, service, self.source)

    def source(self, node: ClientNode, type_url: str) -> ResourceMap | None:
        assert node.peer is not None
        if node.peer.attributes[SERVICE_ACCOUNT] != "ztunnel":
            raise AccessDenied(f"{node.peer.identity} is no node proxy")
        return self.addresses

    async def start(self) -> None:
        self.listening = await self.server.start("127.0.0.1:0", "127.0.0.1:0")

    def ca(self, token: str) -> CaClient:
        return CaClient(f"localhost:{self.listening.port}", self.root, token=token)

    def ads(self, token: str) -> AdsClient:
        connect = channels.tls(f"localhost:{self.listening.port}", self.root)
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        return AdsClient(connect, base_pb2.Node(id="x"), {types.ADDRESS: _take}, metadata=lambda: metadata)


def _take(updated: object, removed: object) -> None:
    """Any configuration will do."""


@pytest.fixture
async def istiod(authority: Authority, clock: Clock, tmp_path: Path) -> AsyncIterator[Istiod]:
    made = Istiod(authority, clock, tmp_path)
    await made.start()
    yield made
    await made.server.stop(0)


async def test_a_node_proxy_gets_the_certificate_of_a_workload_on_its_node(istiod: Istiod) -> None:
    request = Request.make(CART.spiffe)
    ca = istiod.ca("node-1")
    svid = accept(request, await ca.sign(CART.spiffe, request.csr, True), istiod.clock.seconds())
    assert svid.identity == CART.spiffe
    assert len(svid.chain_pem) == 2
    await ca.close()
    assert istiod.results == ["success"]


@pytest.mark.parametrize(
    ("token", "wanted", "impersonate"),
    [
        ("node-1", "spiffe://cluster.local/ns/shop/sa/other", True),
        ("node-1", "spiffe://cluster.local/ns/shop/sa/cart/", True),
        ("node-1", "nonsense", True),
        ("cart", ZTUNNEL.spiffe, True),
        ("forged", CART.spiffe, False),
        ("", CART.spiffe, False),
    ],
)
async def test_refusals_say_nothing(istiod: Istiod, token: str, wanted: str, impersonate: bool) -> None:
    ca = istiod.ca(token)
    with pytest.raises(CaError) as caught:
        await ca.sign(wanted, make_csr(), impersonate)
    await ca.close()
    assert not caught.value.unreachable
    assert str(caught.value).endswith(f"answers UNAUTHENTICATED for {wanted}: request authenticate failure")
    assert istiod.results == ["unauthenticated"]


async def test_a_request_for_another_name_is_explained(istiod: Istiod) -> None:
    ca = istiod.ca("cart")
    with pytest.raises(CaError, match=r"INVALID_ARGUMENT.*may have only"):
        await ca.sign(CART.spiffe, make_csr(uri(ZTUNNEL.spiffe)), False)
    await ca.close()


async def test_a_caller_that_asks_without_end_is_stopped_alone(istiod: Istiod) -> None:
    cart, node = istiod.ca("cart"), istiod.ca("node-1")
    for _ in range(20):
        await cart.sign(CART.spiffe, make_csr(), False)
    with pytest.raises(CaError, match="RESOURCE_EXHAUSTED"):
        await cart.sign(CART.spiffe, make_csr(), False)
    await node.sign(CART.spiffe, make_csr(), True)
    await cart.close()
    await node.close()


async def test_another_root_is_not_trusted(istiod: Istiod, tmp_path: Path) -> None:
    from tulle.istiod.ca import x509 as shapes

    other = tmp_path / "other.pem"
    other.write_text(shapes.pem([shapes.self_signed_root("x", istiod.clock(), timedelta(days=1)).certificate]))
    ca = CaClient(f"localhost:{istiod.listening.port}", other, token="cart")
    with pytest.raises(CaError) as caught:
        await ca.sign(CART.spiffe, make_csr(), False)
    assert caught.value.unreachable
    await ca.close()


async def test_every_call_to_an_authority_that_is_silent_is_told_so(
    istiod: Istiod, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one that gives up closes the connection that the others wait on."""
    monkeypatch.setattr(ca_client, "_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ca = CaClient(f"localhost:{silent.getsockname()[1]}", istiod.root, token="cart")
        first = asyncio.create_task(ca.sign(CART.spiffe, make_csr(), False))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(ca.sign(CART.spiffe, make_csr(), False))
        await asyncio.wait((first, second))
    for call in (first, second):
        assert not call.cancelled(), "whoever waits for it would end in silence"
        error = call.exception()
        assert isinstance(error, CaError)
        assert error.unreachable


async def test_configuration_for_a_token(istiod: Istiod) -> None:
    ads = istiod.ads("node-1")
    task = asyncio.create_task(ads.run())
    async with asyncio.timeout(60):
        await ads.synced()
    task.cancel()
    await asyncio.wait((task,))


async def test_no_configuration_for_others(istiod: Istiod) -> None:
    async with channels.tls(f"localhost:{istiod.listening.port}", istiod.root)() as channel:
        ended = await istiod.ads("cart").stream(channel)
    assert isinstance(ended, grpc.aio.AioRpcError)
    assert ended.code() is grpc.StatusCode.PERMISSION_DENIED


@pytest.mark.parametrize("token", ["forged", ""])
async def test_who_is_nobody_is_sent_away_before_anything_is_read(istiod: Istiod, token: str) -> None:
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    async with channels.tls(f"localhost:{istiod.listening.port}", istiod.root)() as channel:
        call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(METHOD)(metadata=metadata)  # type: ignore[call-arg]
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await call.read()
    assert ended.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_client_that_is_sent_away_says_so_or_that_it_cannot_know(istiod: Istiod) -> None:
    """It is sent away while it asks, and then gRPC may lose the status."""
    async with channels.tls(f"localhost:{istiod.listening.port}", istiod.root)() as channel:
        for _ in range(20):
            assert words(await istiod.ads("forged").stream(channel)) in (
                "UNAUTHENTICATED: authentication failure",
                LOST,
            )


async def test_a_certificate_of_this_mesh_opens_the_mutual_port(istiod: Istiod) -> None:
    manager = CertificateManager(Named(istiod), impersonate=False, clock=istiod.clock.seconds)
    manager.want(ZTUNNEL.spiffe)
    working = asyncio.create_task(manager.run())
    async with asyncio.timeout(60):
        await manager.ready(ZTUNNEL.spiffe)
    envelope = manager.secrets.get(ZTUNNEL.spiffe)
    assert envelope is not None
    from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

    pair = secret_pb2.Secret.FromString(envelope.body()).tls_certificate
    client_cert = (pair.certificate_chain.inline_bytes, pair.private_key.inline_bytes)
    connect = channels.tls(f"localhost:{istiod.listening.mutual}", istiod.root, client_cert=lambda: client_cert)
    ads = AdsClient(connect, base_pb2.Node(id="x"), {types.ADDRESS: _take})
    task = asyncio.create_task(ads.run())
    async with asyncio.timeout(60):
        await ads.synced()
    for running in (task, working):
        running.cancel()
        await asyncio.wait((running,))


class Named:
    """The node proxy's own account asks for itself."""

    def __init__(self, istiod: Istiod) -> None:
        self._ca = istiod.ca("node-1")

    async def sign(self, identity: str, csr_pem: bytes, impersonate: bool) -> tuple[str, ...]:
        chain = await self._ca.sign(identity, csr_pem, impersonate)
        await self._ca.close()
        return chain


async def test_the_mutual_port_wants_a_certificate(istiod: Istiod) -> None:
    async with channels.tls(f"localhost:{istiod.listening.mutual}", istiod.root)() as channel:
        ended = await istiod.ads("node-1").stream(channel)
    assert isinstance(ended, grpc.aio.AioRpcError)
    assert ended.code() is grpc.StatusCode.UNAVAILABLE


async def test_the_serving_certificate_is_replaced_while_serving(istiod: Istiod) -> None:
    first = await shown(istiod)
    istiod.clock.advance(13 * 3600)
    istiod.certificate.renew()
    second = await shown(istiod)
    assert first.serial_number != second.serial_number
    assert second.not_valid_after_utc > first.not_valid_after_utc


async def shown(istiod: Istiod) -> x509.Certificate:
    import ssl

    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", istiod.listening.port, ssl=context)
    der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return x509.load_der_x509_certificate(der)
