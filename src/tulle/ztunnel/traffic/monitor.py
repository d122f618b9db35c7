"""Takes Envoy's lines and keeps everything that is known of traffic by them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from tulle.ztunnel.config.names import HBONE_PORT
from tulle.ztunnel.configurator import Configurator
from tulle.ztunnel.loglevels import NUMBERS
from tulle.ztunnel.traffic.entry import entry
from tulle.ztunnel.traffic.flow import Flow, Flows
from tulle.ztunnel.traffic.line import REVOKED, Line, decided
from tulle.ztunnel.traffic.metrics import Ended, Metrics
from tulle.ztunnel.traffic.revoked import RevocationWatch
from tulle.ztunnel.traffic.sockets import Ends, destroy, established
from tulle.ztunnel.traffic.table import Connection, OpenConnections
from tulle.ztunnel.traffic.watch import PolicyWatch

_log = structlog.get_logger("tulle.ztunnel")

#: Bytes that are shown of a line that cannot be read.
_SHOWN: Final = 1000
_UNCERTIFIED: Final = "IDENTITY_ERROR"
_NO_CERTIFICATE: Final = (
    "connection failed: there is no certificate for {}; istioctl ztunnel-config certificates tells why"
)


class TrafficMonitor:
    """`write` takes finished lines of the access log; `netns` gives a descriptor of a pod's network namespace.

    `certified`: whether a local identity has a valid certificate.  `level`: the least that the access log lets through, as a
    number of Python's logging.
    """

    def __init__(
        self,
        configurator: Configurator,
        network: str,
        netns: Callable[[str], int | None],
        write: Callable[[bytes], None],
        *,
        level: int = logging.INFO,
        certified: Callable[[str], bool] = lambda _: True,
    ) -> None:
        self.connections = OpenConnections()
        self.metrics = Metrics()
        self._flows = Flows(configurator, network, self.metrics)
        self._netns = netns
        self._write = write
        self._certified = certified
        self.level = level
        self._watch = PolicyWatch(configurator.access, self.connections, self._close)
        self.revoked = RevocationWatch(self.connections, lambda: configurator.pods, self._tunnels, self._destroy)
        self._decode = msgspec.json.Decoder(Line).decode
        self._encode = msgspec.json.Encoder().encode
        configurator.on_access(self._watch.changed)

    def lines(self, lines: Sequence[bytes]) -> None:
        """What Envoy wrote on its stdout."""
        out = []
        for text in lines:
            try:
                line = decided(self._decode(text))
                written = self._opened(line) if line.opened else self._ended(line)
            except (msgspec.DecodeError, ValueError) as error:
                # Peers choose much of what a line holds; none of it may keep the lines of others from being read.
                _log.error(
                    "a line of Envoy cannot be read", line=text[:_SHOWN].decode(errors="replace"), reason=str(error)
                )
                continue
            if written:
                out.append(written)
        if out:
            self._write(b"\n".join(out) + b"\n")

    def envoy_gone(self) -> None:
        """Envoy has ended and all connections with it."""
        for connection in self.connections.clear():
            connection.flow.ended.closed += 1

    def stop(self) -> None:
        self._watch.stop()
        self.revoked.stop()

    def _opened(self, line: Line) -> bytes:
        if line.refused:
            return b""
        flow = self._flows.of(line)
        connection = Connection(line.key, line.source, flow, line.tunnel if line.tunnelled else None)
        self.connections.add(connection)
        flow.opened.connections += 1
        if line.tunnelled and not flow.serials:
            self.metrics.untracked(line)
        self._watch.opened(connection)
        return self._encode(entry(line, flow.who, "")) if self.level <= logging.DEBUG else b""

    def _ended(self, line: Line) -> bytes:
        if line.kind == "handshake" and not line.problem:
            return b""
        connection, reason = self.connections.remove(line)
        if connection is not None:
            flow, counts, problem = connection.flow, connection.flow.ended, reason
        else:
            flow, counts, problem = self._never_opened(line)
        counts.closed += 1
        counts.received += line.bytes_recv
        counts.sent += line.bytes_sent
        written = entry(line, flow.who, problem)
        return self._encode(written) if NUMBERS[written.level] >= self.level else b""

    def _never_opened(self, line: Line) -> tuple[Flow, Ended, str]:
        """What is known of a connection that failed or was refused, counted as such."""
        flow, flag = self._flows.of(line), self._flag(line)
        flow.opened.connections += 1
        counts = self.metrics.ended(flow.labels, flag)
        counts.failed += flag != "-"
        if flag == REVOKED:
            self.metrics.revoked(line)
        return flow, counts, _NO_CERTIFICATE.format(line.source_identity) if flag == _UNCERTIFIED else line.problem

    def _flag(self, line: Line) -> str:
        """Why it failed; a client without a certificate cannot have failed for another reason."""
        flag, ours = line.failure_flag, not line.inbound and line.tunnelled
        return _UNCERTIFIED if flag != "-" and ours and not self._certified(line.source_identity) else flag

    def _close(self, pod: str, connections: Sequence[Connection]) -> None:
        self._destroy(pod, [connection.ends for connection in connections if connection.ends is not None])

    def _destroy(self, pod: str, connections: Sequence[Ends]) -> None:
        netns = self._netns(pod)
        if netns is not None:
            destroy(netns, connections)

    def _tunnels(self, pod: str) -> Sequence[Ends]:
        netns = self._netns(pod)
        return established(netns, HBONE_PORT) if netns is not None else ()
