"""A real waypoint (agent and Envoy, in a network of its own) under a real istiod server, with real HBONE on both sides.

Policies are given as manifests and go the whole way: parsed, attached, turned into Envoy's configuration, sent by istiod's server, and
acknowledged, which `configure` waits for.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support import hbone, minting, netns
from tests.waypoint.backends import backends
from tulle.istiod.ca import x509 as shapes
from tulle.istiod.ca.authority import ROOT_LIFETIME, Authority, Roots, utc_now
from tulle.istiod.ca.callers import Caller
from tulle.istiod.ca.service import CertificateService
from tulle.istiod.server import IstiodServer, RotatingCertificate
from tulle.istiod.waypoint_config import resources
from tulle.istiod.waypoint_config.view import AuthorizerView, EndpointView, PortView, TargetView, WaypointConfigView
from tulle.istiod.waypoint_keys import TokenKeys
from tulle.istiod.waypoint_targets import rules_of
from tulle.security.identity import Identity
from tulle.security.mesh import MeshSettings
from tulle.security.parse import parse_authorization_policy, parse_request_authentication
from tulle.xds.delta import Rejection
from tulle.xds.resources import ResourceMap
from tulle.xds.server import ClientNode

WAYPOINT = Identity("cluster.local", "hello", "waypoint")
APP = Identity("cluster.local", "hello", "default")
OTHER = Identity("cluster.local", "hello", "other")
TEST = Identity("cluster.local", "test", "default")
WEB = Identity("cluster.local", "web", "default")
VIP = "10.96.0.50"
HOST = "helloworld.hello.svc.cluster.local"

HTTP, WRONG_IDENTITY, NO_ENDPOINT, PLAIN, AUTO, TCP, AUTO_OPAQUE, SERVER_FIRST = (
    5000,
    5001,
    5002,
    5003,
    5004,
    9000,
    9001,
    9002,
)
"""The ports of the Service, by what is special about them."""


class Token:
    """Stands for the API's token review: whoever calls is the waypoint."""

    async def caller(self, _context: object) -> Caller:
        return Caller(WAYPOINT, "waypoint-1", "uid-1", "node1")


class Workloads:
    """Identities with certificates of the mesh, as files; `forge` signs any other with the mesh's root."""

    def __init__(self, authority: Authority, folder: Path, forge: minting.Authority) -> None:
        self._authority, self._folder, self.forge = authority, folder, forge
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


@dataclass(frozen=True)
class Answer:
    """An HTTP answer, or the status of a refused CONNECT with `refused`."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: str = ""
    refused: bool = False

    @property
    def seen(self) -> Any:
        """What the app saw of the request."""
        return json.loads(self.body)

    def header_seen(self, name: str) -> list[str]:
        return [value for key, value in self.seen["headers"] if key == name]


def policy(spec: Mapping[str, Any], name: str = "policy", **metadata: Any) -> dict[str, Any]:
    """An AuthorizationPolicy on the Service."""
    return {
        "kind": "AuthorizationPolicy",
        "metadata": {"namespace": "hello", "name": name, **metadata},
        "spec": {"targetRefs": [{"kind": "Service", "group": "", "name": "helloworld"}], **spec},
    }


def tokens(*rules: Mapping[str, Any], name: str = "tokens") -> dict[str, Any]:
    """A RequestAuthentication on the Service."""
    return {
        "kind": "RequestAuthentication",
        "metadata": {"namespace": "hello", "name": name},
        "spec": {
            "targetRefs": [{"kind": "Service", "group": "", "name": "helloworld"}],
            "jwtRules": list(rules),
        },
    }


def target(host: str) -> TargetView:
    """The Service helloworld, whose HBONE endpoint and plain endpoints are all on the host's side."""
    app = EndpointView(host, 8080, APP.spiffe, hbone=True)
    opaque, greeting = (EndpointView(host, port, "", hbone=False) for port in (8081, 8082))
    return TargetView(
        "Service",
        "hello",
        "helloworld",
        HOST,
        (VIP,),
        (
            PortView(HTTP, "HTTP", (app,)),
            PortView(WRONG_IDENTITY, "HTTP", (replace(app, identity=OTHER.spiffe),)),
            PortView(NO_ENDPOINT, "HTTP", ()),
            PortView(PLAIN, "HTTP", (EndpointView(host, 8080, "", hbone=False),)),
            PortView(AUTO, "AUTO", (app,)),
            PortView(TCP, "TCP", (app,)),
            PortView(AUTO_OPAQUE, "AUTO", (opaque,)),
            PortView(SERVER_FIRST, "AUTO", (greeting,)),
        ),
    )


