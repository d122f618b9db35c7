"""What connections have in common that differ only in the client's port: who is at both ends, the counters, what policies look at.

Envoy writes four lines for a connection between two pods of a node, and a short connection should not cost more here than in Envoy.
So this is worked out for the first connection and kept for the next ones, until the mesh's records or the node's pods change.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, TypeAlias
from urllib.parse import unquote

from cryptography import x509

from tulle.ztunnel.config.access import Access
from tulle.ztunnel.configurator import Configurator
from tulle.ztunnel.policy.terms import Peer
from tulle.ztunnel.traffic.line import Line, address, split
from tulle.ztunnel.traffic.metrics import Ended, Metrics, Opened, labels_of
from tulle.ztunnel.traffic.parties import Parties, parties

#: Flows that are remembered; a pod that scans addresses must not fill the memory.
MAX_FLOWS: Final = 10_000
#: Stands for the serial number of a certificate that cannot be read.
_UNREADABLE: Final = -1
_Key: TypeAlias = tuple[str, ...]


@dataclass(slots=True, eq=False)
class Flow:
    """`who` and `labels` (the values of the metrics' labels) are as they were when it was made.

    `serials` are those of the certificates by which the peer of a tunnel proved itself, as far as Envoy tells them.

    `peer` is there for inbound ones only.  `passed`: under these policies `peer` has been found to be allowed.
    """

    inbound: bool
    original: str
    actual: str
    protocol: str
    who: Parties
    labels: tuple[str, ...]
    opened: Opened
    ended: Ended
    peer: Peer | None = None
    passed: Access | None = None
    serials: frozenset[int] = frozenset()


class Flows:
    """The flow of each line; `network` is that of the node."""

    def __init__(self, configurator: Configurator, network: str, metrics: Metrics) -> None:
        self._configurator = configurator
        self._network = network
        self._metrics = metrics
        self._known: dict[_Key, Flow] = {}
        self._version = configurator.version

    def of(self, line: Line) -> Flow:
        """By the mesh as it is now."""
        if self._version != self._configurator.version or len(self._known) > MAX_FLOWS:
            self._known.clear()
            self._version = self._configurator.version
        key = _key(line)
        flow = self._known.get(key)
        if flow is None:
            flow = self._known[key] = self._make(line)
        return flow

    def _make(self, line: Line) -> Flow:
        who = parties(self._configurator, self._network, line)
        labels = labels_of(line, who)
        return Flow(
            inbound=line.inbound,
            original=line.asked_for or line.destination if line.inbound else line.original,
            actual=line.actual,
            protocol="HBONE" if line.tunnelled else "TCP",
            who=who,
            labels=labels,
            opened=self._metrics.opened(labels),
            ended=self._metrics.ended(labels, "-"),
            serials=_serials(line.peer_serials, line.peer_certificate),
            peer=self._peer(line) if line.inbound else None,
        )

    def _peer(self, line: Line) -> Peer | None:
        """As policies saw it when it was let in."""
        local, source = self._configurator.access.get(line.pod), address(line.source)
        into_tunnel = line.kind == "hbone" and local is not None and local.access.tunnel is not None
        where = line.asked_for if into_tunnel else line.app_remote
        destination, port = address(where), split(where)
        if local is None or source is None or destination is None or port is None:
            return None
        seen = local.access.tunnelled_to(destination, port[1]) if into_tunnel else (destination, port[1])
        return Peer(line.source_identity or None, source, *seen)


def _key(line: Line) -> _Key:
    """Everything that `_make` looks at."""
    return (
        line.pod,
        line.kind,
        line.source.rpartition(":")[0],
        line.source_identity,
        line.destination,
        line.destination_identity,
        line.asked_for,
        line.original,
        line.service,
        line.app_remote,
        line.peer_serials,
        line.peer_certificate,
    )


def _serials(chain: str, certificate: str) -> frozenset[int]:
    """The serial numbers in a list of them as Envoy writes it, and that of a URL-encoded certificate."""
    listed = {int(number, 16) for number in chain.split(",") if number}
    return frozenset(listed | ({_serial(certificate)} if certificate else set()))


@lru_cache(maxsize=256)
def _serial(certificate: str) -> int:
    try:
        return x509.load_pem_x509_certificate(unquote(certificate).encode()).serial_number
    except ValueError:
        return _UNREADABLE
