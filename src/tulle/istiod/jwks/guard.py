"""Which addresses keys may be fetched from (GHSA-fgw5-hp8f-xfhc).

The decision is made where a socket is opened, on the address that it is opened to, and not on the URL: names may resolve to something
else a moment later, and one address has many spellings. Private addresses are fine, since issuers often run in the cluster; refused are
those that only the host itself or the cloud's machinery answers on.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

from aiohttp import AddrInfoType

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
)
"""Metadata services of cloud providers that are not link-local (and the best known one that is)."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class ForbiddenAddressError(OSError):
    """An address that keys may not be fetched from. An OSError, since to the HTTP client it is a connection that failed."""


class Guard:
    """Refuses loopback, link-local, multicast, unspecified and metadata addresses, except those in `allowed` (CIDR ranges)."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self._allowed = tuple(ipaddress.ip_network(text, strict=False) for text in allowed)

    def socket(self, target: AddrInfoType) -> socket.socket:
        """A socket for a connection to `target`. Raises ForbiddenAddressError."""
        family, kind, protocol, _, address = target
        self.check(str(address[0]))
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made

    def check(self, text: str) -> None:
        """Raises ForbiddenAddressError if the address may not be asked; also for what is no address in its usual spelling."""
        try:
            address = _inner(ipaddress.ip_address(text))
        except ValueError:
            raise ForbiddenAddressError(f"{text!r} is no IP address in its usual spelling") from None
        if any(address in network for network in self._allowed):
            return
        special = address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified
        if special or address in _METADATA:
            raise ForbiddenAddressError(
                f"{text} is a loopback, link-local, multicast, unspecified or metadata address, where keys are not fetched from; "
                "tulle.jwksAllowedAddresses in the mesh configuration can allow it"
            )


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
