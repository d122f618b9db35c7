"""Addresses for hosts of ServiceEntries that give none: what pods are told when they ask for such a name (spec D11).

Without an address of its own a host would be resolved by DNS outside the mesh, and the traffic to it would go past its waypoint. Each host
gets one IPv4 and one IPv6 address of the same number, from the blocks that upstream takes them from, and keeps them: they are written to
the object's status (`status.addresses`), which is all that another istiod needs to go on from.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any, Final, NamedTuple, TypeAlias

import structlog

from tulle.istiod.index.entries import unaddressed_hosts
from tulle.kube.client import Client
from tulle.kube.informer import Change, Informer
from tulle.kube.queue import WorkQueue
from tulle.kube.resources import SERVICE_ENTRIES

log = structlog.get_logger("tulle.istiod.addresses")

V4: Final = IPv4Network("240.240.0.0/16")
V6: Final = IPv6Network("2001:2::/48")
_LAST: Final = V4.num_addresses - 2
_MANAGER: Final = "istio-ip-autoallocate"

Key: TypeAlias = tuple[str, str]
Manifest: TypeAlias = Mapping[str, Any]


class Host(NamedTuple):
    """A host of one ServiceEntry; the same name in another is another host."""

    entry: Key
    name: str


class Numbers:
    """Which number each host has. Pure."""

    def __init__(self) -> None:
        self._of: dict[Host, int] = {}
        self._taken: dict[int, Host] = {}

    def claim(self, host: Host, number: int) -> None:
        """Let a host keep what it had, unless that is another's."""
        if host not in self._of and number not in self._taken:
            self._of[host], self._taken[number] = number, host

    def of(self, host: Host) -> int | None:
        """The host's number, a new one if it has none; None when there is none left.

        The first choice depends on the names alone, so that an object that is made again mostly gets what it had.
        """
        if host not in self._of:
            digest = sha256("/".join((*host.entry, host.name)).encode()).digest()
            first = int.from_bytes(digest[:8]) % _LAST
            free = (one for offset in range(_LAST) if (one := (first + offset) % _LAST + 1) not in self._taken)
            number = next(free, None)
            if number is None:
                return None
            self.claim(host, number)
        return self._of[host]

    def release(self, entry: Key, keep: Iterable[str] = ()) -> None:
        """Take back the numbers of an entry's hosts, but of those to keep."""
        kept = set(keep)
        for host in [one for one in self._of if one.entry == entry and one.name not in kept]:
            del self._taken[self._of.pop(host)]


def addresses(number: int) -> tuple[str, str]:
    """The two addresses of a number."""
    return str(V4[number]), str(V6[number])


def written(manifest: Manifest) -> list[dict[str, str]]:
    """The addresses in an object's status. Status is anybody's to write: what is none is left out."""
    status = manifest.get("status") or {}
    found = status.get("addresses") if isinstance(status, Mapping) else None
    entries = found if isinstance(found, list) else []
    return [{"host": str(one.get("host")), "value": str(one.get("value"))} for one in entries if isinstance(one, dict)]


def numbers_in(manifest: Manifest) -> Iterator[tuple[str, int]]:
    """The numbers that an object's status gives its hosts."""
    wanted = set(unaddressed_hosts(manifest))
    for one in written(manifest):
        try:
            address = ip_address(one["value"])
        except ValueError:
            continue
        if one["host"] in wanted and address in V4 and 0 < (number := int(address) - int(V4[0])) <= _LAST:
            yield one["host"], number


class AddressAllocator:
    """`run` allocates, and is to run in one istiod only."""

    def __init__(self, client: Client, entries: Informer[dict[str, Any]]) -> None:
        self._client = client
        self._entries = entries
        self._queue: WorkQueue[Key] = WorkQueue()
        self._numbers = Numbers()
        entries.on_change(self._changed)

    def _changed(self, change: Change[dict[str, Any]]) -> None:
        self._queue.add(change.key)

    async def run(self) -> None:
        """Allocate until cancelled. What was allocated before is known before anything new is."""
        self._numbers = Numbers()
        for key, manifest in sorted(self._entries.store.items(), key=_age):
            for host, number in numbers_in(manifest):
                self._numbers.claim(Host(key, host), number)
            self._queue.add(key)
        await self._queue.work(self._reconcile, workers=1)

    async def _reconcile(self, key: Key) -> None:
        manifest = self._entries.store.get(key)
        hosts = unaddressed_hosts(manifest) if manifest is not None else ()
        self._numbers.release(key, hosts)
        if manifest is None:
            return
        wanted = list(self._wanted(key, hosts))
        if wanted == written(manifest):
            return
        body = {"metadata": {"namespace": key[0], "name": key[1]}, "status": {"addresses": wanted} if wanted else {}}
        await self._client.patch(
            SERVICE_ENTRIES,
            key[1],
            body,
            key[0],
            kind="apply",
            subresource="status",
            field_manager=_MANAGER,
            force=True,
        )
        log.info("addresses allocated", service_entry="/".join(key), addresses=wanted)

    def _wanted(self, key: Key, hosts: Iterable[str]) -> Iterator[dict[str, str]]:
        for host in hosts:
            number = self._numbers.of(Host(key, host))
            if number is None:
                log.error(
                    "no address is left for a host",
                    service_entry="/".join(key),
                    host=host,
                    block=str(V4),
                    remedy=_REMEDY,
                )
                continue
            yield from ({"host": host, "value": value} for value in addresses(number))


_REMEDY: Final = "give the ServiceEntry spec.addresses"


def _age(item: tuple[Key, Manifest]) -> tuple[str, Key]:
    meta = item[1].get("metadata") or {}
    return str(meta.get("creationTimestamp") or ""), item[0]
