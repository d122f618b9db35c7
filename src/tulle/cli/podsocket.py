"""Websockets to a pod through the API server: what exec and port-forward have in common."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import aiohttp

from tulle.cli.console import CommandError
from tulle.kube.client import Client

_SECONDS = 30.0


class PodSocketError(CommandError):
    """The API server does not open the way to the pod; the message names pod and reason."""


@dataclass(frozen=True)
class PodAction:
    """A subresource of a pod that is used through a websocket, and its parameters."""

    namespace: str
    pod: str
    action: str
    parameters: tuple[tuple[str, str], ...] = ()


@contextlib.asynccontextmanager
async def connected(
    client: Client, wanted: PodAction, protocols: Sequence[str]
) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    """An open websocket, with the credentials of the client. Raises PodSocketError, also for what fails while it is used."""
    where = client.connection
    what = f"{wanted.action} of pod {wanted.namespace}/{wanted.pod}"
    url = f"{where.server}/api/v1/namespaces/{wanted.namespace}/pods/{wanted.pod}/{wanted.action}"
    bearer = {"Authorization": f"Bearer {where.token.value()}"} if where.token is not None else {}
    timeout = aiohttp.ClientTimeout(total=None, connect=_SECONDS, sock_read=_SECONDS)
    connector = aiohttp.TCPConnector(ssl=where.tls if where.tls is not None else True)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.ws_connect(
                url,
                params=wanted.parameters,
                protocols=protocols,
                headers={**where.headers, **bearer},
                proxy=where.proxy,
                server_hostname=where.tls_server_name,
                timeout=aiohttp.ClientWSTimeout(ws_receive=_SECONDS),
                max_msg_size=0,
            ) as socket,
        ):
            yield socket
    except aiohttp.WSServerHandshakeError as error:
        raise PodSocketError(f"{what}: the API server answers {error.status} {error.message}") from error
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise PodSocketError(f"{what}: {error!r}") from error
