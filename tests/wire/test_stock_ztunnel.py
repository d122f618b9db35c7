"""A client that knows the public protocol only, as the ztunnel of a node (spec E4, E6)."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import suppress

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from tests.support.minting import self_signed
from tests.wire.cluster import Cluster
from tests.wire.conftest import IstiodProcess
from tests.wire.stock_ztunnel import ADDRESS, AUTHORIZATION, WORKLOAD, Csr, Proxy, Stream, channel, sign
from tulle.xds.proto import authorization_pb2, workload_pb2

CART = "Kubernetes//Pod/shop/cart-0"
FAR = "Kubernetes//Pod/shop/far-0"
SERVICE = "shop/cart.shop.svc.cluster.local"
CART_ID = "spiffe://cluster.local/ns/shop/sa/cart"
DENY = {
    "selector": {"matchLabels": {"app": "cart"}},
    "action": "DENY",
    "rules": [{"from": [{"source": {"namespaces": ["x"]}}]}],
}


@pytest.fixture
async def way(istiod: IstiodProcess, cluster: Cluster) -> AsyncIterator[grpc.aio.Channel]:
    async with channel(istiod.port, await cluster.root()) as made:
        yield made


@pytest.fixture
async def stream(way: grpc.aio.Channel, cluster: Cluster) -> AsyncIterator[Stream]:
    made = Stream.open(way, await cluster.ztunnel())
    yield made
    made.call.cancel()


async def subscribed(stream: Stream) -> None:
    """As a ztunnel starts: everything of both types, each answered at once."""
    await stream.ask(ADDRESS)
    await stream.ask(AUTHORIZATION)
    await stream.until(lambda: {one.type_url for one in stream.responses} == {ADDRESS, AUTHORIZATION})


async def test_its_workloads_and_services(stream: Stream) -> None:
    await subscribed(stream)
    assert {CART, FAR, SERVICE} <= stream.names(ADDRESS)
    cart = stream.message(ADDRESS, CART).workload
    assert (cart.name, cart.namespace, cart.service_account, cart.node) == ("cart-0", "shop", "cart", "n1")
    assert cart.tunnel_protocol == workload_pb2.HBONE
    assert cart.addresses == [bytes([10, 1, 0, 4])]
    (port,) = cart.services[SERVICE].ports
    assert (port.service_port, port.target_port) == (80, 8080)
    assert stream.message(ADDRESS, SERVICE).service.addresses[0].address == bytes([10, 96, 7, 7])
    assert stream.names(AUTHORIZATION) == set()
    assert all(one.control_plane.identifier for one in stream.responses)


async def test_every_resource_carries_its_aliases(stream: Stream) -> None:
    await subscribed(stream)
    aliases = {one.name: list(one.aliases) for response in stream.responses for one in response.resources}
    assert (aliases[CART], aliases[SERVICE]) == (["/10.1.0.4"], ["/10.96.7.7"])


async def test_changes_arrive(stream: Stream, cluster: Cluster) -> None:
    await subscribed(stream)
    new = "Kubernetes//Pod/shop/new"
    await cluster.pod("new", "10.1.0.77")
    await stream.until(lambda: new in stream.names(ADDRESS) and bool(stream.message(ADDRESS, new).workload.addresses))
    await cluster.remove_pod("new")
    await stream.until(lambda: new not in stream.names(ADDRESS))
    assert stream.removed[ADDRESS] == [new]


async def test_a_policy_arrives_before_the_workload_that_names_it_and_leaves_after(
    stream: Stream, cluster: Cluster
) -> None:
    await subscribed(stream)
    stream.responses.clear()
    await cluster.policy("deny", DENY)
    await stream.until(lambda: "shop/deny" in stream.message(ADDRESS, CART).workload.authorization_policies)
    first = [
        one.type_url
        for one in stream.responses
        if one.type_url == AUTHORIZATION or CART in {r.name for r in one.resources}
    ]
    assert first == [AUTHORIZATION, ADDRESS]
    policy = stream.message(AUTHORIZATION, "shop/deny")
    assert (policy.namespace, policy.name) == ("shop", "deny")
    assert (policy.action, policy.scope) == (authorization_pb2.DENY, authorization_pb2.WORKLOAD_SELECTOR)
    stream.responses.clear()
    await cluster.clean()
    await stream.until(lambda: "shop/deny" not in stream.names(AUTHORIZATION))
    last = [
        one.type_url for one in stream.responses if one.removed_resources or CART in {r.name for r in one.resources}
    ]
    assert last == [ADDRESS, AUTHORIZATION]


async def test_on_demand(stream: Stream) -> None:
    await stream.ask(ADDRESS, subscribe=["*"], unsubscribe=["*"])
    await stream.ask(AUTHORIZATION)
    await stream.until(lambda: {one.type_url for one in stream.responses} == {ADDRESS, AUTHORIZATION})
    assert stream.names(ADDRESS) == set()

    await stream.ask(ADDRESS, subscribe=["/10.1.0.4"])
    await stream.until(lambda: stream.names(ADDRESS) == {CART})
    await stream.ask(ADDRESS, subscribe=[SERVICE, "/10.250.0.1"])
    await stream.until(lambda: SERVICE in stream.names(ADDRESS) and stream.removed[ADDRESS] == ["/10.250.0.1"])
    assert stream.names(ADDRESS) == {CART, SERVICE}


async def test_on_demand_hears_of_nothing_else(stream: Stream, cluster: Cluster) -> None:
    await stream.ask(ADDRESS, subscribe=["*"], unsubscribe=["*"])
    await stream.receive()
    await stream.ask(ADDRESS, subscribe=["/10.1.0.78"])
    await stream.until(lambda: stream.removed.get(ADDRESS) == ["/10.1.0.78"])
    await cluster.pod("other", "10.1.0.79")
    await cluster.pod("wanted", "10.1.0.78")
    await stream.until(lambda: bool(stream.names(ADDRESS)))
    assert stream.names(ADDRESS) == {"Kubernetes//Pod/shop/wanted"}


async def test_reconnection_resumes_by_versions(way: grpc.aio.Channel, stream: Stream, cluster: Cluster) -> None:
    await cluster.pod("leaving", "10.1.0.80")
    await subscribed(stream)
    leaving = "Kubernetes//Pod/shop/leaving"
    await stream.until(lambda: leaving in stream.names(ADDRESS))
    kept = stream.versions(ADDRESS)
    stream.call.cancel()
    await cluster.remove_pod("leaving")
    kept[FAR] = "an-older-version"

    again = Stream.open(way, stream.proxy)
    await again.ask(ADDRESS, versions=kept)
    await again.until(lambda: leaving in again.removed.get(ADDRESS, ()))
    assert again.names(ADDRESS) == {FAR}
    assert again.removed[ADDRESS] == [leaving]
    again.call.cancel()


async def test_a_restarted_istiod_sends_nothing_anew(istiod: IstiodProcess, cluster: Cluster) -> None:
    root = await cluster.root()
    proxy = await cluster.ztunnel()
    async with channel(istiod.port, root) as way:
        stream = Stream.open(way, proxy)
        await subscribed(stream)
        kept = stream.versions(ADDRESS)
        stream.call.cancel()
    istiod.stop(signal.SIGKILL)
    istiod.start()
    assert await cluster.root() == root
    async with channel(istiod.port, root) as way:
        again = Stream.open(way, proxy)
        await again.ask(ADDRESS, versions=kept)
        response = await again.receive()
        assert (len(response.resources), list(response.removed_resources)) == (0, [])
        again.call.cancel()


async def test_a_refusal_is_not_answered_by_the_same_again(stream: Stream, cluster: Cluster) -> None:
    stream.refuse = lambda response: "no" if response.type_url == AUTHORIZATION and response.resources else ""
    await subscribed(stream)
    await cluster.policy("refused", DENY)
    await stream.until(lambda: "shop/refused" in {r.name for one in stream.responses for r in one.resources})
    stream.refuse = lambda _response: ""
    await cluster.pod("later", "10.1.0.81")
    await stream.until(lambda: "Kubernetes//Pod/shop/later" in stream.names(ADDRESS))
    offers = [one for one in stream.responses if one.type_url == AUTHORIZATION and one.resources]
    assert len(offers) == 1


async def test_the_older_type(stream: Stream) -> None:
    await stream.ask(WORKLOAD)
    await stream.receive()
    assert CART in stream.names(WORKLOAD)
    assert SERVICE not in stream.names(WORKLOAD)
    assert stream.message(WORKLOAD, CART).service_account == "cart"


async def test_a_type_that_nobody_serves_is_answered_empty(stream: Stream) -> None:
    await stream.ask("type.googleapis.com/istio.unknown.Thing")
    response = await stream.receive()
    assert not response.resources


# Certificates


async def test_a_certificate_for_a_pod_of_the_node(way: grpc.aio.Channel, cluster: Cluster) -> None:
    csr = Csr.make(CART_ID)
    leaf, *between, root = await sign(way, await cluster.ztunnel(), csr, CART_ID, seconds=3600)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [CART_ID]
    assert leaf.public_key() == csr.key.public_key()
    assert root.public_bytes(serialization.Encoding.PEM) == (await cluster.root()).strip() + b"\n"
    for issued, issuer in zip((leaf, *between), (*between, root), strict=True):
        issued.verify_directly_issued_by(issuer)
    lifetime = leaf.not_valid_after_utc - leaf.not_valid_before_utc
    assert 3600 <= lifetime.total_seconds() <= 3600 + 300
    basic = leaf.extensions.get_extension_for_class(x509.BasicConstraints)
    assert (basic.value.ca, basic.critical) == (False, True)


async def test_a_certificate_of_its_own(way: grpc.aio.Channel, cluster: Cluster) -> None:
    own = "spiffe://cluster.local/ns/istio-system/sa/ztunnel"
    leaf, *_ = await sign(way, await cluster.ztunnel(), Csr.make(own))
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [own]


@pytest.mark.parametrize(
    "identity",
    [
        "spiffe://cluster.local/ns/shop/sa/far",
        "spiffe://cluster.local/ns/shop/sa/absent",
        "spiffe://cluster.local/ns/elsewhere/sa/cart",
        "spiffe://other.example/ns/shop/sa/cart",
        "spiffe://cluster.local/ns/shop/sa/cart/",
        "spiffe://cluster.local/ns/shop",
        "cart",
    ],
)
async def test_no_certificate_for_what_does_not_run_on_the_node(
    way: grpc.aio.Channel, cluster: Cluster, identity: str
) -> None:
    await refused(way, await cluster.ztunnel(), identity)


async def refused(way: grpc.aio.Channel, proxy: Proxy, identity: str) -> None:
    """Refused without a word of why, as a stock CA does."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await sign(way, proxy, Csr.make(identity or CART_ID), identity)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert caught.value.details() == "request authenticate failure"


