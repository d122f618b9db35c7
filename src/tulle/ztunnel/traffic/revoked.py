"""Closes open connections whose peer's certificate has been revoked since they were made.

New connections are Envoy's to refuse.  Of open ones the table tells by which certificates their peers proved themselves.  A
tunnel is closed as a whole, and so are tunnels in which nothing goes on at the moment: whose they are is not known, and the
next connection would go through them without another look at the certificate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import structlog

from tulle.ztunnel.traffic.sockets import CannotCloseError, Ends
from tulle.ztunnel.traffic.table import OpenConnections

_log = structlog.get_logger("tulle.ztunnel")

CLOSED: Final = "connection closed: the peer's certificate is revoked"
#: Seconds after a change, in which Envoy takes the new lists and tells of what it has let in by the former ones.
SETTLE_SECONDS: Final = 0.5
#: Seconds until what could not be closed is tried again.
AGAIN_SECONDS: Final = 2.0


class RevocationWatch:
    """`pods` have tunnels; `tunnels` tells those of one pod, `close` closes them (either may raise CannotCloseError or OSError)."""

    def __init__(
        self,
        connections: OpenConnections,
        pods: Callable[[], Iterable[str]],
        tunnels: Callable[[str], Sequence[Ends]],
        close: Callable[[str, Sequence[Ends]], None],
    ) -> None:
        self._connections = connections
        self._pods = pods
        self._tunnels = tunnels
        self._close = close
        self._revoked: frozenset[int] = frozenset()
        self._due: asyncio.TimerHandle | None = None

    def revoke(self, serials: frozenset[int]) -> None:
        """These are all that are revoked now."""
        more = not serials <= self._revoked
        self._revoked = serials
        if more:
            self._later(SETTLE_SECONDS)

    def _later(self, seconds: float) -> None:
        if self._due is not None:
            self._due.cancel()
        self._due = asyncio.get_running_loop().call_later(seconds, self._look)

    def stop(self) -> None:
        if self._due is not None:
            self._due.cancel()

    def _look(self) -> None:
        self._due = None
        for pod in tuple(self._pods()):
            try:
                self._look_at(pod)
            except (CannotCloseError, OSError) as error:
                _log.error("tunnels stay open", pod=pod, reason=str(error))
                self._later(AGAIN_SECONDS)

    def _look_at(self, pod: str) -> None:
        tunnelled = [c for c in self._connections.of(pod) if c.tunnel is not None]
        refused = [c for c in tunnelled if not c.flow.serials.isdisjoint(self._revoked)]
        ends = {c.key: c.tunnel_ends for c in tunnelled}
        forbidden = {ends[c.key] for c in refused}
        kept = set(ends.values()) - forbidden
        closing = [tunnel for tunnel in self._tunnels(pod) if tunnel not in kept]
        if closing:
            self._close(pod, closing)
            _log.info("tunnels closed", pod=pod, revoked=len(forbidden), idle=len(closing) - len(forbidden))
        for connection in refused:
            self._connections.closing(connection, CLOSED)
