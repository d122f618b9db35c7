"""A versioned collection of one type's resources, encoded once however many clients read it.

A control plane with thousands of clients must not encode a workload thousands of times, nor compare whole collections
when one entry changes. So every resource is kept in the form in which it goes on the wire, with a version that is a
hash of its content (a restarted server gives unchanged content the same version, and a client that reconnects is sent
nothing), and whoever reads the collection is told the names that changed and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias

from envoy.config.cluster.v3 import cluster_pb2
from envoy.service.discovery.v3 import discovery_pb2
from google.protobuf.message import Message

Listener: TypeAlias = Callable[[frozenset[str]], None]
Demand: TypeAlias = Callable[[str], None]

_RESOURCES_TAG = b"\x12"  # field 2, length-delimited, in both DeltaDiscoveryResponse and DiscoveryResponse


@dataclass(frozen=True, slots=True)
class Entry:
    """One resource as it stands: ``wire`` is its whole ``resources`` field of a delta response, tag and length too.

    ``endpoints`` names the load assignment a cluster waits for before it serves (empty for every other type).
    """

    name: str
    version: str
    aliases: tuple[str, ...]
    wire: bytes
    endpoints: str = ""

    def body(self) -> bytes:
        """The resource message itself, encoded, without its envelope."""
        value: bytes = self.envelope().resource.value
        return value

    def envelope(self) -> discovery_pb2.Resource:
        """The decoded ``envoy.service.discovery.v3.Resource``."""
        (envelope,) = discovery_pb2.DeltaDiscoveryResponse.FromString(self.wire).resources
        return envelope


@dataclass(frozen=True, slots=True)
class Everything:
    """A whole collection at one moment: its resources by name, their versions, and all of ``wire`` joined.

    A herd of clients that follow everything is sent the same bytes, so these are joined once.
    """

    entries: tuple[Entry, ...]
    versions: Mapping[str, str]
    wire: bytes


class ResourceMap:
    """The resources of one type that some clients see: name -> resource, with versions and aliases.

    Not safe to use from several threads; every call returns at once, and changes made without an ``await`` between
    them reach a client together.

    ``on_wanted`` is told when a first client subscribes to a name, ``on_unwanted`` when the last one leaves it (or
    disconnects); neither is told of wildcard subscriptions. ``on_wanted`` runs before the client is answered, so it may
    ``set`` the resource on the spot.
    """

    def __init__(self, type_url: str, *, on_wanted: Demand | None = None, on_unwanted: Demand | None = None) -> None:
        self.type_url = type_url
        self._entries: dict[str, Entry] = {}
        self._by_alias: dict[str, set[str]] = {}
        self._everything: Everything | None = None
        self._listeners: dict[int, Listener] = {}
        self._next_listener = 0
        self._wanted: dict[str, int] = {}
        self._given_up: set[str] = set()
        self.on_wanted = on_wanted
        self.on_unwanted = on_unwanted

    # What is there

    def get(self, name: str) -> Entry | None:
        """The resource of that name, or ``None``."""
        return self._entries.get(name)

    def resolve(self, name: str) -> tuple[Entry, ...]:
        """The resources that a subscription to ``name`` means: the one of that name, and those with that alias."""
        aliased = sorted(self._by_alias.get(name, ()))
        found = [self._entries[other] for other in aliased if other != name]
        own = self._entries.get(name)
        return tuple(found) if own is None else (own, *found)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def entries(self) -> Iterable[Entry]:
        """Every resource, in the order of first appearance."""
        return self._entries.values()

    def everything(self) -> Everything:
        """All of it; made when it is asked for, and then again after a change."""
        if self._everything is None:
            entries = tuple(self._entries[name] for name in sorted(self._entries))
            versions = {entry.name: entry.version for entry in entries}
            self._everything = Everything(entries, versions, b"".join(entry.wire for entry in entries))
        return self._everything

    # Changing it

    def set(self, name: str, message: Message, aliases: Iterable[str] = (), *, body_type: str = "") -> None:
        """Put a resource in place. The same content with the same aliases is no change and tells nobody.

        ``body_type`` is the message's own type URL where that is not the collection's.
        """
        value = message.SerializeToString(deterministic=True)
        self._put(name, value, tuple(aliases), _endpoints(message), body_type)

    def set_encoded(self, name: str, value: bytes, aliases: Iterable[str] = ()) -> None:
        """As ``set``, from the encoded message (a resource passed on as it came)."""
        self._put(name, value, tuple(aliases), "")

    def remove(self, name: str) -> None:
        """Take a resource away; a name that is not there is no change."""
        entry = self._entries.pop(name, None)
        if entry is None:
            return
        self._forget_aliases(entry)
        self._everything = None
        self._tell(name)

    def give_up(self, name: str) -> None:
        """Tell who waits for a resource that is only answered when it is made that it will not be, until it is put in place after all."""
        if name not in self._entries and name in self._wanted:
            self._given_up.add(name)
            self._tell(name)

    def is_given_up(self, name: str) -> bool:
        """Whether nobody need wait for the resource of that name."""
        return name in self._given_up

    def replace(self, resources: Mapping[str, Message]) -> None:
        """Make the collection exactly ``resources`` (without aliases); only differences are told."""
        for name in [name for name in self._entries if name not in resources]:
            self.remove(name)
        for name, message in resources.items():
            self.set(name, message)

    def _put(self, name: str, value: bytes, aliases: tuple[str, ...], endpoints: str, body_type: str = "") -> None:
        digest = blake2b(value, digest_size=12)
        for alias in aliases:
            digest.update(b"\0" + alias.encode())
        version = digest.hexdigest()
        before = self._entries.get(name)
        if before is not None:
            if before.version == version:
                return
            self._forget_aliases(before)
        self._given_up.discard(name)
        wire = _wire(body_type or self.type_url, name, version, aliases, value)
        self._entries[name] = Entry(name, version, aliases, wire, endpoints)
        for alias in aliases:
            self._by_alias.setdefault(alias, set()).add(name)
        self._everything = None
        self._tell(name)

    def _forget_aliases(self, entry: Entry) -> None:
        for alias in entry.aliases:
            names = self._by_alias[alias]
            names.discard(entry.name)
            if not names:
                del self._by_alias[alias]

    # Telling readers

    def subscribe(self, fn: Listener) -> Callable[[], None]:
        """Call ``fn`` with the names that changed, at once and in the caller's context; returns how to stop."""
        key = self._next_listener
        self._next_listener += 1
        self._listeners[key] = fn
        return lambda: self._unsubscribe(key)

    def _unsubscribe(self, key: int) -> None:
        self._listeners.pop(key, None)

    def _tell(self, name: str) -> None:
        if self._listeners:
            names = frozenset((name,))
            for fn in tuple(self._listeners.values()):
                fn(names)

    # Demand by name

    def acquire(self, name: str) -> None:
        """A client subscribed to ``name``."""
        count = self._wanted.get(name, 0)
        self._wanted[name] = count + 1
        if count == 0 and self.on_wanted is not None:
            self.on_wanted(name)

    def release(self, name: str) -> None:
        """A client that subscribed to ``name`` left it."""
        count = self._wanted[name] - 1
        if count:
            self._wanted[name] = count
            return
        del self._wanted[name]
        self._given_up.discard(name)
        if self.on_unwanted is not None:
            self.on_unwanted(name)

    def wanted(self) -> frozenset[str]:
        """The names that at least one client subscribes to by name."""
        return frozenset(self._wanted)


def _endpoints(message: Message) -> str:
    """The load assignment that a cluster takes from the same stream."""
    if not isinstance(message, cluster_pb2.Cluster) or message.type != cluster_pb2.Cluster.EDS:
        return ""
    eds = message.eds_cluster_config
    name: str = (eds.service_name or message.name) if eds.eds_config.HasField("ads") else ""
    return name


def _wire(type_url: str, name: str, version: str, aliases: tuple[str, ...], value: bytes) -> bytes:
    envelope = discovery_pb2.Resource(name=name, version=version, aliases=aliases)
    envelope.resource.type_url = type_url
    envelope.resource.value = value
    encoded: bytes = envelope.SerializeToString()
    return _RESOURCES_TAG + _varint(len(encoded)) + encoded


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
