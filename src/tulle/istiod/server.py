"""istiod's gRPC server: configuration (ADS) and certificates, behind one TLS port.

What a client may have follows from who it proved to be. A node proxy's account may have what every node proxy has; any
other account only what belongs to it. That decision is the source's, which gets the proved ``Peer``; this module
proves it, by service account token on the main port, or by a certificate of this mesh on the mutual one.
(gRPC for Python can either require client certificates on a port or not ask for them, hence two ports.)

A third port is for people: plain text, on the loopback address only, where `kubectl port-forward` ends. Whoever may forward ports into the
mesh's namespace may look at every proxy, as on the HTTP pages, and is nobody who gets configuration or certificates.

The serving certificate comes from this istiod's own authority and is replaced while the server runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import grpc
import structlog

from tulle.istiod.ca.authority import Authority, AuthorityError, ServingCertificate, utc_now
from tulle.istiod.ca.callers import Authenticator, Caller, NotAuthenticated
from tulle.istiod.ca.service import CertificateService
from tulle.xds.delta import Rejection
from tulle.xds.server import SERVER_OPTIONS, AdsServer, ClientNode, Peer, Source
from tulle.xds.subscription import CONTROL_PLANE

_log = structlog.get_logger(__name__)

DEFAULT_PORT: Final = 15012
_RENEWAL_CHECK: Final = 60.0  # seconds; short against any lifetime, and the wall clock may be set meanwhile

_PLAINTEXT: Final = [b"insecure"]

#: Attributes of a ``Peer`` here.
NAMESPACE: Final = "namespace"
SERVICE_ACCOUNT: Final = "service_account"
POD_NAME: Final = "pod_name"
POD_UID: Final = "pod_uid"
NODE: Final = "node"


def serving_names(
    namespace: str = "istio-system", service: str = "istiod", extra: Sequence[str] = ()
) -> tuple[str, ...]:
    """The names under which clients reach istiod."""
    base = f"{service}.{namespace}"
    return (f"{base}.svc", f"{base}.svc.cluster.local", base, service, "localhost", "127.0.0.1", *extra)


def peer_of(caller: Caller) -> Peer:
    """A proved caller in the terms of the ADS server."""
    identity = caller.identity
    return Peer(
        identity.spiffe,
        {
            NAMESPACE: identity.namespace,
            SERVICE_ACCOUNT: identity.service_account,
            POD_NAME: caller.pod_name,
            POD_UID: caller.pod_uid,
            NODE: caller.node,
        },
    )


class RotatingCertificate:
    """The serving certificate, replaced at half of its life. New connections get the new one, open ones stay."""

    def __init__(self, authority: Authority, names: Sequence[str], *, clock: Callable[[], datetime] = utc_now) -> None:
        self._authority = authority
        self._names = names
        self._clock = clock
        self._current = authority.serving(names)

    def renew(self) -> None:
        """Replace the certificate if it is time. Raises AuthorityError; the old one is kept then."""
        if self._clock() >= self._current.refresh_at:
            self.replace()
            _log.info("serving_certificate_renewed", names=list(self._names))

    def replace(self) -> None:
        """Replace the certificate now: the authority is another. Raises AuthorityError."""
        self._current = self._authority.serving(self._names)

    async def run(self) -> None:
        """Renew in time until cancelled."""
        while True:
            await asyncio.sleep(_RENEWAL_CHECK)
            try:
                self.renew()
            except AuthorityError as error:
                _log.error("serving_certificate_not_renewed", reason=str(error))

    def credentials(self, *, mutual: bool) -> grpc.ServerCredentials:
        """Credentials of a port; ``mutual`` requires a client certificate of this mesh."""
        served = self._current

        def configuration(certificate: ServingCertificate) -> grpc.ServerCertificateConfiguration:
            roots = self._authority.root_pem.encode() if mutual else None
            return grpc.ssl_server_certificate_configuration([(certificate.key, certificate.chain)], roots)

        def fetch() -> grpc.ServerCertificateConfiguration | None:
            # Called by gRPC at each handshake, from threads of its own, so this only reads; None means "as before".
            nonlocal served
            latest = self._current
            if latest is served:
                return None
            served = latest
            return configuration(latest)

        return grpc.dynamic_ssl_server_credentials(configuration(served), fetch, mutual)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Listening:
    """The ports a server got (0: there is none)."""

    port: int
    mutual: int
    plaintext: int


class IstiodServer:
    """ADS and the certificate service on TLS ports.

    ``source`` gets a ``ClientNode`` whose peer is proved; it raises ``AccessDenied`` for what the peer may not have.
    """

    def __init__(
        self,
        certificate: RotatingCertificate,
        authenticator: Authenticator,
        certificates: CertificateService,
        source: Source,
        *,
        on_rejection: Callable[[ClientNode, Rejection], None] | None = None,
        on_answer: Callable[[], None] | None = None,
        on_push: Callable[[str], None] | None = None,
        control_plane: str = CONTROL_PLANE,
        namespace: str = "istio-system",
    ) -> None:
        self._certificate = certificate
        self._authenticator = authenticator
        self.ads = AdsServer(source, self._authenticate, on_rejection, on_answer, control_plane, on_push=on_push)
        self._certificates = certificates
        self._namespace = namespace
        self._server: grpc.aio.Server | None = None
        self._renewal: asyncio.Future[None] | None = None

    async def start(
        self, address: str = f"0.0.0.0:{DEFAULT_PORT}", mutual_address: str = "", plaintext_port: int | None = None
    ) -> Listening:
        """Listen on ``address`` (tokens) and, if given, on ``mutual_address`` (certificates) and the loopback's
        ``plaintext_port``; port 0 picks one.
        """
        server = grpc.aio.server(options=SERVER_OPTIONS)
        server.add_generic_rpc_handlers((self.ads.handler(), self._certificates.handler()))
        port = server.add_secure_port(address, self._certificate.credentials(mutual=False))
        mutual = 0
        if mutual_address:
            mutual = server.add_secure_port(mutual_address, self._certificate.credentials(mutual=True))
        plaintext = 0 if plaintext_port is None else server.add_insecure_port(f"127.0.0.1:{plaintext_port}")
        await server.start()
        self._server = server
        self._renewal = asyncio.ensure_future(self._certificate.run())
        return Listening(port, mutual, plaintext)

    async def stop(self, grace: float = 1.0) -> None:
        """Stop listening; streams end after ``grace`` seconds and their clients go elsewhere."""
        if self._renewal is not None:
            self._renewal.cancel()
            await asyncio.wait((self._renewal,))
            self._renewal = None
        if self._server is not None:
            await self._server.stop(grace)
            self._server = None

    async def _authenticate(self, context: grpc.aio.ServicerContext[Any, Any]) -> Peer:
        if context.auth_context().get("transport_security_type") == _PLAINTEXT:
            # Only the port on the loopback address is without TLS.
            return Peer("", {NAMESPACE: self._namespace})
        try:
            return peer_of(await self._authenticator.caller(context))
        except NotAuthenticated as error:
            _log.warning("xds_unauthenticated", address=context.peer(), reason=str(error))
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "authentication failure")
