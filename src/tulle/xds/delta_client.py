"""The client's side of a delta ADS stream, without I/O.

It outlives the streams it speaks on: subscriptions and the versions of what was accepted are kept, so that after a
reconnection the server sends only what changed meanwhile. A version is recorded when its resource was accepted and not
before; what was refused is asked for again on the next stream.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from envoy.service.discovery.v3 import discovery_pb2
from google.rpc import code_pb2

from tulle.xds import types
from tulle.xds.delta import WILDCARD


@dataclass(frozen=True, slots=True)
class Update:
    """What one response says: ``updated`` is name -> encoded resource, ``removed`` are names that are gone.

    ``removed`` may also hold a name that was subscribed to and does not exist.
    """

    type_url: str
    nonce: str
    updated: Mapping[str, bytes]
    removed: Sequence[str]
    versions: Mapping[str, str]
    aliases: Mapping[str, tuple[str, ...]]


@dataclass(slots=True)
class _Type:
    wildcard: bool
    names: set[str]
    versions: dict[str, str] = field(default_factory=dict)
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    answered: bool = False
    synced: bool = False


class ClientState:
    """Subscriptions and accepted versions of any number of types, over any number of successive streams."""

    def __init__(self, node: Any) -> None:
        self._node = node
        self._types: dict[str, _Type] = {}
        self._connected = False
        self._node_sent = False

    def add_type(self, type_url: str, *, wildcard: bool = True, names: Iterable[str] = ()) -> None:
        """Declare a type before connecting: everything of it (``wildcard``), some names, or both."""
        self._types[type_url] = _Type(wildcard, set(names))

    def connected(self) -> list[discovery_pb2.DeltaDiscoveryRequest]:
        """A new stream is open: the first request of every type."""
        self._connected = True
        self._node_sent = False
        return [self._first(type_url, state) for type_url, state in self._types.items()]

    def disconnected(self) -> None:
        """The stream is gone; what was accepted stays."""
        self._connected = False
        for state in self._types.values():
            state.answered = False

    def _first(self, type_url: str, state: _Type) -> discovery_pb2.DeltaDiscoveryRequest:
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, initial_resource_versions=state.versions)
        request.resource_names_subscribe.extend(sorted(state.names))
        if state.wildcard and (state.names or type_url in types.NEVER_IMPLICIT_WILDCARD):
            request.resource_names_subscribe.append(WILDCARD)
        elif not state.wildcard and not state.names:
            # An empty subscription would mean everything; this is the way to ask for nothing yet.
            request.resource_names_subscribe.append(WILDCARD)
            request.resource_names_unsubscribe.append(WILDCARD)
        if not self._node_sent:
            request.node.CopyFrom(self._node)
            self._node_sent = True
        return request

    def subscribe(self, type_url: str, names: Iterable[str]) -> list[discovery_pb2.DeltaDiscoveryRequest]:
        """Add names (or aliases) to a type's subscription; the requests to send, if a stream is open."""
        state = self._types[type_url]
        new = sorted(set(names) - state.names)
        state.names.update(new)
        if not new or not self._connected:
            return []
        return [discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=new)]

    def ask_again(self, type_url: str, names: Iterable[str]) -> list[discovery_pb2.DeltaDiscoveryRequest]:
        """Have resources of a type that is followed as a whole sent once more; the requests to send, if a stream is open."""
        if not self._connected:
            return []
        state = self._types[type_url]
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, resource_names_subscribe=sorted(set(names)))
        # Only to ask, not to follow them by name from now on.
        request.resource_names_unsubscribe.extend(sorted(set(names) - state.names))
        return [request]

    def unsubscribe(self, type_url: str, names: Iterable[str]) -> list[discovery_pb2.DeltaDiscoveryRequest]:
        """Leave names; what no other subscription covers is forgotten."""
        state = self._types[type_url]
        gone = sorted(set(names) & state.names)
        state.names.difference_update(gone)
        if not gone:
            return []
        if not state.wildcard:
            for name in [name for name in state.versions if not self._covered(state, name)]:
                self._forget(state, name)
        if not self._connected:
            return []
        return [discovery_pb2.DeltaDiscoveryRequest(type_url=type_url, resource_names_unsubscribe=gone)]

    @staticmethod
    def _expected(state: _Type, item: discovery_pb2.Resource) -> bool:
        return state.wildcard or item.name in state.names or any(alias in state.names for alias in item.aliases)

    @staticmethod
    def _covered(state: _Type, name: str) -> bool:
        return name in state.names or any(alias in state.names for alias in state.aliases.get(name, ()))

    @staticmethod
    def _forget(state: _Type, name: str) -> None:
        state.versions.pop(name, None)
        state.aliases.pop(name, None)

    def receive(self, response: discovery_pb2.DeltaDiscoveryResponse) -> Update:
        """Read a response. It counts as neither accepted nor refused until one of the two is called.

        A resource that was left by ``unsubscribe`` while it was on its way is dropped here; one that is held and lost
        the alias by which it was subscribed to counts as removed.
        """
        state = self._types[response.type_url]
        state.answered = True
        resources = [item for item in response.resources if self._expected(state, item)]
        left = [
            item.name for item in response.resources if not self._expected(state, item) and item.name in state.versions
        ]
        return Update(
            response.type_url,
            response.nonce,
            {item.name: item.resource.value for item in resources},
            (*response.removed_resources, *left),
            {item.name: item.version for item in resources},
            {item.name: tuple(item.aliases) for item in resources},
        )

    def accept(self, update: Update) -> discovery_pb2.DeltaDiscoveryRequest:
        """Everything in the response is in use: the ACK."""
        self._record(update, frozenset())
        return discovery_pb2.DeltaDiscoveryRequest(type_url=update.type_url, response_nonce=update.nonce)

    def reject(
        self, update: Update, reason: str, names: frozenset[str] | None = None
    ) -> discovery_pb2.DeltaDiscoveryRequest:
        """The NACK. ``names`` were refused and the rest is in use; without ``names`` nothing of the response is."""
        if names is not None:
            self._record(update, names)
        request = discovery_pb2.DeltaDiscoveryRequest(type_url=update.type_url, response_nonce=update.nonce)
        request.error_detail.code = code_pb2.INVALID_ARGUMENT
        request.error_detail.message = reason
        return request

    def _record(self, update: Update, refused: frozenset[str]) -> None:
        state = self._types[update.type_url]
        for name in update.removed:
            self._forget(state, name)
        for name, version in update.versions.items():
            if name not in refused:
                state.aliases[name] = update.aliases[name]
                state.versions[name] = version
        state.synced = True

    def versions(self, type_url: str) -> Mapping[str, str]:
        """What was accepted of a type: name -> version."""
        return self._types[type_url].versions

    def answered(self) -> bool:
        """Whether every type was answered on the present stream."""
        return all(state.answered for state in self._types.values())

    def synced(self) -> bool:
        """Whether every type had a first answer that was accepted, at least in part."""
        return all(state.synced for state in self._types.values())