class Mesh:
    """What a test has at hand: what istiod serves, identities, the HBONE server of the endpoint, and the waypoint's log."""

    def __init__(self, place: netns.Joined, workloads: Workloads, maps: dict[str, ResourceMap], log: Path) -> None:
        self.place, self.workloads, self.maps = place, workloads, maps
        self.endpoint = hbone.Server(workloads.tls(APP, server=True), (place.host, 8080))
        self.rejections: list[Rejection] = []
        self._log = log
        self._answered = asyncio.Event()
        self._server: IstiodServer | None = None
        self._contexts: dict[Identity, Any] = {}

    # -- what istiod says

    def view(
        self,
        *objects: Mapping[str, Any],
        settings: MeshSettings | None = None,
        explain: bool = False,
        authorizers: Iterable[AuthorizerView] = (),
        keys: Callable[[Any], str] | None = None,
    ) -> WaypointConfigView:
        """The waypoint's view under these policies."""
        settings = settings or MeshSettings()
        policies = [parse_authorization_policy(one) for one in objects if one["kind"] == "AuthorizationPolicy"]
        accepted = [parse_request_authentication(one) for one in objects if one["kind"] == "RequestAuthentication"]
        made = replace(target(self.place.host), rules=rules_of(policies, settings, accepted, keys or TokenKeys().of))
        made = replace(made, ports=tuple(replace(port, explain=explain) for port in made.ports))
        return WaypointConfigView(
            "hello",
            "waypoint",
            WAYPOINT.spiffe,
            "cluster.local",
            (made,),
            settings.path_normalization,
            tuple(authorizers),
        )

    def publish(self, view: WaypointConfigView) -> None:
        for type_url, found in resources.build(view).by_type.items():
            self.maps[type_url].replace(found)

    async def configure(self, *objects: Mapping[str, Any], **more: Any) -> None:
        """Put policies in force, and wait until the waypoint has acknowledged them."""
        self.endpoint.decide = lambda _accepted: 200
        self.endpoint.seen.clear()
        self.rejections.clear()
        self.publish(self.view(*objects, **more))
        await self.acknowledged()

    async def acknowledged(self) -> None:
        async with asyncio.timeout(60):
            while not self._synced():
                self._answered.clear()
                await self._answered.wait()

    def _synced(self) -> bool:
        assert self._server is not None
        states = [connection.state for connection in self._server.ads.connections]
        return bool(states) and all(state is not None and state.synced() for state in states)

    # -- what a client does

    @contextlib.asynccontextmanager
    async def tunnel(self, identity: Identity, port: int, address: str = VIP) -> AsyncIterator[hbone.Tunnel]:
        if identity not in self._contexts:
            self._contexts[identity] = self.workloads.tls(identity, server=False)
        async with hbone.Client.connect(self.place.inside, 15008, self._contexts[identity]) as client:
            assert client.peer == WAYPOINT.spiffe
            yield await client.tunnel(f"{address}:{port}")

    async def get(
        self,
        identity: Identity = TEST,
        *,
        port: int = HTTP,
        method: str = "GET",
        path: str = "/hello",
        headers: Iterable[tuple[str, str]] = (),
        host: str = "helloworld",
        address: str = VIP,
    ) -> Answer:
        """One HTTP/1.1 request through the waypoint, exactly as written."""
        lines = [f"{method} {path} HTTP/1.1", f"host: {host}", "connection: close"]
        lines += [f"{name}: {value}" for name, value in headers]
        return await self.raw("\r\n".join([*lines, "", ""]).encode(), identity, port, address)

    async def raw(self, request: bytes, identity: Identity = TEST, port: int = HTTP, address: str = VIP) -> Answer:
        async with self.tunnel(identity, port, address) as tunnel:
            if tunnel.status != 200:
                return Answer(tunnel.status, refused=True)
            await tunnel.write(request)
            return await asyncio.wait_for(read_answer(tunnel.reader, head=request.startswith(b"HEAD ")), 60)

    async def eventually(self, status: int, *, port: int, **request: Any) -> None:
        """For what takes effect after its acknowledgement: a listener's new chains."""
        async with asyncio.timeout(60):
            while (await self.get(port=port, **request)).status != status:
                await asyncio.sleep(0.02)

    # -- what the waypoint writes

    async def logged(self, **fields: Any) -> dict[str, Any]:
        """The newest line of the access log with these fields (dots written as double underscores)."""
        wanted = {name.replace("__", "."): value for name, value in fields.items()}
        async with asyncio.timeout(60):
            while True:
                for line in reversed(self._log.read_text().splitlines()):
                    found = json.loads(line) if line.startswith("{") else {}
                    if wanted.items() <= found.items():
                        return dict(found)
                await asyncio.sleep(0.05)

    def serve(self, server: IstiodServer) -> None:
        self._server = server

    def answered(self) -> None:
        self._answered.set()

    def rejected(self, _node: ClientNode, rejection: Rejection) -> None:
        self.rejections.append(rejection)


