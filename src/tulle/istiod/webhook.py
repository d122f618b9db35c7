"""The validating webhook: HTTPS on 15017, and the CA bundle by which the API server knows it.

Its certificate is issued by this istiod's own authority and kept in memory only. Whoever edits the bundle in the
ValidatingWebhookConfiguration gets it back, because with a wrong one no policy could be written.
"""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import msgspec
import structlog
from aiohttp import web

from tulle.istiod.admission_review import ReviewError, review
from tulle.istiod.ca.authority import AuthorityError, ServingCertificate, utc_now
from tulle.istiod.index.mesh import MeshIndex
from tulle.kube.client import Client
from tulle.kube.errors import NotFound
from tulle.kube.informer import Change, Informer
from tulle.kube.queue import WorkQueue
from tulle.kube.resources import VALIDATING_WEBHOOKS

log = structlog.get_logger("tulle.istiod.webhook")

CONFIGURATION = "istiod-default-validator"
_MAX_BODY = 4 << 20
"""Bytes of a review; the API server's own limit for an object is 3 MiB."""
_SOONEST_RENEWAL = 60.0


class Webhook:
    """Answers `/validate` for the mesh as `index` has it. `issue` makes the serving certificate."""

    def __init__(self, index: MeshIndex, issue: Callable[[], ServingCertificate]) -> None:
        self._index = index
        self._issue = issue
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._runner: web.AppRunner | None = None
        self._refresh_at = utc_now()

    async def start(self, address: str, port: int) -> int:
        """Listen; returns the port (0 picks one)."""
        self.renew()
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_post("/validate", self._validate)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)
        await self._runner.setup()
        site = web.TCPSite(self._runner, address, port, ssl_context=self._context)
        await site.start()
        bound: int = self._runner.addresses[0][1]
        return bound

    async def stop(self) -> None:
        """Stop listening; answers under way are finished."""
        if self._runner is not None:
            await self._runner.cleanup()

    def renew(self) -> None:
        """Serve with a new certificate from now on. Raises AuthorityError."""
        certificate = self._issue()
        _load(self._context, certificate)
        self._refresh_at = certificate.refresh_at

    async def run(self) -> None:
        """Renew the certificate when its time comes, until cancelled."""
        while True:
            left = (self._refresh_at - utc_now()).total_seconds()
            await asyncio.sleep(max(left, _SOONEST_RENEWAL))
            try:
                self.renew()
            except AuthorityError as error:
                log.error("webhook certificate not renewed", reason=str(error))

    async def _validate(self, request: web.Request) -> web.Response:
        try:
            answer = review(msgspec.json.decode(await request.read()), self._index)
        except (msgspec.DecodeError, ReviewError) as error:
            return web.Response(status=400, text=f"{error}\n")
        return web.Response(body=msgspec.json.encode(answer), content_type="application/json")


def _load(context: ssl.SSLContext, certificate: ServingCertificate) -> None:
    """OpenSSL reads certificates from files only; these are files that never reach a disk."""
    with _memory_file(certificate.chain) as chain, _memory_file(certificate.key) as key:
        context.load_cert_chain(chain, key)


@contextmanager
def _memory_file(data: bytes) -> Iterator[str]:
    descriptor = os.memfd_create("certificate")
    try:
        os.write(descriptor, data)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def _bundle(root_pem: str) -> str:
    return base64.b64encode(root_pem.encode()).decode()


class CaBundle:
    """Keeps `caBundle` right in the webhooks that point to this istiod."""

    def __init__(self, client: Client, root_pem: str, service: str, namespace: str) -> None:
        self._client = client
        self._bundle = _bundle(root_pem)
        self._service = {"name": service, "namespace": namespace}
        self._queue: WorkQueue[str] = WorkQueue()
        self._informer = Informer(client, VALIDATING_WEBHOOKS, field_selector=f"metadata.name={CONFIGURATION}")
        self._informer.on_change(self._changed)

    def _changed(self, change: Change[dict[str, Any]]) -> None:
        self._queue.add(change.key[1])

    def republish(self, root_pem: str) -> None:
        """There is another root: write it."""
        self._bundle = _bundle(root_pem)
        for _, name in self._informer.store:
            self._queue.add(name)

    async def run(self) -> None:
        """Watch and repair until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._informer.run())
            group.create_task(self._queue.work(self._reconcile))

    async def _reconcile(self, name: str) -> None:
        found = self._informer.store.get(("", name))
        patch = self._patch(found) if found else []
        if not found or not patch:
            return
        unchanged = {"op": "test", "path": "/metadata/resourceVersion", "value": found["metadata"]["resourceVersion"]}
        try:
            await self._client.patch(VALIDATING_WEBHOOKS, name, [unchanged, *patch], kind="json")
        except NotFound:
            return
        log.info("CA bundle written", webhook_configuration=name)

    def _patch(self, found: Mapping[str, Any]) -> list[dict[str, Any]]:
        steps = []
        for position, webhook in enumerate(found.get("webhooks") or ()):
            client = webhook.get("clientConfig") or {}
            service = client.get("service") or {}
            mine = all(service.get(key) == value for key, value in self._service.items())
            if mine and client.get("caBundle") != self._bundle:
                path = f"/webhooks/{position}/clientConfig/caBundle"
                steps.append({"op": "add", "path": path, "value": self._bundle})
        return steps
