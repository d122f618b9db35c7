"""The HTTPS server: authenticates, authorises and dispatches requests, and turns refusals into Status objects."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog
from aiohttp import web

from tulle.cluster import pki as pki_module
from tulle.cluster.apiserver import discovery, errors
from tulle.cluster.apiserver.auth.authenticate import Authenticator
from tulle.cluster.apiserver.auth.impersonate import impersonated
from tulle.cluster.apiserver.auth.rbac import Rbac, require
from tulle.cluster.apiserver.auth.reviews import Reviews
from tulle.cluster.apiserver.auth.rules import Attributes
from tulle.cluster.apiserver.auth.token_request import TokenIssuer
from tulle.cluster.apiserver.auth.tokens import ISSUER, TokenSigner
from tulle.cluster.apiserver.auth.users import ANONYMOUS, User
from tulle.cluster.apiserver.bootstrap import Bootstrap
from tulle.cluster.apiserver.crds import CustomKinds
from tulle.cluster.apiserver.expiry import EventExpiry
from tulle.cluster.apiserver.kubelet import KubeletProxy
from tulle.cluster.apiserver.openapi import OpenApi
from tulle.cluster.apiserver.registry import Registry
from tulle.cluster.apiserver.request import RequestInfo, parse
from tulle.cluster.apiserver.rest.body import LIMIT
from tulle.cluster.apiserver.rest.call import options_of
from tulle.cluster.apiserver.rest.dispatch import Dispatcher
from tulle.cluster.apiserver.rest.subresources import Subresources
from tulle.cluster.apiserver.rest.writer import Writer
from tulle.cluster.apiserver.strategy.allocation import Allocator
from tulle.cluster.apiserver.strategy.strategy import KindStrategy
from tulle.cluster.apiserver.strategy.webhooks import Webhooks
from tulle.cluster.store import Store

Object = dict[str, Any]
SERVICE_NETWORK = "10.96.0.0/16"
_PUBLIC = (
    "/healthz",
    "/livez",
    "/readyz",
    "/version",
    "/version/",
    "/openid/v1/jwks",
    "/.well-known/openid-configuration",
)
_STREAMS = ("attach", "exec", "portforward")
_HEALTH = ("/healthz", "/livez", "/readyz")
_FOREVER = {"Cache-Control": "public, immutable", "Expires": "Fri, 31 Dec 9999 23:59:59 GMT"}
_log = structlog.get_logger("apiserver")


class ApiServer:
    """One API server over the state directory `state_dir`. Make it on a running loop; `start` serves, `stop` ends."""

    def __init__(self, state_dir: Path, pki: pki_module.Pki) -> None:
        self.pki = pki
        self.registry = Registry()
        self.store = Store(state_dir / "store.db", self.registry.fields_of)
        signer = TokenSigner(pki.service_account_key)
        self.signer = signer
        self.authenticator = Authenticator(self.store, signer)
        self.rbac = Rbac(self.store)
        self.webhooks = Webhooks(self.store)
        allocator = Allocator(self.store, SERVICE_NETWORK)
        strategy = KindStrategy(self.store, self.registry, allocator, self.webhooks, self.rbac)
        self.writer = Writer(self.store, strategy)
        self.custom = CustomKinds(self.store, self.registry, self.writer)
        self.proxy = KubeletProxy(self.store, pki)
        self.openapi = OpenApi(self.registry)
        reviews = Reviews(self.authenticator, self.rbac)
        subresources = Subresources(self.writer, TokenIssuer(self.store, signer), self.proxy)
        self.dispatcher = Dispatcher(self.registry, self.writer, subresources, reviews.review, self.rbac)
        self._runner: web.ServerRunner | None = None
        self._address = ""
        self._ready = False

    async def start(self, addresses: Sequence[tuple[str, int]], endpoint: tuple[str, int] | None = None) -> None:
        """Serve HTTPS on `addresses`; `endpoint` is what the `kubernetes` Service leads to (None: the last address)."""
        server = web.Server(self._handle, handler_cancellation=True, access_log=None)
        server.request_factory = _request_factory
        self._runner = web.ServerRunner(server, shutdown_timeout=2.0)
        await self._runner.setup()
        for host, port in addresses:
            await web.TCPSite(self._runner, host, port, ssl_context=self._tls()).start()
        self._address = f"{addresses[0][0]}:{addresses[0][1]}"
        await self.custom.start()
        await Bootstrap(self.store, self.registry, self.writer).run(endpoint or addresses[-1])
        self._ready = True

    def _tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(self.pki.certificate("apiserver"), self.pki.key("apiserver"))
        context.load_verify_locations(str(self.pki.ca))
        context.verify_mode = ssl.CERT_OPTIONAL
        context.set_alpn_protocols(["http/1.1"])
        return context

    async def stop(self) -> None:
        """Stop serving and close the store."""
        self._ready = False
        await self.custom.stop()
        self.store.interrupt()
        if self._runner is not None:
            await self._runner.cleanup()
        await self.store.close()
        await self.webhooks.close()
        await self.proxy.close()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await self._answer(request)
        except errors.StatusError as error:
            return _status(error)
        except RecursionError:
            return _status(errors.bad_request("the request is nested too deeply: no object needs so many levels"))

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        user = self._user(request)
        info = parse(request.method, request.path, request.query)
        if (
            user is ANONYMOUS
            and request.path not in _PUBLIC
            and not request.path.startswith(tuple(f"{h}/" for h in _HEALTH))
        ):
            raise errors.unauthorized()
        user = impersonated(user, request.headers, self.rbac)
        if not info.is_resource:
            self._authorize_path(user, info)
            return self._document(request, info)
        self._authorize(user, info)
        kind = self.registry.find(info.group, info.version, info.resource)
        # A namespace is authorised within itself; within another one, what is allowed there would do for it.
        itself = info.resource == "namespaces" and not info.group and info.namespace == info.name
        if kind is None or (info.namespace and not kind.namespaced and not itself):
            raise errors.no_such_path()
        return await self.dispatcher.handle(request, info, kind, options_of(request, user))

    def _user(self, request: web.BaseRequest) -> User:
        transport = request.transport
        certificate: Mapping[str, Any] | None = transport.get_extra_info("peercert") if transport else None
        return self.authenticator.authenticate(certificate, request.headers.get("Authorization", ""))

    def _authorize(self, user: User, info: RequestInfo) -> None:
        # A stream is opened with GET but does what POST does: both must be allowed.
        verbs = [info.verb, "create"] if info.subresource in _STREAMS and info.verb == "get" else [info.verb]
        for verb in verbs:
            what = (info.group, info.version, info.resource, info.subresource, info.name, info.namespace)
            require(self.rbac, user, Attributes(verb, *what))

    def _authorize_path(self, user: User, info: RequestInfo) -> None:
        if info.path in _PUBLIC or info.path.startswith(_HEALTH):
            return
        if not self.rbac.decide(user, Attributes(info.verb, path=info.path)).allowed:
            raise errors.forbidden_path(user.name, info.verb, info.path)

    def _document(self, request: web.BaseRequest, info: RequestInfo) -> web.StreamResponse:
        if info.verb not in ("get", "head"):
            raise errors.no_such_path()
        path = info.path
        if path.startswith(_HEALTH):
            return web.Response(text="ok") if self._ready else web.Response(text="starting", status=500)
        if path.startswith("/openapi/v3/"):
            return self._openapi(request, path.removeprefix("/openapi/v3/").rstrip("/"))
        return _json(self._plain_document(request, path), request)

    def _plain_document(self, request: web.BaseRequest, path: str) -> Any:
        parts = [part for part in path.split("/") if part]
        match parts:
            case ["version"]:
                return discovery.version()
            case ["openapi", "v3"]:
                return self.openapi.index()
            case ["openid", "v1", "jwks"]:
                return self.signer.key_set()
            case [".well-known", "openid-configuration"]:
                return _openid(self._address)
            case ["api" | "apis"] if (wanted := _aggregated(request)) is not None:
                return discovery.aggregated(self.registry, wanted, core=parts == ["api"])
            case ["api"]:
                return discovery.core_versions(self._address)
            case ["apis"]:
                return discovery.group_list(self.registry)
            case ["apis", group]:
                return discovery.group(self.registry, group)
            case ["api", version]:
                return discovery.resource_list(self.registry, "", version)
            case ["apis", group, version]:
                return discovery.resource_list(self.registry, group, version)
            case []:
                return {"paths": ["/api", "/apis", "/healthz", "/livez", "/openapi/v3", "/readyz", "/version"]}
        raise errors.no_such_path()

    def _openapi(self, request: web.BaseRequest, path: str) -> web.Response:
        body, digest = self.openapi.document(path)
        wanted = request.query.get("hash")
        if wanted and wanted != digest:
            return web.Response(status=301, headers={"Location": f"/openapi/v3/{path}?hash={digest}"})
        headers = {"ETag": f'"{digest}"', "Vary": "Accept"}
        if wanted:
            headers |= _FOREVER
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, content_type="application/json", headers=headers)


def _request_factory(*args: Any) -> web.BaseRequest:
    message, payload, protocol, writer, task = args
    return web.BaseRequest(message, payload, protocol, writer, task, asyncio.get_running_loop(), client_max_size=LIMIT)


def _aggregated(request: web.BaseRequest) -> str | None:
    """The aggregated discovery version that the client prefers, if it knows it at all."""
    for item in request.headers.get("Accept", "").split(","):
        parameters = dict(p.strip().split("=", 1) for p in item.split(";")[1:] if "=" in p)
        if parameters.get("as") == "APIGroupDiscoveryList" and parameters.get("v") in ("v2", "v2beta1"):
            return parameters["v"]
        if item.split(";")[0].strip() == "application/json" and "as" not in parameters:
            return None
    return None


def _openid(address: str) -> Object:
    return {
        "issuer": ISSUER,
        "jwks_uri": f"https://{address}/openid/v1/jwks",
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    }


def _json(body: Any, request: web.BaseRequest) -> web.Response:
    content_type = "application/json"
    wanted = _aggregated(request)
    if isinstance(body, dict) and body.get("kind") == "APIGroupDiscoveryList":
        content_type = f"application/json;g=apidiscovery.k8s.io;v={wanted};as=APIGroupDiscoveryList"
    answer = web.Response(body=msgspec.json.encode(body))
    answer.headers["Content-Type"] = content_type
    return answer


def _status(error: errors.StatusError) -> web.Response:
    body = msgspec.json.encode(error.body())
    return web.Response(body=body, status=error.code, content_type="application/json", headers=error.headers)


async def serve(
    state_dir: Path | str,
    host_port: int,
    extra_addresses: Sequence[str] = (),
    *,
    ready: asyncio.Event | None = None,
    names: Sequence[str] = (),
) -> None:
    """Serve until cancelled, on 127.0.0.1:`host_port` and on each of `extra_addresses` (IP addresses of this host).

    Makes the PKI under `<state_dir>/pki` if it is not there; `names` are further names of the server certificate. The last
    extra address is where the `kubernetes` Service leads. Raises OSError when an address cannot be bound.
    """
    url, extra = f"https://127.0.0.1:{host_port}", [*extra_addresses, *names]
    pki = await asyncio.to_thread(pki_module.create, state_dir, server=url, extra_addresses=extra)
    server = ApiServer(Path(state_dir), pki)
    # What was loaded stays; without this every full collection walks the schemas and the store again.
    gc.freeze()
    try:
        await server.start([(address, host_port) for address in ("127.0.0.1", *extra_addresses)])
        if ready is not None:
            ready.set()
        _log.info("serving", port=host_port, addresses=["127.0.0.1", *extra_addresses], revision=server.store.revision)
        await EventExpiry(server.store).run()
    finally:
        with contextlib.suppress(asyncio.CancelledError):
            await server.stop()
