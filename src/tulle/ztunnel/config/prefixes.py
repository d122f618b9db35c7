"""Which addresses are worth a look-up by name: few prefixes that cover the mesh.

Every pod's listener holds them, so they must be few and must seldom change.  They only ever grow; when there would be
too many, they are made wider.  An address within a prefix that turns out not to be of the mesh is simply sent on, a
little less directly.  Services have prefixes apart from pods, because a service is one destination per port and a pod is
one for all its ports.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network
from typing import Final

from tulle.ztunnel.policy.terms import Address, Network

#: Prefix lengths to try, the finest first.
_WIDTHS: Final = {4: (24, 20, 16, 12, 8), 6: (112, 96, 80, 64, 48, 32)}
LIMIT: Final = 64


@dataclass(frozen=True)
class Prefixes:
    """Where services are, and where everything else of the mesh is.  The two do not overlap."""

    services: tuple[Network, ...] = ()
    direct: tuple[Network, ...] = ()


def divide(services: Iterable[Network], others: Iterable[Network]) -> Prefixes:
    """Prefixes of others that overlap with one of services count as those of services, which know both."""
    of_services = tuple(services)
    apart = [prefix for prefix in others if not any(_overlap(prefix, service) for service in of_services)]
    mixed = [prefix for prefix in others if prefix not in apart]
    return Prefixes(_merged((*of_services, *mixed)), _merged(apart))


def _overlap(one: Network, other: Network) -> bool:
    four = isinstance(one, IPv4Network) and isinstance(other, IPv4Network) and one.overlaps(other)
    six = isinstance(one, IPv6Network) and isinstance(other, IPv6Network) and one.overlaps(other)
    return four or six


def _merged(networks: Iterable[Network]) -> tuple[Network, ...]:
    """In order, and merged where adjacent."""
    found = tuple(networks)
    four = [network for network in found if isinstance(network, IPv4Network)]
    six = [network for network in found if isinstance(network, IPv6Network)]
    return (*collapse_addresses(four), *collapse_addresses(six))


class GrowingPrefixes:
    """Grows with the addresses it is told of."""

    def __init__(self) -> None:
        self._width = dict.fromkeys(_WIDTHS, 0)
        self._members: dict[int, set[Network]] = {version: set() for version in _WIDTHS}

    def add(self, addresses: Iterable[Address]) -> bool:
        """Cover these too; whether the prefixes changed."""
        changed = False
        for address in addresses:
            version = address.version
            prefix = self._prefix(address)
            if prefix in self._members[version]:
                continue
            changed = True
            self._members[version].add(prefix)
            while len(self._members[version]) > LIMIT and self._width[version] < len(_WIDTHS[version]) - 1:
                self._widen(version)
        return changed

    def _prefix(self, address: Address) -> Network:
        length = _WIDTHS[address.version][self._width[address.version]]
        return ip_network((address, length), strict=False)

    def _widen(self, version: int) -> None:
        self._width[version] += 1
        length = _WIDTHS[version][self._width[version]]
        self._members[version] = {prefix.supernet(new_prefix=length) for prefix in self._members[version]}

    def networks(self) -> tuple[Network, ...]:
        """The prefixes, merged where they are adjacent, in order."""
        return _merged((*self._members[4], *self._members[6]))
