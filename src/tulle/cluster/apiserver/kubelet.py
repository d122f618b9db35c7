"""The way to a pod's kubelet: logs are fetched, exec, attach and portforward are joined byte by byte.

The API server has authenticated and authorised the client before; the kubelet trusts the API server's own client
certificate. A websocket is not interpreted here: after the handshake both directions are copied as they come.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp
from aiohttp import web

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.rest.call import Call
from tulle.cluster.pki import KUBELET_CLIENT, Pki
from tulle.cluster.store import Key, Store

Object = dict[str, Any]
PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io", "SPDY/3.1+portforward.k8s.io")
_KUBELET_PORT = 10250
_CONNECT_SECONDS = 10.0
_REASONS = {400: "BadRequest", 404: "NotFound"}
_PATHS = {"exec": "exec", "attach": "attach", "portforward": "portForward"}
_PASSED = {
    "log": ("follow", "tailLines", "previous", "timestamps", "sinceSeconds", "sinceTime", "limitBytes"),
    "exec": ("command", "stdin", "stdout", "stderr", "tty"),
    "attach": ("stdin", "stdout", "stderr", "tty"),
    "portforward": ("port", "ports"),
}


class KubeletProxy:
    """Reaches the kubelets with the certificate `kubelet-client`."""

    def __init__(self, store: Store, pki: Pki) -> None:
        self._store = store
        self._tls = ssl.create_default_context(cafile=str(pki.ca))
        self._tls.load_cert_chain(pki.certificate(KUBELET_CLIENT.stem), pki.key(KUBELET_CLIENT.stem))
        self._session: aiohttp.ClientSession | None = None

    def session(self) -> aiohttp.ClientSession:
        """The shared connection pool (made on the loop that uses it)."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS)
            connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        return self._session

    async def close(self) -> None:
        """Close the pool."""
        if self._session is not None:
            await self._session.close()

    def _pod(self, call: Call) -> Object:
        record = self._store.get(Key("pods", call.info.namespace, call.info.name))
        if record is None:
            raise errors.not_found("pods", "", call.info.name)
        return record.decode()

    def _base(self, pod: Object) -> str:
        name = pod["spec"].get("nodeName")
        if not name:
            raise errors.bad_request(f"pod {pod['metadata']['name']} does not have a host assigned")
        record = self._store.get(Key("nodes", "", name))
        if record is None:
            raise errors.not_found("nodes", "", name)
        status = record.decode().get("status") or {}
        address = next((a.get("address") for a in status.get("addresses") or () if a.get("type") == "InternalIP"), "")
        if not address:
            raise errors.internal(f"node {name}: status.addresses has no InternalIP, so its kubelet cannot be reached")
        port = ((status.get("daemonEndpoints") or {}).get("kubeletEndpoint") or {}).get("Port", _KUBELET_PORT)
        return f"https://{address}:{port}"

    def _url(self, call: Call, what: str, *, with_container: bool) -> str:
        pod = self._pod(call)
        base, namespace, name = self._base(pod), quote(call.info.namespace), quote(call.info.name)
        path = f"{base}/{what}/{namespace}/{name}"
        if with_container:
            path = f"{path}/{quote(_container(pod, call))}"
        passed = [(k, v) for k, v in call.request.query.items() if k in _PASSED[call.info.subresource]]
        return f"{path}?{urlencode(passed)}" if passed else path

    async def logs(self, call: Call) -> web.StreamResponse:
        """A container's log, streamed."""
        url = self._url(call, "containerLogs", with_container=True)
        try:
            async with self.session().get(url) as upstream:
                if upstream.status != 200:
                    raise errors.bad_request(
                        (await upstream.text()).strip() or f"the kubelet answered {upstream.status}"
                    )
                stream = web.StreamResponse(headers={"Content-Type": "text/plain"})
                stream.enable_chunked_encoding()
                await stream.prepare(call.request)
                async for chunk in upstream.content.iter_any():
                    await stream.write(chunk)
                return stream
        except aiohttp.ClientConnectionError as error:
            raise errors.internal(f"Get {url!r}: {error}") from None

    async def _refusal(self, url: str) -> errors.StatusError:
        """Why the kubelet opens no stream here. A refused handshake does not carry its text, and kubectl then asks again by SPDY and shows
        only what that is answered; so what it wants is asked for without an upgrade, which the kubelet refuses with the same reason or, if
        there is none, because of that.
        """
        try:
            async with self.session().get(url) as answer:
                message = (await answer.text()).strip() or f"the kubelet answered {answer.status}"
                return errors.StatusError(answer.status, _REASONS.get(answer.status, "InternalError"), message)
        except aiohttp.ClientConnectionError as error:
            return errors.internal(f"error dialing backend: {error}")

    async def stream(self, call: Call) -> web.StreamResponse:
        """exec, attach or portforward over a websocket."""
        subresource = call.info.subresource
        url = self._url(call, _PATHS[subresource], with_container=subresource != "portforward")
        if call.request.headers.get("Upgrade", "").lower() != "websocket":
            raise await self._refusal(url)
        offered = [p.strip() for p in call.request.headers.get("Sec-WebSocket-Protocol", "").split(",") if p.strip()]
        shared = [protocol for protocol in offered if protocol in PROTOCOLS]
        if not shared:
            raise errors.bad_request(f"Sec-WebSocket-Protocol: found {offered!r}, supported: {', '.join(PROTOCOLS)}")
        try:
            async with self.session().ws_connect(
                url, protocols=shared, max_msg_size=0, compress=0, autoclose=False
            ) as upstream:
                # max_msg_size 0: no cap, a message is whatever the container wrote at once
                chosen = [upstream.protocol] if upstream.protocol else shared[:1]
                client = web.WebSocketResponse(protocols=chosen, max_msg_size=0, compress=False, autoclose=False)
                await client.prepare(call.request)
                await _join(client, upstream)
                return client
        except aiohttp.WSServerHandshakeError:
            raise await self._refusal(url) from None
        except aiohttp.ClientConnectionError as error:
            raise errors.internal(f"error dialing backend: {error}") from None


