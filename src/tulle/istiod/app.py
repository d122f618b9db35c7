"""istiod as a whole: what is made of what, what starts after what, and how it stops.

Starting: follow every object, read the mesh configuration, compute the mesh, and only then listen; a proxy that reconnects to a restarted
istiod is thus never told a half of it. Stopping: not ready any more, the Lease given back, streams ended, so that proxies and the next
leader go on elsewhere at once. Nothing is kept in this process that is not in the API server; killing it loses nothing.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import structlog

from tulle.istiod import debug_pages
from tulle.istiod.access import Access
from tulle.istiod.addresses import AddressAllocator
from tulle.istiod.ca.authority import Authority
from tulle.istiod.ca.callers import Authenticator, TokenReviewer
from tulle.istiod.ca.config_map_publisher import ROOT, ConfigMapPublisher
from tulle.istiod.ca.impersonation import PodIndex
from tulle.istiod.ca.plugged import PluggedCa, secret_informer
from tulle.istiod.ca.revocations import RevocationPublisher
from tulle.istiod.ca.service import CertificateService
from tulle.istiod.ca.store import load_authority
from tulle.istiod.debug import Debug, syncz
from tulle.istiod.gateway_objects import WaypointImage
from tulle.istiod.gateways import GatewayController
from tulle.istiod.http import HttpServer
from tulle.istiod.index.mesh import MeshIndex
from tulle.istiod.index.state import Delta
from tulle.istiod.informers import Informers
from tulle.istiod.inspection import Inspection, control_plane
from tulle.istiod.jwks.fetch import Fetcher, Issuer
from tulle.istiod.jwks.guard import Guard
from tulle.istiod.jwks.store import KeyStore
from tulle.istiod.leader import LeaderElection
from tulle.istiod.metrics import Metrics
from tulle.istiod.publish import Publisher
from tulle.istiod.server import IstiodServer, RotatingCertificate, serving_names
from tulle.istiod.settings import Settings
from tulle.istiod.source import MeshSource
from tulle.istiod.status import StatusWriter
from tulle.istiod.waypoint_keys import TokenKeys
from tulle.istiod.waypoint_source import WaypointSource
from tulle.istiod.webhook import CaBundle, Webhook
from tulle.kube.client import Client
from tulle.kube.errors import ApiError
from tulle.xds.delta import Rejection, TypeState
from tulle.xds.server import ClientNode, Connection

T = TypeVar("T")
log = structlog.get_logger("tulle.istiod")

_FIRST_DELAY = 0.05
_LONGEST_DELAY = 5.0
_LEASE = "istiod-leader"
_STOP_GRACE = 1.0


class Istiod:
    """One istiod. `run` until told to stop; `ports` are known once it is ready."""

    def __init__(self, client: Client, settings: Settings) -> None:
        self.index = MeshIndex()
        self.metrics = Metrics()
        self.ports: dict[str, int] = {}
        self.ready = asyncio.Event()
        self._client = client
        self._settings = settings
        self._server: IstiodServer | None = None
        self._restart = asyncio.Event()
        self._election = LeaderElection(client, _LEASE, settings.namespace, settings.pod_name)
        self._keys = KeyStore(self._fetch_keys, self._keys_changed)
        waypoints = WaypointSource(self.index, TokenKeys(self._keys.keys, self._keys.want))
        self.publisher = Publisher(self.index, waypoints, self._readers)
        self._on_delta: list[Callable[[Delta], None]] = [self.publisher.publish]
        self._inspection = Inspection(settings.namespace, lambda: self.connections)
        self._informers: Informers | None = None
        pages = {
            "/debug/syncz": lambda query: syncz(self.connections, query.get("namespace", "")),
            **debug_pages.pages(self.index, self._inspection, lambda: self._informers),
        }
        self._http = HttpServer(self.metrics, self._pending, Debug(pages))
        self._trusted = frozenset({(settings.namespace, "ztunnel")})

    @property
    def connections(self) -> Iterable[Connection]:
        """The streams that proxies have open to this istiod."""
        return self._server.ads.connections if self._server is not None else ()

    def _readers(self) -> Iterable[TypeState]:
        states = (connection.state for connection in self.connections)
        return (one for state in states if state is not None for one in state.states)

    async def _fetch_keys(self, issuer: Issuer, timeout: float) -> str:
        return await Fetcher(Guard(self.index.settings.jwks_allowed)).fetch(issuer, timeout)

    def _keys_changed(self, issuer: Issuer) -> None:
        self.publisher.waypoints.keys_changed(issuer)

    def _pending(self) -> Iterable[str]:
        return () if self.ready.is_set() else ("the first state of the mesh",)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set. Raises what ends a part of istiod; then the whole is to be started anew."""
        self.metrics.observe(lambda: len(tuple(self.connections)))
        main = asyncio.ensure_future(self._main())
        stopping = [asyncio.ensure_future(event.wait()) for event in (stop, self._restart)]
        try:
            await asyncio.wait((main, *stopping), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.ready.clear()
            for task in (main, *stopping):
                task.cancel()
            await asyncio.wait((main, *stopping))
            await self._keys.close()
            await self._http.stop()
        if not main.cancelled():
            main.result()

    async def _main(self) -> None:
        settings = self._settings
        http = await self._http.start(settings.listen, settings.http_port, settings.metrics_port)
        self.ports.update(zip(("http", "metrics"), http, strict=True))
        informers = await _persistently("discovery", lambda: Informers.create(self._client, settings))
        self._informers = informers
        source = MeshSource(informers, self.index, settings.domain, self._changed)
        status = StatusWriter(self._client, informers, self.index)
        self._on_delta.append(status.on_delta)
        async with asyncio.TaskGroup() as group:
            group.create_task(informers.run())
            with _collector_paused():
                await source.start()
            group.create_task(source.run())
            await self._serve(group, informers, status)

    async def _serve(self, group: asyncio.TaskGroup, informers: Informers, status: StatusWriter) -> None:
        settings, trust_domain = self._settings, self.index.settings.trust_domain
        names = serving_names(settings.namespace, settings.service)
        authority = await _persistently(
            "certificate authority",
            lambda: load_authority(self._client, organization=trust_domain, namespace=settings.namespace),
        )
        self.metrics.authority(authority.expiry)
        webhook = Webhook(self.index, lambda: authority.serving(names))
        certificate = RotatingCertificate(authority, names)
        server = self._make_server(authority, certificate, informers)
        gateways = GatewayController(self._client, informers, settings.domain, self._waypoint_image())
        bundle = CaBundle(self._client, authority.root_pem, settings.service, settings.namespace)
        roots = ConfigMapPublisher(self._client, informers.namespaces, ROOT, authority.root_pem)

        def another_root() -> None:
            certificate.replace()
            webhook.renew()
            bundle.republish(authority.root_pem)
            roots.republish(authority.root_pem)

        secret = secret_informer(self._client, settings.namespace)
        revocations = RevocationPublisher(self._client, informers.namespaces, secret)
        allocator = AddressAllocator(self._client, informers.service_entries)
        PluggedCa(secret, authority, another_root)
        self.ports["webhook"] = await webhook.start(settings.listen, settings.webhook_port)
        self._on_delta.append(lambda delta: self._settings_changed(delta, trust_domain))

        async def lead() -> None:
            try:
                async with asyncio.TaskGroup() as leading:
                    for work in (
                        gateways,
                        status,
                        bundle,
                        roots,
                        roots.config_maps,
                        revocations,
                        revocations.config_maps,
                        allocator,
                    ):
                        leading.create_task(work.run())
            finally:
                self._stand_by()

        self.metrics.leading.set_function(lambda: float(self._election.leading))
        try:
            async with asyncio.TaskGroup() as serving:
                for work in (self.publisher.run(), webhook.run(), secret.run(), self._election.run(lead)):
                    serving.create_task(work)
                # Proxies have the issuers' keys from before; until each issuer was asked they would be told that there are none.
                await self._keys.tried()
                await self._election.decided.wait()
                xds = f"{settings.listen}:{settings.xds_port}"
                listening = await server.start(xds, plaintext_port=settings.plaintext_port)
                self.ports.update(xds=listening.port, plaintext=listening.plaintext)
                self._server = server
                self._started()
        finally:
            self._server = None
            await server.stop(_STOP_GRACE)
            await webhook.stop()

    def _started(self) -> None:
        log.info("serving", ports=self.ports, workloads=len(self.index.workloads), services=len(self.index.services))
        # What was built so far lives as long as the process: the collector need not walk through it again and again.
        gc.collect()
        gc.freeze()
        self.ready.set()

    def _stand_by(self) -> None:
        """Send proxies to the replica that leads, if it matters to whom they are connected (`tulle.istiod.access`)."""
        if self.index.settings.lift_selector_policies:
            for connection in self.connections:
                connection.end()

    def _make_server(
        self, authority: Authority, certificate: RotatingCertificate, informers: Informers
    ) -> IstiodServer:
        trust_domain = self.index.settings.trust_domain
        pods = PodIndex()
        informers.pods.on_change(pods.changed)
        authenticator = Authenticator(TokenReviewer(self._client, trust_domain).review, trust_domain)
        certificates = CertificateService(
            authority,
            authenticator,
            pods,
            trusted=self._trusted,
            on_result=self.metrics.certificate,
        )
        access = Access(self.index, self.publisher, self._trusted, self._inspection, lambda: self._election.leading)
        return IstiodServer(
            certificate,
            authenticator,
            certificates,
            access,
            on_rejection=self._rejected,
            on_answer=self.publisher.answered,
            on_push=self.metrics.pushed,
            control_plane=control_plane(self._settings.pod_name),
            namespace=self._settings.namespace,
        )

    def _waypoint_image(self) -> WaypointImage:
        settings = self._settings
        istiod = f"{settings.hostname}:15012"
        return WaypointImage(settings.waypoint_image, istiod, self.index.settings.trust_domain)

    def _rejected(self, node: ClientNode, rejection: Rejection) -> None:
        self.metrics.rejected(rejection.type_url)
        gateway = node.metadata.get("GATEWAY_NAME")
        if gateway:
            log.error(
                "a waypoint cannot use a part of its configuration",
                waypoint=f"{node.metadata.get('NAMESPACE')}/{gateway}",
                pod=node.metadata.get("NAME"),
                resources=list(rejection.names),
                reason=rejection.message,
                consequence="the waypoint goes on with what it had",
            )

    def _changed(self, delta: Delta) -> None:
        started = time.perf_counter()
        for handler in self._on_delta:
            handler(delta)
        self.metrics.flushes.observe(time.perf_counter() - started)
        for kind, table in (("workload", self.index.workloads), ("service", self.index.services)):
            self.metrics.objects.labels(kind).set(len(table))
        self.metrics.services.set(len(self.index.services))

    def _settings_changed(self, delta: Delta, trust_domain: str) -> None:
        """Everything but the trust domain takes effect at once; every identity hangs on that one, so it takes a new start."""
        if delta.settings and not self._election.leading:
            self._stand_by()
        if delta.settings and self.index.settings.trust_domain != trust_domain:
            log.warning("trust domain changed: starting anew", old=trust_domain, new=self.index.settings.trust_domain)
            self._restart.set()


@contextmanager
def _collector_paused() -> Iterator[None]:
    """While the first state of the mesh is built nearly everything that is made stays: looking for garbage again and again in what grows
    would take a fifth of the start.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def _persistently(what: str, attempt: Callable[[], Awaitable[T]]) -> T:
    """Try until the API server answers, with back-off: it may start after istiod, and it may be restarted meanwhile."""
    delay = _FIRST_DELAY
    while True:
        try:
            return await attempt()
        except ApiError as error:
            log.warning("trying again", what=what, seconds=delay, error=str(error))
        await asyncio.sleep(delay)
        delay = min(delay * 2, _LONGEST_DELAY)
