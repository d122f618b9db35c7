"""istiod as its clients meet it: over TLS, with a token, and through a restart."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.discovery.v3 import discovery_pb2

import tulle
from tulle.istiod.app import Istiod
from tulle.istiod.inspection import SYNCZ
from tulle.istiod.waypoint_source import TYPES
from tulle.kube.client import Client
from tulle.kube.errors import NotFound
from tulle.kube.resources import (
    AUTHORIZATION_POLICIES,
    CONFIG_MAPS,
    ENDPOINT_SLICES,
    GATEWAYS,
    PEER_AUTHENTICATIONS,
    PODS,
    SERVICE_ACCOUNTS,
    SERVICES,
)
from tulle.xds import channels, types
from tulle.xds.client import AdsClient
from tulle.xds.proto import workload_pb2

from .conftest import RunIstiod, eventually
from .test_gateway_controller import gateway, make_ready


async def token(client: Client, namespace: str, account: str) -> str:
    metadata = {"name": account, "namespace": namespace}
    try:
        await client.get(SERVICE_ACCOUNTS, account, namespace)
    except NotFound:
        await client.create(SERVICE_ACCOUNTS, {"metadata": metadata})
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"audiences": ["istio-ca"], "expirationSeconds": 3600},
    }
    return str((await client.post(SERVICE_ACCOUNTS, account, "token", body, namespace))["status"]["token"])


class Reader:
    """A proxy's ADS stream: what it holds now, by type and name."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, bytes]] = {}

    def of(self, type_url: str) -> Any:
        held = self.held.setdefault(type_url, {})

        def handle(updated: Mapping[str, bytes], removed: Sequence[str]) -> None:
            held.update(updated)
            for name in removed:
                held.pop(name, None)

        return handle

    def workload(self, uid: str) -> workload_pb2.Workload | None:
        found = self.held.get(types.ADDRESS, {}).get(uid)
        return workload_pb2.Address.FromString(found).workload if found else None


async def published_root(client: Client, namespace: str, directory: Path) -> Path:
    """A file with the root that istiod has published."""

    async def root() -> str:
        try:
            return (await client.get(CONFIG_MAPS, "istio-ca-root-cert", namespace)).data["root-cert.pem"]
        except NotFound:
            return ""

    path = directory / "root.pem"
    path.write_text(await eventually(root, "the root certificate is published"))
    return path