async def bad_proxies(cluster: Cluster) -> dict[str, Proxy]:
    node = await cluster.ztunnel()
    return {
        "no token": Proxy("ztunnel-n1", "n1"),
        "no token at all": Proxy("ztunnel-n1", "n1", "nonsense"),
        "a broken signature": Proxy("ztunnel-n1", "n1", node.token[:-6] + "AAAAAA"),
        "another audience": Proxy(
            "ztunnel-n1", "n1", await cluster.token("ztunnel", pod="ztunnel-n1", audience="other")
        ),
    }


@pytest.mark.parametrize("which", ["no token", "no token at all", "a broken signature", "another audience"])
async def test_who_is_not_proved_gets_nothing(way: grpc.aio.Channel, cluster: Cluster, which: str) -> None:
    proxy = (await bad_proxies(cluster))[which]
    await refused(way, proxy, CART_ID)
    assert await ending(way, proxy) is grpc.StatusCode.UNAUTHENTICATED


async def ending(way: grpc.aio.Channel, proxy: Proxy, *asked: str) -> grpc.StatusCode:
    """How a stream ends that asks for these types. (To ask on a stream that is over already is an error of its own.)"""
    stream = Stream.open(way, proxy)
    with suppress(grpc.aio.AioRpcError):
        for type_url in asked:
            await stream.ask(type_url)
        await stream.receive()
    async with asyncio.timeout(60):
        code: grpc.StatusCode = await stream.call.code()
    return code


