"""Which addresses keys may be fetched from (GHSA-fgw5-hp8f-xfhc).

The decision is made on the address that is connected to, not on the name in the URL: the resolver of the HTTP client hands out only
addresses that passed, so that a name which resolves to something else a moment later gains nothing. Private addresses are fine, since
issuers often run in the cluster; refused are those that only the host itself or the cloud's machinery answers on.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Sequence

from aiohttp.abc import AbstractResolver, ResolveResult

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200", "168.63.129.16", "192.0.0.192")
)
"""Metadata services of cloud providers that are not link-local (and the best known one that is)."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class ForbiddenAddressError(OSError):
    """An address that keys may not be fetched from. An OSError, since to the HTTP client it is a name that does not resolve."""


class Guard:
    """Refuses loopback, link-local, multicast, unspecified and metadata addresses, except those in `allowed` (CIDR ranges)."""

    def __init__(self, allowed: Sequence[str] = ()) -> None:
        self._allowed = tuple(ipaddress.ip_network(text, strict=False) for text in allowed)

    def check(self, text: str) -> None:
        """Raises ForbiddenAddressError if the address may not be asked."""
        address = _inner(ipaddress.ip_address(text))
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


class GuardedResolver(AbstractResolver):
    """Resolves names by `inner` and lets only guarded addresses through."""

    def __init__(self, guard: Guard, inner: AbstractResolver) -> None:
        self._guard = guard
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises OSError; ForbiddenAddressError when any of the name's addresses may not be asked."""
        found = await self._inner.resolve(host, port, family)
        for result in found:
            self._guard.check(result["host"])
        return found

    async def close(self) -> None:
        await self._inner.close()