async def read_answer(reader: asyncio.StreamReader, *, head: bool = False) -> Answer:
    """One HTTP/1.1 answer; status 0 when the connection ends before one."""
    try:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    except asyncio.IncompleteReadError:
        return Answer(0)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    body = b""
    if head:
        pass
    elif "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    elif headers.get("transfer-encoding") == "chunked":
        while length := int(await reader.readline(), 16):
            body += (await reader.readexactly(length + 2))[:-2]
    else:
        body = await reader.read()
    return Answer(int(lines[0].split()[1]), headers, body.decode())


# -- the parts --------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def istiod(mesh: Mesh, authority: Authority) -> AsyncIterator[int]:
    host = mesh.place.host
    token: Any = Token()
    pods: Any = None
    certificate = RotatingCertificate(authority, [host])
    service = CertificateService(authority, token, pods)
    server = IstiodServer(
        certificate,
        token,
        service,
        lambda _node, type_url: mesh.maps.get(type_url),
        on_rejection=mesh.rejected,
        on_answer=mesh.answered,
    )
    listening = await server.start(f"{host}:0")
    mesh.serve(server)
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
            await _until_ready(place)
            yield process
        finally:
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), 60)


async def _until_ready(place: netns.Joined) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(60):
        while True:
            with contextlib.suppress(aiohttp.ClientConnectorError):
                async with session.get(f"http://{place.inside}:15021/healthz/ready") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Mesh]:
    """Everything, with no policy in force."""
    number = os.getpid() % 64
    root = shapes.self_signed_root("cluster.local", utc_now(), ROOT_LIFETIME)
    authority = Authority(Roots((root.certificate,), root=root))
    maps = {type_url: ResourceMap(type_url) for type_url in resources.TYPES}
    with netns.joined(f"tk-waypoint{number}", f"169.254.{100 + number}.0") as place:
        mesh = Mesh(
            place,
            Workloads(authority, folder, minting.Authority(root.certificate, root.key)),
            maps,
            folder / "waypoint.log",
        )
        mesh.publish(mesh.view())
        async with (
            backends(place.host),
            istiod(mesh, authority) as port,
            waypoint(place, port, folder),
            mesh.endpoint.serving(place.host, 15008),
        ):
            yield mesh