async def test_an_application_gets_its_own_certificate_and_nothing_else(
    way: grpc.aio.Channel, cluster: Cluster
) -> None:
    cart = Proxy("cart-0", "n1", await cluster.token("cart", "shop", pod="cart-0"), "shop")
    leaf, *_ = await sign(way, cart, Csr.make(CART_ID))
    assert leaf is not None
    await refused(way, cart, "spiffe://cluster.local/ns/shop/sa/far")
    for type_url in (ADDRESS, WORKLOAD, AUTHORIZATION):
        assert await ending(way, cart, type_url) is grpc.StatusCode.PERMISSION_DENIED


async def test_a_ztunnel_token_that_is_bound_to_no_pod_signs_for_nobody(
    way: grpc.aio.Channel, cluster: Cluster
) -> None:
    await refused(way, Proxy("ztunnel-n1", "n1", await cluster.token("ztunnel")), CART_ID)


async def test_a_ztunnel_cannot_speak_for_another_node(way: grpc.aio.Channel, cluster: Cluster) -> None:
    """What the client says of itself (its node's name) counts for nothing; its token does."""
    other = await cluster.ztunnel("n2")
    await refused(way, Proxy("ztunnel-n1", "n1", other.token), CART_ID)


async def test_plaintext_is_not_spoken(istiod: IstiodProcess, cluster: Cluster) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{istiod.port}") as way:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await sign(way, await cluster.ztunnel(), Csr.make(CART_ID), CART_ID)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_server_under_another_root_is_not_believed(istiod: IstiodProcess, cluster: Cluster) -> None:
    async with channel(istiod.port, self_signed()) as way:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await sign(way, await cluster.ztunnel(), Csr.make(CART_ID), CART_ID)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