@asynccontextmanager
async def reading(
    client: Client, istiod: Istiod, account: tuple[str, str], type_urls: Sequence[str], directory: Path
) -> AsyncIterator[Reader]:
    """A connected and synced reader that authenticates with its account's token."""

    path = await published_root(client, account[0], directory)
    bearer = await token(client, *account)
    reader = Reader()
    ads = AdsClient(
        channels.tls(f"127.0.0.1:{istiod.ports['xds']}", path),
        base_pb2.Node(id="test"),
        {type_url: reader.of(type_url) for type_url in type_urls},
        metadata=lambda: (("authorization", f"Bearer {bearer}"),),
    )
    task = asyncio.create_task(ads.run())
    try:
        async with asyncio.timeout(60):
            await ads.synced()
        yield reader
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def make_mesh(client: Client, namespace: str) -> str:
    """A Service with one captured pod behind it; returns the pod's uid in WDS."""
    metadata = {
        "name": "p",
        "namespace": namespace,
        "labels": {"app": "s"},
        "annotations": {"ambient.istio.io/redirection": "enabled"},
    }
    await client.create(
        PODS, {"metadata": metadata, "spec": {"nodeName": "n", "containers": [{"name": "c", "image": "i"}]}}
    )
    conditions = [{"type": "Ready", "status": "True"}]
    status = {"phase": "Running", "podIP": "10.244.9.9", "podIPs": [{"ip": "10.244.9.9"}], "conditions": conditions}
    await client.patch(PODS, "p", {"status": status}, namespace, subresource="status")
    labels = {"istio.io/use-waypoint": "waypoint"}
    spec = {"selector": {"app": "s"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
    await client.create(SERVICES, {"metadata": {"name": "s", "namespace": namespace, "labels": labels}, "spec": spec})
    endpoints = {
        "metadata": {"name": "s-1", "namespace": namespace, "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": ["10.244.9.9"],
                "conditions": {"ready": True},
                "targetRef": {"kind": "Pod", "name": "p", "namespace": namespace},
            }
        ],
    }
    await client.create(ENDPOINT_SLICES, endpoints)
    return f"Kubernetes//Pod/{namespace}/p"


async def test_a_node_proxy_is_told_the_mesh(
    client: Client, namespace: str, run_istiod: RunIstiod, tmp_path: Path
) -> None:
    home = f"{namespace}-home"
    config = {"metadata": {"name": "istio", "namespace": home}, "data": {"mesh": f"rootNamespace: {home}"}}
    wds = (types.ADDRESS, types.AUTHORIZATION)
    async with run_istiod(home) as istiod, reading(client, istiod, (home, "ztunnel"), wds, tmp_path) as reader:
        await client.create(CONFIG_MAPS, config)
        uid = await make_mesh(client, namespace)

        async def joined() -> bool:
            found = reader.workload(uid)
            return found is not None and f"{namespace}/s.{namespace}.svc.cluster.local" in found.services

        await eventually(joined, "the pod is a workload behind its Service")
        found = reader.workload(uid)
        assert found is not None
        assert found.tunnel_protocol == workload_pb2.HBONE
        assert found.node == "n"
        strict = {"metadata": {"name": "default", "namespace": home}, "spec": {"mtls": {"mode": "STRICT"}}}
        await client.create(PEER_AUTHENTICATIONS, strict)
        name = f"{home}/istio_converted_static_strict"

        async def strictly() -> bool:
            found = reader.workload(uid)
            return found is not None and list(found.authorization_policies) == [name]

        await eventually(strictly, "STRICT reaches the workload")
        assert name in reader.held[types.AUTHORIZATION]
        await client.delete(PEER_AUTHENTICATIONS, "default", home)
        await client.delete(PODS, "p", namespace, grace_period=0)

        async def gone() -> bool:
            return reader.workload(uid) is None and not reader.held[types.AUTHORIZATION]

        await eventually(gone, "what is deleted is gone")


async def test_a_waypoint_is_told_its_own_part(
    client: Client, namespace: str, run_istiod: RunIstiod, tmp_path: Path
) -> None:
    home = f"{namespace}-home"
    async with run_istiod(home) as istiod:
        await client.create(GATEWAYS, gateway(namespace))
        await make_ready(client, namespace)
        await make_mesh(client, namespace)

        async def known() -> bool:
            return (namespace, "waypoint") in istiod.index.bound

        await eventually(known, "the Service is bound")
        async with reading(client, istiod, (namespace, "waypoint"), TYPES, tmp_path) as reader:
            target = f"Service/{namespace}/s|80"
            assert target in reader.held[types.CLUSTER]
            assert target in reader.held[types.ROUTES]
            assert b"10.244.9.9" in reader.held[types.ENDPOINTS][target]
            policy = {
                "metadata": {"name": "p", "namespace": namespace},
                "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": "s"}]},
            }
            await client.create(AUTHORIZATION_POLICIES, policy)

            async def enforced() -> bool:
                return b"tulle.rbac.allow" in reader.held[types.ROUTES][target]

            await eventually(enforced, "the policy reaches the waypoint")


async def test_a_restarted_istiod_is_the_same_authority(client: Client, namespace: str, run_istiod: RunIstiod) -> None:
    home = f"{namespace}-home"

    async def root() -> str:
        try:
            return (await client.get(CONFIG_MAPS, "istio-ca-root-cert", namespace)).data["root-cert.pem"]
        except NotFound:
            return ""

    async with run_istiod(home):
        before = await eventually(root, "the root is published")
    await client.delete(CONFIG_MAPS, "istio-ca-root-cert", namespace)
    async with run_istiod(home):
        assert await eventually(root, "the root is published again") == before


