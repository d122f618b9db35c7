"""One key set from one issuer: from its `jwksUri`, or by way of its OpenID discovery document."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import aiohttp
import msgspec

from tulle.istiod.jwks.guard import ForbiddenAddressError, Guard
from tulle.istiod.jwks.keys import NoUsableKeysError, usable

_LARGEST = 1 << 20
"""Bytes of an answer; a key set has a few thousand."""
_REDIRECTS = 3
_WELL_KNOWN = "/.well-known/openid-configuration"


class KeysUnavailableError(Exception):
    """The keys could not be had; the text says from where and why."""


@dataclass(frozen=True)
class Issuer:
    """Where keys come from: `jwks_uri`, or when that is "" what the issuer's discovery document names."""

    issuer: str
    jwks_uri: str = ""

    def __str__(self) -> str:
        return self.jwks_uri or f"issuer {self.issuer}"


class _Discovery(msgspec.Struct):
    issuer: str
    jwks_uri: str


class Fetcher:
    """Fetches key sets over http and https. `tls` is the context for https, None for the system's roots."""

    def __init__(self, guard: Guard, tls: ssl.SSLContext | None = None) -> None:
        self._guard = guard
        self._tls = tls

    async def fetch(self, source: Issuer, timeout: float) -> str:
        """The issuer's usable keys as a JSON Web Key Set. `timeout` in seconds, for all of it. Raises KeysUnavailableError."""
        try:
            async with asyncio.timeout(timeout), self._session() as session:
                uri = source.jwks_uri or await self._discover(session, source.issuer)
                body = (await self._get(session, uri)).decode()
        except TimeoutError:
            raise KeysUnavailableError(f"{source}: no answer within {timeout:g} seconds") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise KeysUnavailableError(f"{source}: {_words(error)}") from error
        try:
            return usable(body)
        except NoUsableKeysError as error:
            raise KeysUnavailableError(f"{source}: {error}") from error

    def _session(self) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(socket_factory=self._guard.socket, ssl=self._tls or True, force_close=True)
        # A proxy of the environment would be asked to connect for us, to addresses that nobody here has looked at.
        return aiohttp.ClientSession(connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar())

    async def _discover(self, session: aiohttp.ClientSession, issuer: str) -> str:
        if urlsplit(issuer).scheme not in ("http", "https"):
            raise ValueError("it is no http or https URL, so its keys must be given by jwks or jwksUri")
        body = await self._get(session, issuer.rstrip("/") + _WELL_KNOWN)
        try:
            found = msgspec.json.decode(body, type=_Discovery)
        except RecursionError as error:
            raise ValueError("its discovery document is nested too deep") from error
        if found.issuer != issuer:
            raise ValueError(f"its discovery document is that of issuer {found.issuer!r}")
        return found.jwks_uri

    async def _get(self, session: aiohttp.ClientSession, uri: str) -> bytes:
        """The body of a 200 answer, following a few redirects."""
        for _ in range(_REDIRECTS + 1):
            parts = urlsplit(uri)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"{uri!r} is no http or https URL")
            async with session.get(uri, allow_redirects=False) as response:
                if response.status in (301, 302, 303, 307, 308) and "location" in response.headers:
                    onward = urljoin(uri, response.headers["location"])
                    if parts.scheme == "https" and urlsplit(onward).scheme != "https":
                        raise ValueError(f"redirected from https to {onward}")
                    uri = onward
                    continue
                if response.status != 200:
                    raise ValueError(f"answered with status {response.status}")
                return await _bounded(response)
        raise ValueError(f"more than {_REDIRECTS} redirects")


async def _bounded(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _LARGEST:
            raise ValueError(f"answered with more than {_LARGEST} bytes")
    return bytes(body)


def _words(error: BaseException) -> str:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ForbiddenAddressError):
            return str(cause)
        cause = cause.__cause__
    return str(error) or type(error).__name__
