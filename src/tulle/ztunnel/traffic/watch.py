"""Looks again at a pod's open connections when its policies have changed, and closes those that are not allowed any more.

Shortly after a change rather than at once, because one change often comes as several (a record and a policy), and once
more a little later while a policy that the pod names has not arrived.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import structlog

from tulle.ztunnel.config.local_access import LocalAccess
from tulle.ztunnel.traffic.sockets import CannotCloseError
from tulle.ztunnel.traffic.table import Connection, OpenConnections
from tulle.ztunnel.traffic.verdict import objection

_log = structlog.get_logger("tulle.ztunnel")

CLOSED: Final = "connection closed due to policy change"
#: Seconds after a change, and further seconds for policies to arrive.
SETTLE_SECONDS: Final = 0.1
PATIENCE_SECONDS: Final = 0.6
#: Seconds until what could not be closed is tried again.
AGAIN_SECONDS: Final = 2.0


class PolicyWatch:
    """`access` is who may connect to each pod; `close` closes connections of one pod, and raises CannotCloseError or OSError."""

    def __init__(
        self,
        access: Mapping[str, LocalAccess],
        connections: OpenConnections,
        close: Callable[[str, Sequence[Connection]], None],
    ) -> None:
        self._access = access
        self._connections = connections
        self._close = close
        self._due: dict[str, asyncio.TimerHandle] = {}

    def changed(self, pod: str) -> None:
        """Policies of a pod have changed, or a connection was opened that the present ones do not allow."""
        self._later(pod, SETTLE_SECONDS, patient=True)

    def opened(self, connection: Connection) -> None:
        """A connection was opened; by the time this is known its policies may have changed."""
        found, flow = self._access.get(connection.pod), connection.flow
        if found is None or flow.peer is None or flow.passed is found.access:
            return
        if objection(found.access, flow.peer, patient=True):
            self.changed(connection.pod)
        else:
            flow.passed = found.access

    @property
    def pending(self) -> bool:
        """Whether some pod's connections are going to be looked at."""
        return bool(self._due)

    def stop(self) -> None:
        for timer in self._due.values():
            timer.cancel()
        self._due.clear()

    def _later(self, pod: str, seconds: float, *, patient: bool) -> None:
        if pod not in self._due:
            self._due[pod] = asyncio.get_running_loop().call_later(seconds, self._look, pod, patient)

    def _look(self, pod: str, patient: bool) -> None:
        self._due.pop(pod, None)
        found = self._access.get(pod)
        if found is None:
            return
        refused = []
        for connection in self._connections.inbound(pod):
            peer = connection.flow.peer
            reason = objection(found.access, peer, patient=patient) if peer is not None else ""
            if reason:
                refused.append((connection, reason))
        if refused and not self._end(pod, refused):
            self._later(pod, AGAIN_SECONDS, patient=patient)
        elif patient and found.access.policies.unknown:
            self._later(pod, PATIENCE_SECONDS, patient=False)

    def _end(self, pod: str, refused: Sequence[tuple[Connection, str]]) -> bool:
        """Whether all of them could be closed."""
        try:
            self._close(pod, [connection for connection, _ in refused])
        except (CannotCloseError, OSError) as error:
            _log.error("connections stay open", pod=pod, connections=len(refused), reason=str(error))
            return False
        for connection, reason in refused:
            self._connections.closing(connection, f"{CLOSED}: {reason}")
        _log.info(CLOSED, pod=pod, connections=len(refused))
        return True
