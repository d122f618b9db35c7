"""A real waypoint (agent and Envoy, in a network of its own) under a real istiod server, with real HBONE on both sides."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support import hbone, netns
from tulle.istiod.ca import x509 as shapes
from tulle.istiod.ca.authority import ROOT_LIFETIME, Authority, Roots, utc_now
from tulle.istiod.ca.callers import Caller
from tulle.istiod.ca.service import CertificateService
from tulle.istiod.server import IstiodServer, RotatingCertificate
from tulle.istiod.waypoint_config import names, resources
from tulle.istiod.waypoint_config.view import EndpointView, PolicyRules, PortView, TargetView, WaypointConfigView
from tulle.security.identity import Identity
from tulle.xds.resources import ResourceMap

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

WAYPOINT = Identity("cluster.local", "hello", "waypoint")
APP = Identity("cluster.local", "hello", "default")
TEST = Identity("cluster.local", "test", "default")
WEB = Identity("cluster.local", "web", "default")
VIP = "10.96.0.50"


class Token:
    """Stands for the API's token review: whoever calls is the waypoint."""

    async def caller(self, _context: object) -> Caller:
        return Caller(WAYPOINT, "waypoint-1", "uid-1", "node1")


class Workloads:
    """Identities with certificates of the mesh, as files."""

    def __init__(self, authority: Authority, folder: Path) -> None:
        self._authority, self._folder = authority, folder
        (folder / "root.pem").write_text(authority.root_pem)

    def tls(self, identity: Identity, *, server: bool) -> Any:
        stem = self._folder / f"{identity.namespace}-{identity.service_account}"
        key = ec.generate_private_key(ec.SECP256R1())
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity.spiffe)])
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(san, critical=True)
        csr = request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        chain = self._authority.sign(csr, identity.spiffe)
        stem.with_suffix(".crt").write_text("".join(chain[:-1]))
        stem.with_suffix(".key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        files = str(stem.with_suffix(".crt")), str(stem.with_suffix(".key")), str(self._folder / "root.pem")
        return hbone.tls(*files, server=server)


def allow(principal: str, method: str) -> dict[str, Any]:
    by = {"filter_state": {"key": names.PEER_PRINCIPAL, "string_match": {"exact": principal}}}
    what = {"header": {"name": ":method", "string_match": {"exact": method}}}
    return {"action": "ALLOW", "policies": {"hello/only-test": {"permissions": [what], "principals": [by]}}}


def view(host: str, rules: PolicyRules) -> WaypointConfigView:
    def port(number: int, *endpoints: EndpointView, protocol: Any = "HTTP") -> PortView:
        return PortView(number, protocol, endpoints)

    app = EndpointView(host, 8080, APP.spiffe, hbone=True)
    target = TargetView(
        "Service",
        "hello",
        "helloworld",
        "helloworld.hello.svc.cluster.local",
        (VIP,),
        (
            port(5000, app),
            port(5001, EndpointView(host, 8080, Identity("cluster.local", "hello", "other").spiffe, hbone=True)),
            port(5002),
            port(5003, EndpointView(host, 8080, "", hbone=False)),
            port(9000, app, protocol="TCP"),
        ),
        rules,
    )
    return WaypointConfigView("hello", "waypoint", WAYPOINT.spiffe, "cluster.local", (target,))


class Mesh:
    """What a test has at hand: the configuration that istiod serves, identities, and the HBONE server of the endpoint."""

    def __init__(self, place: netns.Joined, workloads: Workloads, maps: dict[str, ResourceMap]) -> None:
        self.place, self.workloads, self._maps = place, workloads, maps
        self.endpoint = hbone.Server(workloads.tls(APP, server=True), (place.host, 8080))

    def configure(self, rules: PolicyRules) -> None:
        for type_url, found in resources.build(view(self.place.host, rules)).by_type.items():
            self._maps[type_url].replace(found)

    async def get(self, identity: Identity, port: int, method: str = "GET") -> tuple[int, str]:
        """The status that a client of that identity gets for a request through the waypoint, and the body."""
        context = self.workloads.tls(identity, server=False)
        async with hbone.Client.connect(self.place.inside, 15008, context) as client:
            assert client.peer == WAYPOINT.spiffe
            tunnel = await client.tunnel(f"{VIP}:{port}")
            if tunnel.status != 200:
                return tunnel.status, ""
            await tunnel.write(f"{method} /hello HTTP/1.1\r\nhost: helloworld\r\nconnection: close\r\n\r\n".encode())
            answer = (await asyncio.wait_for(tunnel.reader.read(), 10)).decode()
            head, _, body = answer.partition("\r\n\r\n")
            return int(head.split()[1]), body


async def echo(request: web.Request) -> web.Response:
    return web.Response(text=f"{request.method} {request.path}")


@contextlib.asynccontextmanager
async def istiod(host: str, authority: Authority, maps: dict[str, ResourceMap]) -> AsyncIterator[int]:
    token: Any = Token()
    pods: Any = None
    certificate = RotatingCertificate(authority, [host])
    service = CertificateService(authority, token, pods)
    server = IstiodServer(certificate, token, service, lambda _node, type_url: maps.get(type_url))
    listening = await server.start(f"{host}:0")
    try:
        yield listening.port
    finally:
        await server.stop()


@contextlib.asynccontextmanager
async def waypoint(place: netns.Joined, port: int, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    (folder / "token").write_text("token")
    environment = {
        "POD_NAME": "waypoint-1",
        "POD_NAMESPACE": "hello",
        "SERVICE_ACCOUNT": "waypoint",
        "GATEWAY_NAME": "waypoint",
        "INSTANCE_IP": place.inside,
        "NODE_NAME": "node1",
        "XDS_ADDRESS": f"https://{place.host}:{port}",
        "CA_ADDRESS": f"https://{place.host}:{port}",
        "AUTH_TOKEN_PATH": str(folder / "token"),
        "ROOT_CERT_PATH": str(folder / "root.pem"),
        "RUN_DIR": str(folder / "run"),
        "TERMINATION_DRAIN_DURATION_SECONDS": "0",
    }
    command = place.command(sys.executable, "-m", "tulle.waypoint")
    with (folder / "waypoint.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *command, env={**os.environ, **environment}, stdout=log, stderr=log
        )
        try:
            await until_ready(place)
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), 20)


