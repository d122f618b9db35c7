"""istiod's configuration for this waypoint, passed on to the Envoy beside it, and Envoy's verdict passed back.

The last answer of istiod stays in these collections, so an Envoy that restarts is configured again at once, also while istiod is away.

istiod counts on an acknowledgement: it lets node proxies trust a waypoint only once the waypoint enforces what it was sent. So an answer
of istiod is acknowledged when Envoy has taken it, and refused in Envoy's own words when Envoy refused it. What Envoy has not asked for
(the endpoints of a cluster, the routes of a listener that it does not have) it does not use, so it has nothing to say about it.
An Envoy that is away or busy for long must not keep everything else from being told, so its answer is refused for the time being; once
Envoy has taken it all the same, istiod is asked to send it again, and hears so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from envoy.config.cluster.v3 import cluster_pb2

from tulle.xds import types
from tulle.xds.client import Rejected, Subscription
from tulle.xds.delta import Rejection, TypeState
from tulle.xds.resources import ResourceMap

RELAYED = (types.CLUSTER, types.ENDPOINTS, types.EXTENSION, types.LISTENER, types.ROUTES)
_ASKED_FOR_AS_A_WHOLE = frozenset({types.CLUSTER, types.LISTENER})
"""Envoy asks for these sooner or later, whatever it has been told; of the others only for what something refers to."""
_PATIENCE = 20.0
"""How long Envoy may take for its verdict, in seconds; shorter than istiod waits for first answers to be taken."""

Readers = Callable[[], Iterable[Mapping[str, TypeState]]]
"""For each open stream of an Envoy, the state of each type that it reads."""

AskAgain = Callable[[str, Iterable[str]], None]
"""Have istiod send resources of a type once more."""


class Relay:
    """The collections that istiod fills and Envoy reads. Call `answered` whenever Envoy has answered, or has left."""

    def __init__(
        self, readers: Readers, patience: float = _PATIENCE, *, ask_again: AskAgain = lambda _type_url, _names: None
    ) -> None:
        self.maps: Mapping[str, ResourceMap] = {type_url: ResourceMap(type_url) for type_url in RELAYED}
        self._readers = readers
        self._patience = patience
        self._ask_again = ask_again
        self._answered = asyncio.Event()
        self._late: dict[str, set[str]] = {}
        """What was refused only because Envoy said nothing, by type."""

    def subscriptions(self) -> Mapping[str, Subscription]:
        """How to ask istiod: for everything of each type, since what it offers this waypoint is only what is this waypoint's."""
        return {type_url: Subscription(_Handler(self, type_url), wildcard=True) for type_url in RELAYED}

    def answered(self) -> None:
        """Envoy has answered something, or a stream of it ended."""
        self._answered.set()
        for type_url in [one for one, names in self._late.items() if self._settled(one, frozenset(names))]:
            self._ask_again(type_url, self._late.pop(type_url))

    async def verdict(self, type_url: str, names: Iterable[str]) -> None:
        """Wait until Envoy has taken the resources of these names as they stand. Raises Rejected when it refuses one."""
        wanted = frozenset(names)
        try:
            async with asyncio.timeout(self._patience):
                while not self._settled(type_url, wanted):
                    self._answered.clear()
                    await self._answered.wait()
        except TimeoutError:
            self._late.setdefault(type_url, set()).update(wanted)
            raise Rejected(f"the waypoint's Envoy has not answered within {self._patience:g} seconds") from None
        refused = self._refused(type_url, wanted)
        if refused:
            words = "; ".join(f"{name}: {rejection.message}" for name, rejection in sorted(refused.items()))
            raise Rejected(words, refused)

    def _settled(self, type_url: str, names: frozenset[str]) -> bool:
        streams = tuple(self._readers())
        if not streams:
            return False
        for stream in streams:
            state = stream.get(type_url)
            if state is None:
                if type_url in _ASKED_FOR_AS_A_WHOLE:
                    return False
            elif not _open_names(state).isdisjoint(names):
                return False
        return True

    def _refused(self, type_url: str, names: frozenset[str]) -> dict[str, Rejection]:
        states = (stream.get(type_url) for stream in self._readers())
        return {
            name: state.refused[name] for state in states if state is not None for name in names & state.refused.keys()
        }


def _open_names(state: TypeState) -> frozenset[str]:
    """The resources on which the client's last word is still out."""
    in_flight = state.in_flight
    sent = (entry.name for entry in in_flight.updated) if in_flight is not None else ()
    return frozenset((*state.dirty, *sent, *(state.unsure - state.refused.keys())))


class _Handler:
    """Applies one answer of istiod to one collection, and waits for what Envoy says to it."""

    def __init__(self, relay: Relay, type_url: str) -> None:
        self._relay = relay
        self._resources = relay.maps[type_url]

    async def __call__(self, updated: Mapping[str, bytes], removed: Sequence[str]) -> None:
        for name, value in updated.items():
            if self._resources.type_url == types.CLUSTER:
                # Decoded, because a cluster says which endpoints must reach Envoy before what uses it.
                self._resources.set(name, cluster_pb2.Cluster.FromString(value))
            else:
                self._resources.set_encoded(name, value)
        for name in removed:
            self._resources.remove(name)
        if updated:
            await self._relay.verdict(self._resources.type_url, updated)
