"""HTTP to one API server: connections, credentials, retries that cannot do a thing twice, and byte streams.

A request is sent again only when that is safe: it never left (connection refused), the server says that it did
not act (429, or 503 with Retry-After), or it only reads. A write whose answer was lost is reported as
Unreachable; its caller reconciles.
"""

import asyncio
import random
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType

import aiohttp
from yarl import URL

from tulle import __version__
from tulle.kube.config import Connection
from tulle.kube.errors import ApiError, Unauthorized, Unreachable, error_from_response

_DELAYS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
_READS = frozenset({"GET", "HEAD"})
_READ_RETRY_CODES = frozenset({429, 500, 502, 503, 504})
_CONNECT_SECONDS = 10.0
_READ_BUFFER = 1 << 18


class Transport:
    """A pooled aiohttp session, opened at first use so that a client can be made outside a running loop."""

    def __init__(self, connection: Connection, component: str, request_seconds: float = 60.0) -> None:
        self._connection = connection
        self._agent = f"{component}/{__version__}"
        self._request_seconds = request_seconds
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    async def __aenter__(self) -> "Transport":
        return self

    async def __aexit__(
        self, _t: type[BaseException] | None, _e: BaseException | None, _tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends every connection; later requests raise RuntimeError."""
        self._closed = True
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        content_type: str = "application/json",
        accept: str = "application/json",
    ) -> bytes:
        """The body of a 2xx answer. Raises ApiError for everything else; see the module for what is tried again."""
        headers = {"Accept": accept, **({"Content-Type": content_type} if body is not None else {})}
        request = _Request(method, path, params or {}, body, headers)
        fresh_token = False
        for delay in (*_DELAYS, None):
            try:
                async with asyncio.timeout(self._request_seconds):
                    return await self._once(request, fresh_token)
            except Unauthorized:
                if fresh_token or self._connection.token is None or delay is None:
                    raise
                fresh_token = True
            except _RetriableError as retriable:
                if delay is None:
                    raise retriable.error from retriable.__cause__
                wish = retriable.after
                await asyncio.sleep(wish if wish is not None else delay * random.uniform(0.75, 1.25))  # noqa: S311
            except TimeoutError as error:
                message = f"{self._connection.server} gave no answer in {self._request_seconds:g} s"
                raise Unreachable(0, "Timeout", message, request=request.what) from error
        raise AssertionError("the last attempt returns or raises")

    async def _once(self, request: "_Request", fresh_token: bool) -> bytes:
        try:
            async with self._open(request, aiohttp.ClientTimeout(total=None), fresh_token) as response:
                data = await response.read()
        except aiohttp.ClientConnectorError as error:
            failure = _unreachable(error, self._connection.server, request.what)
            raise failure if _is_tls(error) else _RetriableError(failure) from error
        except (aiohttp.ClientError, ConnectionError) as error:
            failure = _unreachable(error, self._connection.server, request.what)
            raise _RetriableError(failure) if request.reads and not _is_tls(error) else failure from error
        if response.status < 300:
            return data
        refusal = error_from_response(response.status, data, request.what)
        after = _retry_after(response.headers.get("Retry-After"))
        not_done = response.status == 429 or (response.status == 503 and after is not None)
        if not_done or (request.reads and response.status in _READ_RETRY_CODES):
            raise _RetriableError(refusal, after)
        raise refusal

    @asynccontextmanager
    async def stream(
        self, path: str, *, params: Mapping[str, str] | None = None, idle_seconds: float | None = None
    ) -> AsyncGenerator[aiohttp.StreamReader, None]:
        """The body of a GET as it arrives; ``idle_seconds``: the longest silence. Raises ApiError, also while read."""
        request = _Request("GET", path, params or {}, None, {"Accept": "application/json"})
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=idle_seconds)
        try:
            async with self._open(request, timeout) as response:
                if response.status >= 300:
                    raise error_from_response(response.status, await response.read(), request.what)
                yield response.content
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            raise _unreachable(error, self._connection.server, request.what) from error

    def _open(
        self, request: "_Request", timeout: aiohttp.ClientTimeout, fresh_token: bool = False
    ) -> aiohttp.client._RequestContextManager:
        target, _, query = request.path.partition("?")
        url = URL(self._connection.server + target, encoded=True)
        if query:
            url = url.with_query(query)
        token = self._connection.token
        bearer = {"Authorization": f"Bearer {token.value(fresh=fresh_token)}"} if token is not None else {}
        return self._live_session().request(
            request.method,
            url.update_query(dict(request.params)) if request.params else url,
            data=request.body,
            headers={**self._connection.headers, **bearer, **request.headers},
            timeout=timeout,
            proxy=self._connection.proxy,
            server_hostname=self._connection.tls_server_name,
            allow_redirects=False,
        )

    def _live_session(self) -> aiohttp.ClientSession:
        if self._closed:
            raise RuntimeError("this Kubernetes client is closed")
        if self._session is None:
            tls = self._connection.tls
            connector = aiohttp.TCPConnector(limit=0, ssl=tls if tls is not None else True)
            self._session = aiohttp.ClientSession(
                connector=connector,
                headers={"User-Agent": self._agent},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS),
                read_bufsize=_READ_BUFFER,
                auto_decompress=True,
            )
        return self._session


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    params: Mapping[str, str]
    body: bytes | None
    headers: Mapping[str, str]

    @property
    def what(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def reads(self) -> bool:
        return self.method in _READS


class _RetriableError(Exception):
    """An attempt that may be repeated; ``after`` is the server's own wish in seconds."""

    def __init__(self, error: ApiError, after: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.after = after


def _retry_after(header: str | None) -> float | None:
    return min(float(header), 10.0) if header is not None and header.isdigit() else None


def _is_tls(error: BaseException) -> bool:
    return isinstance(error, (aiohttp.ClientSSLError, ssl.SSLError))


def _unreachable(error: BaseException, server: str, what: str) -> Unreachable:
    if _is_tls(error):
        message = f"TLS with {server} failed: {error}; check certificate-authority, tls-server-name and server"
        return Unreachable(0, "TLS", message, request=what)
    message = f"{server} gave no answer: {str(error) or type(error).__name__}"
    return Unreachable(0, "Unreachable", message, request=what)
