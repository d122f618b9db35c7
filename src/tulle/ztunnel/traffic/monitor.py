"""Takes Envoy's lines and keeps everything that is known of traffic by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import structlog

from tulle.ztunnel.configurator import Configurator
from tulle.ztunnel.policy.terms import Peer
from tulle.ztunnel.traffic.entry import entry
from tulle.ztunnel.traffic.line import Line, address, split
from tulle.ztunnel.traffic.metrics import Metrics, labels_of
from tulle.ztunnel.traffic.parties import Parties, parties
from tulle.ztunnel.traffic.sockets import Ends, destroy
from tulle.ztunnel.traffic.table import Connection, OpenConnections
from tulle.ztunnel.traffic.watch import PolicyWatch

_log = structlog.get_logger("tulle.ztunnel")


class TrafficMonitor:
    """`write` takes finished lines of the access log; `netns` gives a descriptor of a pod's network namespace.

    `log_opened`: the access log has lines of connections that open, too.
    """

    def __init__(
        self,
        configurator: Configurator,
        network: str,
        netns: Callable[[str], int | None],
        write: Callable[[bytes], None],
        *,
        log_opened: bool = False,
    ) -> None:
        self.connections = OpenConnections()
        self.metrics = Metrics()
        self._configurator = configurator
        self._network = network
        self._netns = netns
        self._write = write
        self._log_opened = log_opened
        self._watch = PolicyWatch(configurator.access, self.connections, self._close)
        self._decode = msgspec.json.Decoder(Line).decode
        self._encode = msgspec.json.Encoder().encode
        configurator.on_access(self._watch.changed)

    def lines(self, lines: Sequence[bytes]) -> None:
        """What Envoy wrote on its stdout."""
        out = []
        for text in lines:
            try:
                line = self._decode(text)
            except msgspec.DecodeError as error:
                _log.error("a line of Envoy cannot be read", line=text.decode(errors="replace"), reason=str(error))
                continue
            written = self._opened(line) if line.opened else self._ended(line)
            if written:
                out.append(written)
        if out:
            self._write(b"\n".join(out) + b"\n")

    def envoy_gone(self) -> None:
        """Envoy has ended and all connections with it."""
        self.connections.clear()

    def stop(self) -> None:
        self._watch.stop()

    def _opened(self, line: Line) -> bytes:
        if line.refused:
            return b""
        who = parties(self._configurator, self._network, line)
        connection = _connection(line, who)
        self.connections.add(connection)
        self.metrics.connection_opened(connection.labels)
        self._watch.opened(connection)
        return self._encode(entry(line, who, "")) if self._log_opened else b""

    def _ended(self, line: Line) -> bytes:
        if line.kind == "handshake" and not line.problem:
            return b""
        connection, reason = self.connections.remove(line)
        who = connection.who if connection is not None else parties(self._configurator, self._network, line)
        self._count(line, who, connection)
        problem = reason if connection is not None else line.problem
        return self._encode(entry(line, who, problem))

    def _count(self, line: Line, who: Parties, connection: Connection | None) -> None:
        labels = connection.labels if connection is not None else labels_of(line, who)
        flag = "-" if connection is not None else line.failure_flag
        if connection is None:
            self.metrics.connection_opened(labels)
        self.metrics.connection_closed(labels, line, flag)
        if flag != "-":
            self.metrics.connection_failed(labels, flag)

    def _close(self, pod: str, connections: Sequence[Connection]) -> None:
        netns = self._netns(pod)
        if netns is not None:
            destroy(netns, [connection.ends for connection in connections if connection.ends is not None])


def _connection(line: Line, who: Parties) -> Connection:
    original = line.asked_for or line.destination if line.inbound else line.original
    protocol = "HBONE" if line.tunnelled else "TCP"
    peer, ends = _app_side(line) if line.inbound else (None, None)
    labels = labels_of(line, who)
    return Connection(line.key, line.inbound, line.source, original, line.actual, protocol, who, labels, peer, ends)


def _app_side(line: Line) -> tuple[Peer, Ends] | tuple[None, None]:
    """What policies and the kernel need to know of an inbound connection."""
    source, destination = address(line.source), address(line.app_remote)
    local, remote = split(line.app_local), split(line.app_remote)
    if source is None or destination is None or local is None or remote is None:
        return None, None
    # The app's end is closed, so that Envoy sees a reset and passes a reset on: cut off must not look like complete.
    return Peer(line.source_identity or None, source, destination, remote[1]), Ends(remote, local)
