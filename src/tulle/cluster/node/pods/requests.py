"""What probes and hooks do, once: an HTTP GET, a TCP connection, a gRPC health check, from the node's own network."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl

import aiohttp

from tulle.cluster.node.pods.spec import GRPC, Container, HTTPGet, TCPSocket

MAX_BODY = 10 * 1024
USER_AGENT = "kube-probe/1.36"


class RequestError(Exception):
    """The answer was not a good one; the text is what the event says."""


def _unverified() -> ssl.SSLContext:
    # probes speak to a pod by address: there is no name to verify, and Kubernetes does not verify either
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def http_get(container: Container, action: HTTPGet, pod_ip: str, timeout: float) -> None:
    """Good is any status from 200 to 399. Raises RequestError."""
    try:
        port = container.port(action.port)
    except ValueError as error:
        raise RequestError(str(error)) from error
    host = action.host or pod_ip
    shown = f"[{host}]" if ":" in host else host
    path = action.path if action.path.startswith("/") else f"/{action.path}"
    url = f"{action.scheme.lower()}://{shown}:{port}{path}"
    headers = {"User-Agent": USER_AGENT, "Accept": "*/*", "Connection": "close"}
    headers.update({h.name: h.value for h in action.http_headers})
    tls = _unverified() if action.scheme.upper() == "HTTPS" else True
    limits = aiohttp.ClientTimeout(total=timeout)
    try:
        async with (
            aiohttp.ClientSession(timeout=limits, connector=aiohttp.TCPConnector(force_close=True)) as session,
            session.get(url, headers=headers, ssl=tls, allow_redirects=False) as answer,
        ):
            body = await answer.content.read(MAX_BODY)
            status = answer.status
    except TimeoutError as error:
        raise RequestError(
            f'Get "{url}": context deadline exceeded (Client.Timeout exceeded while awaiting headers)'
        ) from error
    except aiohttp.ClientConnectorError as error:
        raise RequestError(f'Get "{url}": dial tcp {shown}:{port}: connect: {_reason(error.os_error)}') from error
    except (aiohttp.ClientError, ValueError) as error:
        raise RequestError(f'Get "{url}": {error}') from error
    if not 200 <= status < 400:
        shown_body = body.decode(errors="replace").strip()
        raise RequestError(
            f"HTTP probe failed with statuscode: {status}" + (f" ({shown_body[:200]})" if shown_body else "")
        )


async def tcp_connect(container: Container, action: TCPSocket, pod_ip: str, timeout: float) -> None:
    """Good is a connection that opens. Raises RequestError."""
    try:
        port = container.port(action.port)
    except ValueError as error:
        raise RequestError(str(error)) from error
    host = action.host or pod_ip
    try:
        async with asyncio.timeout(timeout):
            _, writer = await asyncio.open_connection(host, port)
    except TimeoutError as error:
        raise RequestError(f"dial tcp {host}:{port}: i/o timeout") from error
    except OSError as error:
        raise RequestError(f"dial tcp {host}:{port}: connect: {_reason(error)}") from error
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def grpc_health(action: GRPC, pod_ip: str, timeout: float) -> None:
    """The grpc.health.v1 Check call; good is SERVING. Raises RequestError."""
    import grpc.aio  # noqa: PLC0415 - large, and only pods with a gRPC probe need it

    name = action.service.encode()
    request = b"\x0a" + _varint(len(name)) + name if name else b""
    async with grpc.aio.insecure_channel(f"{pod_ip}:{action.port}") as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check", lambda m: m, lambda m: m)
        try:
            answer: bytes = await check(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise RequestError(f"error: health rpc failed: {error.code().name}: {error.details()}") from error
    if answer != b"\x08\x01":  # field 1, value 1: SERVING
        raise RequestError(f'service unhealthy (responded with "{"UNKNOWN" if not answer else "NOT_SERVING"}")')


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _reason(error: OSError) -> str:
    # asyncio puts its own words where the system's should be
    text = os.strerror(error.errno) if error.errno else str(error)
    return text[:1].lower() + text[1:]
