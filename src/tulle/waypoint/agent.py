"""The waypoint's agent: certificate, configuration and Envoy brought together.

Everything that Envoy is told goes through one local ADS server on a unix socket: istiod's types as they came, and the secrets made
here. Envoy starts at once and waits; without a certificate or a configuration it listens on nothing.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Mapping, Sequence

import grpc
import structlog
from envoy.config.core.v3 import base_pb2
from google.protobuf import struct_pb2

import tulle
from tulle.envoy.binary import find_envoy
from tulle.envoy.bootstrap import NodeInfo, UnixSocket, bootstrap
from tulle.envoy.ca_client import CaClient
from tulle.envoy.certificates import CertificateManager
from tulle.envoy.process import EnvoyOptions, EnvoyProcess, EnvoyState
from tulle.envoy.revocations import RevocationFile
from tulle.waypoint.readiness import Readiness
from tulle.waypoint.relay import Relay
from tulle.waypoint.settings import Settings
from tulle.xds import channels, types
from tulle.xds.client import AdsClient
from tulle.xds.delta import Rejection, TypeState
from tulle.xds.resources import ResourceMap
from tulle.xds.server import AdsServer, ClientNode

_log = structlog.get_logger("tulle.waypoint")

_FLUSH_SECONDS = 0.25
"""How long a line of the access log may wait: somebody who follows the log is looking at what just happened."""
_RUNTIME = {"envoy.reloadable_features.enable_send_rst_on_user_space_socket": False}
"""Inside the proxy a connection ends by its end and never by a reset, which would overtake the bytes before it: an application that
answers and closes at once would not be heard."""


class Waypoint:
    """One waypoint proxy, from its settings to a serving Envoy."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._relay = Relay(self._readers, ask_again=self._ask_again)
        ca = CaClient(settings.ca, settings.root_cert_path, settings.token_path, cluster_id=settings.cluster_id)
        self._certificates = CertificateManager(ca, impersonate=False)
        self._certificates.want(settings.identity)
        self._revocations = RevocationFile(settings.crl_path, self._certificates.revoke)
        self._istiod = AdsClient(
            channels.tls(settings.xds, settings.root_cert_path),
            _node(settings),
            self._relay.subscriptions(),
            metadata=self._token,
            on_begin=self._certificates.authority_answers,
        )
        self._socket = UnixSocket(str(settings.run_dir / "xds.sock"))
        self._local = AdsServer(self._source, on_rejection=_refused_by_envoy, on_answer=self._relay.answered)
        admin = UnixSocket(str(settings.run_dir / "admin.sock"))
        self._envoy = EnvoyProcess(
            find_envoy(),
            bootstrap(
                NodeInfo(id=settings.node_id, cluster=f"{settings.gateway}.{settings.namespace}"),
                xds=self._socket,
                admin=admin,
                runtime=_RUNTIME,
            ),
            run_dir=settings.run_dir,
            admin=admin,
            options=EnvoyOptions(stop_grace=settings.drain_seconds + 1, flush_seconds=_FLUSH_SECONDS),
            on_log=_forward,
            on_stdout=_pass_on,
            name="waypoint-envoy",
        )
        self._synced = False
        self._readiness = Readiness(self.pending)

    def _token(self) -> Sequence[tuple[str, str]]:
        return (
            ("authorization", f"Bearer {self._settings.token_path.read_text().strip()}"),
            ("clusterid", self._settings.cluster_id),
        )

    def _source(self, _node: ClientNode, type_url: str) -> ResourceMap | None:
        if type_url == types.SECRET:
            return self._certificates.secrets
        return self._relay.maps.get(type_url)

    def _readers(self) -> Iterable[Mapping[str, TypeState]]:
        streams = (connection.state for connection in self._local.connections)
        return [{state.type_url: state for state in stream.states} for stream in streams if stream is not None]

    def _ask_again(self, type_url: str, names: Iterable[str]) -> None:
        self._istiod.ask_again(type_url, names)

    def pending(self) -> tuple[str, ...]:
        """What is missing before traffic can be served."""
        certificate = self._certificates.state(self._settings.identity)
        waiting = {
            f"a certificate for {self._settings.identity}": certificate is None or certificate.status != "Available",
            f"the configuration from istiod at {self._settings.xds}": not self._synced,
            "Envoy": self._envoy.state is not EnvoyState.LIVE,
        }
        return tuple(what for what, missing in waiting.items() if missing)

    async def _await_configuration(self) -> None:
        await self._istiod.synced()
        self._synced = True
        _log.info("configuration received", istiod=self._settings.xds)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then drain: no new connections, open ones get the drain time to end."""
        self._settings.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        server = grpc.aio.server()
        self._local.add_to(server)
        server.add_insecure_port(f"unix:{self._socket.path}")
        await server.start()
        await self._envoy.start()
        await self._readiness.start()
        tasks = [
            asyncio.create_task(self._certificates.run(), name="certificates"),
            asyncio.create_task(self._revocations.run(), name="revocations"),
            asyncio.create_task(self._istiod.run(), name="istiod"),
            asyncio.create_task(self._await_configuration(), name="configuration"),
            asyncio.create_task(self._envoy.failed(), name="envoy"),
        ]
        try:
            await _until(stop, tasks)
            await self._drain()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._readiness.stop()
            await self._envoy.stop()
            await server.stop(None)

    async def _drain(self) -> None:
        _log.info("draining", seconds=self._settings.drain_seconds)
        if self._envoy.state is EnvoyState.LIVE:
            await self._envoy.admin.post("/drain_listeners?graceful&inboundonly")
        await asyncio.sleep(self._settings.drain_seconds)


async def _until(stop: asyncio.Event, tasks: Sequence[asyncio.Task[None]]) -> None:
    """Wait for `stop`; a task that fails before ends the waiting with its error."""
    stopping = asyncio.create_task(stop.wait(), name="stop")
    waiting: set[asyncio.Task[None] | asyncio.Task[bool]] = {stopping, *tasks}
    try:
        while not stopping.done():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        stopping.cancel()


def _node(settings: Settings) -> base_pb2.Node:
    metadata = struct_pb2.Struct()
    metadata.update(
        {
            "NAME": settings.pod,
            "NAMESPACE": settings.namespace,
            "INSTANCE_IPS": settings.address,
            "NODE_NAME": settings.node,
            "SERVICE_ACCOUNT": settings.service_account,
            "CLUSTER_ID": settings.cluster_id,
            "ISTIO_VERSION": tulle.__version__,
            "GATEWAY_NAME": settings.gateway,
        }
    )
    return base_pb2.Node(id=settings.node_id, cluster=f"{settings.gateway}.{settings.namespace}", metadata=metadata)


def _refused_by_envoy(_node: ClientNode, rejection: Rejection) -> None:
    _log.error("Envoy refused a configuration from istiod", rejection=str(rejection))


def _forward(line: str) -> None:
    """Envoy's own messages are the waypoint's log, line for line."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _pass_on(lines: list[bytes]) -> None:
    """So is its access log, as it comes: many lines at a time, and none of them read here."""
    sys.stdout.buffer.write(b"\n".join(lines) + b"\n")
    sys.stdout.buffer.flush()