def _container(pod: Object, call: Call) -> str:
    spec: Mapping[str, Any] = pod["spec"]
    names = [c["name"] for c in spec.get("containers") or ()]
    inits = [c["name"] for c in spec.get("initContainers") or ()]
    wanted = call.query.get("container", "")
    if wanted:
        if wanted not in names + inits:
            raise errors.bad_request(f"container {wanted} is not valid for pod {call.info.name}")
        return wanted
    if len(names) == 1:
        return str(names[0])
    listed = f"choose one of: [{' '.join(names)}]" + (
        f" or one of the init containers: [{' '.join(inits)}]" if inits else ""
    )
    raise errors.bad_request(f"a container name must be specified for pod {call.info.name}, {listed}")


async def _copy(source: Any, target: Any) -> None:
    async for message in source:
        if message.type is aiohttp.WSMsgType.BINARY:
            await target.send_bytes(message.data)
        elif message.type is aiohttp.WSMsgType.TEXT:
            await target.send_str(message.data)
        else:
            break
    await target.close(code=source.close_code or 1000)


async def _join(client: web.WebSocketResponse, upstream: aiohttp.ClientWebSocketResponse) -> None:
    """Copy both ways until either side ends; what the upstream has still to say is delivered first."""
    down = asyncio.create_task(_copy(upstream, client))
    up = asyncio.create_task(_copy(client, upstream))
    try:
        done, _ = await asyncio.wait((down, up), return_when=asyncio.FIRST_COMPLETED)
        if down not in done:
            await asyncio.wait((down,), timeout=_CONNECT_SECONDS)
    finally:
        for task in (down, up):
            task.cancel()
        for task in (down, up):
            try:
                await task
            except (asyncio.CancelledError, aiohttp.ClientError, ConnectionError):
                continue
