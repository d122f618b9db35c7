"""The kubelet's server: routes, TLS, and who may come in."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from tulle.cluster.node.pods.manager import PodManager
from tulle.cluster.node.pods.node import Node
from tulle.cluster.node.pods.runs import Run
from tulle.cluster.node.server.logs import LogHandler
from tulle.cluster.node.server.stats import summary
from tulle.cluster.node.server.streams import StreamHandler
from tulle.cluster.node.server.tunnel import PortForwardHandler

API_SERVER = "kube-apiserver-kubelet-client"


def tls(pki: Path, node: str) -> ssl.SSLContext:
    """The node's certificate; a client has to have one of the cluster's CA. Raises OSError, ssl.SSLError."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pki / "ca.crt"))
    context.load_cert_chain(pki / f"node-{node}.crt", pki / f"node-{node}.key")
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def common_name(certificate: dict[str, Any] | None) -> str:
    """The CN of a peer certificate as `ssl` gives it."""
    subject = (certificate or {}).get("subject", ())
    return next((value for part in subject for key, value in part if key == "commonName"), "")


@web.middleware
async def only_api_server(request: web.Request, handler: Any) -> web.StreamResponse:
    """Every certificate of the CA could open the connection; only the API server's may ask for anything."""
    assert request.transport is not None
    name = common_name(request.transport.get_extra_info("peercert"))
    if name != API_SERVER:
        raise web.HTTPForbidden(
            text=f"client certificate of {name!r} may not use the kubelet API; only {API_SERVER} may"
        )
    response: web.StreamResponse = await handler(request)
    return response


class KubeletServer:
    """Listens on the node's address."""

    def __init__(self, node: Node, manager: PodManager, port: int) -> None:
        self._node = node
        self._manager = manager
        self._port = port

    async def run(self) -> None:
        """Serve until cancelled."""
        # a client that goes away ends its handler: a followed log must not be followed for nobody
        runner = web.AppRunner(self._app(), handler_cancellation=True, shutdown_timeout=1.0, access_log=None)
        await runner.setup()
        try:
            site = web.TCPSite(
                runner, self._node.ip, self._port, ssl_context=tls(self._node.paths.pki, self._node.name)
            )
            await site.start()
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[only_api_server])
        streams, forward = StreamHandler(self._node, self._manager), PortForwardHandler(self._manager)
        logs = LogHandler(self._manager, self._log_path)
        target = "{namespace}/{pod}/{container}"
        app.add_routes(
            [
                web.get("/healthz", self._healthz),
                web.get("/pods", self._pods),
                web.get("/stats/summary", self._stats),
                web.get(f"/containerLogs/{target}", logs.get),
                web.get(f"/exec/{target}", streams.exec),
                web.get(f"/attach/{target}", streams.attach),
                web.get("/portForward/{namespace}/{pod}", forward.get),
            ]
        )
        return app

    def _log_path(self, run: Run, namespace: str, pod: str, uid: str) -> Path:
        return self._node.paths.pod_logs(namespace, pod, uid) / run.name / f"{run.attempt}.log"

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _pods(self, _request: web.Request) -> web.Response:
        document = {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": self._manager.documents()}
        return web.Response(body=msgspec.json.encode(document), content_type="application/json")

    async def _stats(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=msgspec.json.encode(summary(self._node, self._manager)), content_type="application/json"
        )