async def until_ready(place: netns.Joined) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(30):
        while True:
            with contextlib.suppress(aiohttp.ClientConnectorError):
                async with session.get(f"http://{place.inside}:15021/healthz/ready") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.05)


@pytest.fixture
def place() -> Iterator[netns.Joined]:
    with netns.joined("tk-waypoint", "169.254.91.0") as made:
        yield made


@pytest.fixture
async def mesh(place: netns.Joined, tmp_path: Path) -> AsyncIterator[Mesh]:
    root = shapes.self_signed_root("cluster.local", utc_now(), ROOT_LIFETIME)
    authority = Authority(Roots((root.certificate,), root=root))
    maps = {t: ResourceMap(t) for t in (names.LISTENER_TYPE, names.ROUTE_TYPE, names.CLUSTER_TYPE, names.ENDPOINT_TYPE)}
    made = Mesh(place, Workloads(authority, tmp_path), maps)
    made.configure(PolicyRules(http_allow=allow(TEST.spiffe, "GET")))
    app = web.Application()
    app.router.add_route("*", "/hello", echo)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, place.host, 8080).start()
    try:
        async with (
            istiod(place.host, authority, maps) as port,
            waypoint(place, port, tmp_path),
            made.endpoint.serving(place.host, 15008),
        ):
            yield made
    finally:
        await runner.cleanup()


async def settled(mesh: Mesh, identity: Identity, port: int, status: int) -> None:
    async with asyncio.timeout(10):
        while (await mesh.get(identity, port))[0] != status:
            await asyncio.sleep(0.05)


async def test_policy_is_decided_on_the_clients_own_identity(mesh: Mesh) -> None:
    assert await mesh.get(TEST, 5000) == (200, "GET /hello")
    assert await mesh.get(TEST, 5000, "POST") == (403, "RBAC: access denied")
    assert await mesh.get(WEB, 5000) == (403, "RBAC: access denied")
    assert [(seen.peer, seen.authority) for seen in mesh.endpoint.seen] == [
        (WAYPOINT.spiffe, f"{mesh.place.host}:8080")
    ]


async def test_an_endpoint_with_another_identity_is_not_spoken_to(mesh: Mesh) -> None:
    status, _ = await mesh.get(TEST, 5001)
    assert status == 503
    assert mesh.endpoint.seen == []


async def test_without_endpoints_requests_fail_closed(mesh: Mesh) -> None:
    assert (await mesh.get(TEST, 5002))[0] == 503


async def test_an_endpoint_outside_the_mesh_gets_plain_http(mesh: Mesh) -> None:
    assert await mesh.get(TEST, 5003) == (200, "GET /hello")
    assert mesh.endpoint.seen == []


async def test_opaque_tcp_is_carried_as_it_is(mesh: Mesh) -> None:
    assert await mesh.get(WEB, 9000) == (200, "GET /hello")


async def test_what_it_does_not_serve_is_refused(mesh: Mesh) -> None:
    assert (await mesh.get(TEST, 15000))[0] == 404


async def test_a_refusal_behind_the_waypoint_is_503(mesh: Mesh) -> None:
    mesh.endpoint.decide = lambda _accepted: 401
    assert (await mesh.get(TEST, 5000))[0] == 503


async def test_a_changed_policy_applies_to_the_next_request(mesh: Mesh) -> None:
    mesh.configure(PolicyRules(http_allow=allow(WEB.spiffe, "GET")))
    await settled(mesh, WEB, 5000, 200)
    assert (await mesh.get(TEST, 5000))[0] == 403
    mesh.configure(PolicyRules())
    await settled(mesh, TEST, 5000, 200)
