"""Certificates that must not be believed any more: the authorities' revocation lists (CRLs), as istiod hands them out.

Envoy checks a peer's certificate against the lists that it is given, and refuses every peer for which one of the lists it
needs is missing.  istiod's ConfigMap may well have the list of one authority and not of the next, and that must not end the
mesh; so how far Envoy is to look follows from which authorities have a list.  A list whose time is over refuses everybody
below its authority, as it does in a stock ztunnel.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

import structlog
from cryptography import x509

_log = structlog.get_logger(__name__)

#: Seconds between two looks at the file.
_PERIOD: Final = 1.0


class RevocationsError(ValueError):
    """What should be revocation lists is something else; the message says what was found."""


class Depth(Enum):
    """How much of a peer's chain is looked up."""

    NOTHING = "nothing"
    LEAF = "leaf"
    CHAIN = "chain"


@dataclass(frozen=True)
class Revocations:
    """Revocation lists, and the serial numbers that each authority, by its name, has revoked."""

    pem: bytes = b""
    lists: tuple[x509.CertificateRevocationList, ...] = ()
    revoked: Mapping[x509.Name, frozenset[int]] = field(default_factory=dict)

    @property
    def serials(self) -> frozenset[int]:
        return frozenset().union(*self.revoked.values())

    def has(self, certificate: x509.Certificate) -> bool:
        return certificate.serial_number in self.revoked.get(certificate.issuer, ())

    def depth(self, chains: Iterable[Sequence[x509.Certificate]], roots: Iterable[x509.Certificate]) -> Depth:
        """How far peers can be looked up that have chains (leaf first) like these, and lead to `roots`."""
        chains = tuple(chains)
        if not self.revoked:
            return Depth.NOTHING
        above = {certificate.issuer for chain in chains for certificate in chain}
        if above | {root.subject for root in roots} <= self.revoked.keys():
            return Depth.CHAIN
        if any(self.has(certificate) for chain in chains for certificate in chain[1:]):
            # An authority of this mesh is revoked; whoever cannot be shown to have another is refused.
            return Depth.CHAIN
        return Depth.LEAF if {chain[0].issuer for chain in chains} <= self.revoked.keys() else Depth.NOTHING


def parse(data: bytes) -> Revocations:
    """Read revocation lists one after the other, in PEM; nothing at all is none.  Raises RevocationsError."""
    lists: list[x509.CertificateRevocationList] = []
    found: dict[x509.Name, frozenset[int]] = {}
    pem = data.strip()
    end = b"-----END X509 CRL-----"
    *blocks, rest = pem.split(end)
    if rest.strip():
        raise RevocationsError(
            f"after the last revocation list comes {rest.strip()[:40]!r}; accepted are PEM 'X509 CRL' blocks"
        )
    for number, block in enumerate(blocks, 1):
        try:
            listed = x509.load_pem_x509_crl(block + end)
            serials = frozenset(entry.serial_number for entry in listed)
        except ValueError as error:
            raise RevocationsError(f"revocation list {number} is not an X.509 CRL in PEM: {error}") from error
        lists.append(listed)
        found[listed.issuer] = found.get(listed.issuer, frozenset()) | serials
    return Revocations(pem + b"\n" if pem else b"", tuple(lists), found)


class RevocationFile:
    """Follows a file of revocation lists.  What cannot be read changes nothing, and neither does a file that goes away."""

    def __init__(self, path: Path, changed: Callable[[Revocations], None]) -> None:
        self._path = path
        self._changed = changed
        self._seen = b""

    async def run(self) -> None:
        """Look every second, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(_PERIOD)

    def look(self) -> None:
        """Tell of the file's content if it is another than last time."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            _log.error("revocations_unreadable", file=str(self._path), reason=str(error))
            return
        if data == self._seen:
            return
        self._seen = data
        try:
            found = parse(data)
        except RevocationsError as error:
            _log.error(
                "revocations_unreadable", file=str(self._path), reason=str(error), remedy="former lists stay in force"
            )
            return
        _log.info("revocations_changed", lists=len(found.revoked), revoked=len(found.serials))
        self._changed(found)