async def test_http(client: Client, namespace: str, run_istiod: RunIstiod) -> None:
    async with run_istiod(f"{namespace}-home") as istiod, aiohttp.ClientSession() as session:
        base = f"http://127.0.0.1:{istiod.ports['http']}"
        async with session.get(f"{base}/ready") as answer:
            assert answer.status == 200
        async with session.get(f"{base}/metrics") as answer:
            told = await answer.text()
            assert "pilot_xds 0.0" in told
            assert "citadel_server_csr_count 0.0" in told
        async with session.get(f"http://127.0.0.1:{istiod.ports['metrics']}/version") as answer:
            assert await answer.text() == tulle.__version__
        async with session.get(f"{base}/debug/syncz") as answer:
            assert await answer.json() == []
        await make_mesh(client, namespace)
        host, mine = f"s.{namespace}.svc.cluster.local", {"namespace": namespace, "name": "p"}
        await client.create(AUTHORIZATION_POLICIES, {"metadata": mine, "spec": {"action": "ALLOW"}})

        async def shown(page: str) -> Any:
            async with session.get(f"{base}/debug/{page}") as answer:
                return await answer.json()

        async def endpoint() -> Any:
            return next((one["ep"] for one in await shown("endpointz") if one["svc"] == f"{host}:http"), None)

        (found,) = await eventually(endpoint, "the endpoint is shown")
        assert (found["endpoint"]["Addresses"], found["endpoint"]["EndpointPort"]) == (["10.244.9.9"], 8080)
        (service,) = [one for one in await shown("registryz") if one["hostname"] == host]
        assert service["ports"] == [{"name": "http", "port": 80, "protocol": "HTTP"}]
        (policy,) = [one for one in await shown("configz") if one["metadata"].get("namespace") == namespace]
        assert (policy["kind"], policy["metadata"]["name"]) == ("AuthorizationPolicy", "p")
        assert "/debug/config_dump" in await shown("list")


async def test_the_plain_text_port_shows_proxies_and_gives_no_configuration(
    client: Client, namespace: str, run_istiod: RunIstiod, tmp_path: Path
) -> None:
    home = f"{namespace}-home"
    node = base_pb2.Node(id="istioctl")
    wds = (types.ADDRESS, types.AUTHORIZATION)
    async with run_istiod(home) as istiod, reading(client, istiod, (home, "ztunnel"), wds, tmp_path):
        async with grpc.aio.insecure_channel(f"127.0.0.1:{istiod.ports['plaintext']}") as channel:
            ask = channel.stream_stream(
                "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
                request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
                response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
            )
            stream = ask()
            await stream.write(discovery_pb2.DiscoveryRequest(node=node, type_url=SYNCZ))
            (proxy,) = (await stream.read()).resources
            assert b"test" in proxy.value
            stream = ask()
            await stream.write(discovery_pb2.DiscoveryRequest(node=node, type_url=types.ADDRESS))
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stream.read()
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{istiod.ports['metrics']}/metrics") as answer,
        ):
            told = await answer.text()
            assert 'pilot_xds_pushes{type="wds"} 1.0' in told
            assert 'pilot_xds_pushes{type="wads"} 1.0' in told
            expires = re.search(r"^citadel_server_root_cert_expiry_timestamp (.*)$", told, re.MULTILINE)
            assert expires is not None
            assert float(expires[1]) > time.time()


async def test_not_ready_while_the_mesh_configuration_cannot_be_read(
    client: Client, namespace: str, run_istiod: RunIstiod
) -> None:
    home = f"{namespace}-home"
    async with run_istiod(home):
        broken = {"metadata": {"name": "istio", "namespace": home}, "data": {"mesh": "tulle: {typo: true}"}}
        await client.create(CONFIG_MAPS, broken)
    starting = asyncio.ensure_future(_enter(run_istiod, home))
    await asyncio.sleep(0.5)
    assert not starting.done()
    await client.patch(CONFIG_MAPS, "istio", {"data": {"mesh": "{}"}}, home)
    async with asyncio.timeout(60):
        await starting


async def _enter(run_istiod: RunIstiod, home: str) -> None:
    async with run_istiod(home):
        pass
