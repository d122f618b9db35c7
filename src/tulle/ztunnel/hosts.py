"""Endpoints that are known by a host name only: their addresses, looked up while somebody connects to them.

A name is looked up when a first pod connects to an endpoint of that name, which waits for the answer, and again from time
to time for as long as it is in use. It is this proxy's resolver that is asked, not the pod's: endpoints are the mesh's. A
name that cannot be looked up any more keeps the addresses it had. Connections are made in the client's own network
namespace, so an answer that means the client itself (loopback) is no endpoint.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import ip_address
from typing import Final, TypeAlias

import structlog

from tulle.ztunnel.policy.terms import Address

_log = structlog.get_logger("tulle.ztunnel.hosts")

REFRESH_SECONDS: Final = 30.0
PATIENCE_SECONDS: Final = 4.0  # less than a client waits for a destination

LookUp: TypeAlias = Callable[[str], Awaitable[Iterable[str]]]


async def look_up(name: str) -> list[str]:
    """The addresses of a name, the preferred ones first. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return [str(one[4][0]) for one in found]


class Hosts:
    """Looks up the names that `in_use` gives, and tells `found` of each what it stands for (nothing: it cannot be told)."""

    def __init__(
        self,
        in_use: Callable[[], Iterable[str]],
        found: Callable[[str, tuple[Address, ...]], None],
        look_up: LookUp = look_up,
        refresh: float = REFRESH_SECONDS,
    ) -> None:
        self._in_use = in_use
        self._found = found
        self._look_up = look_up
        self._refresh = refresh
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._known: set[str] = set()

    def want(self, name: str) -> None:
        """Look a name up now, unless that is under way."""
        if name not in self._asking:
            self._asking[name] = asyncio.ensure_future(self._ask(name))
            self._asking[name].add_done_callback(lambda _: self._asking.pop(name))

    async def run(self) -> None:
        """Look names up again until cancelled."""
        try:
            while True:
                await asyncio.sleep(self._refresh)
                used = frozenset(self._in_use())
                self._known &= used
                for name in used:
                    self.want(name)
        finally:
            for task in tuple(self._asking.values()):
                task.cancel()

    async def _ask(self, name: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                addresses = dict.fromkeys(map(ip_address, await self._look_up(name)))
        except (OSError, UnicodeError) as error:
            kept = name in self._known
            _log.warning("host name not resolved", host=name, reason=str(error) or "no answer", addresses_kept=kept)
            if not kept:
                self._found(name, ())
            return
        self._known.add(name)
        self._found(name, tuple(one for one in addresses if not (one.is_loopback or one.is_unspecified)))
