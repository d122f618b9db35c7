"""The server's side of a delta ADS stream, without I/O: requests in, responses out.

Each type is a ``TypeState`` of its own; this is what they have in common: which collection a type is served from, and the
order between types, so that nothing is referred to before it arrives or taken away while it is still referred to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from envoy.service.discovery.v3 import discovery_pb2

from tulle.xds import types
from tulle.xds.resources import Entry, ResourceMap
from tulle.xds.subscription import WILDCARD, Push, Rejection, TypeState
from tulle.xds.warming import Warming

__all__ = ["WILDCARD", "Push", "Rejection", "ServerStream", "TypeState"]


class ServerStream:
    """One client's ADS stream. Feed it requests, take ``pushes()`` after each and whenever ``on_work`` was called.

    ``source`` gives the collection of a type for this client, or ``None`` for a type that is not served (answered as
    empty). ``narrow=False`` takes a refused response as a whole. The stream must be closed when it ends.
    """

    def __init__(
        self, source: Callable[[str], ResourceMap | None], on_work: Callable[[], None], *, narrow: bool = True
    ) -> None:
        self._source = source
        self._narrow = narrow
        self._on_work = on_work
        self._states: dict[str, TypeState] = {}
        self._ordered: list[TypeState] = []
        self._stop: list[Callable[[], None]] = []
        self._warming = Warming()
        self._nonce = 0

    @property
    def states(self) -> Iterable[TypeState]:
        """The types in use on this stream."""
        return tuple(self._ordered)

    def covered(self, type_url: str) -> tuple[Entry, ...]:
        """The resources of a type that the client's subscriptions cover now."""
        state = self._states[type_url]
        if state.wildcard:
            return tuple(state.resources.entries())
        found = {entry.name: entry for name in sorted(state.named) for entry in state.resources.resolve(name)}
        return tuple(found.values())

    def rejections(self) -> tuple[Rejection, ...]:
        """What the client refuses of what there is now."""
        return tuple(rejection for state in self._ordered for rejection in state.refused.values())

    def synced(self) -> bool:
        """Whether the client acknowledged everything there is to know."""
        return all(state.answered and state.idle() for state in self._ordered)

    def receive(self, request: discovery_pb2.DeltaDiscoveryRequest) -> Rejection | None:
        """Take one request; returns the refusal if it was one and its cause is known."""
        state = self._states.get(request.type_url)
        if state is None:
            state = self._open(request.type_url)
            state.first_request(request)
            return None
        error = request.error_detail.message if request.HasField("error_detail") else None
        push = state.answer(request.response_nonce, error) if request.response_nonce else None
        if push is not None:
            self._note_answer(push, refused=error is not None)
        state.later_request(request.resource_names_subscribe, request.resource_names_unsubscribe)
        if push is None or error is None:
            return None
        return next((found for found in state.refused.values() if found.nonce == push.nonce), None)

    def _open(self, type_url: str) -> TypeState:
        resources = self._source(type_url)
        state = TypeState(resources if resources is not None else ResourceMap(type_url), narrow=self._narrow)
        self._states[type_url] = state
        self._ordered = sorted(
            self._states.values(), key=lambda s: types.PASS_ORDER.get(s.type_url, len(types.PASS_ORDER))
        )
        self._stop.append(state.resources.subscribe(lambda names: self._changed(state, names)))
        return state

    def _changed(self, state: TypeState, names: frozenset[str]) -> None:
        if state.changed(names):
            self._on_work()

    def pushes(self) -> Iterator[Push]:
        """Every response that may go out now, in order. Each is in flight as soon as it was taken."""
        before = None
        while self.has_work and before != (before := self._progress()):
            for state in self._ordered:
                push = self._push(state)
                if push is not None:
                    yield push

    @property
    def has_work(self) -> bool:
        """Whether there may be something to send; most answers of clients leave nothing."""
        return any(state.has_work for state in self._ordered)

    def _progress(self) -> tuple[tuple[bool, int, int], ...]:
        """Changes whenever a pass did anything, so that what waited for it gets another look."""
        return tuple((state.in_flight is None, len(state.dirty), len(state.suspects)) for state in self._ordered)

    @property
    def waiting(self) -> bool:
        """Whether listeners and routes are held back until the endpoints of clusters that were sent are acknowledged."""
        return bool(self._warming)

    def stop_waiting(self) -> None:
        """Hold nothing back any longer: the client has not asked for those endpoints in reasonable time."""
        self._warming.clear()

    def _push(self, state: TypeState) -> Push | None:
        if state.in_flight is not None or not state.has_work:
            return None
        if self._warming and types.ENDPOINTS in types.ADD_AFTER.get(state.type_url, ()):
            return None
        if any(other.has_additions() for other in self._others(types.ADD_AFTER, state)):
            return None
        removals = all(other.idle() for other in self._others(types.REMOVE_AFTER, state))
        self._nonce += 1
        push = state.make_push(str(self._nonce), removals=removals)
        if push is not None and push.type_url == types.CLUSTER:
            self._note_clusters(push)
        return push

    def _others(self, table: Mapping[str, tuple[str, ...]], state: TypeState) -> Iterator[TypeState]:
        for type_url in table.get(state.type_url, ()):
            other = self._states.get(type_url)
            if other is not None:
                yield other

    def _note_clusters(self, push: Push) -> None:
        """Changed clusters wait for their endpoints, anew even when these are as before: send them (again)."""
        self._warming.gone(push.removed)
        endpoints = self._states.get(types.ENDPOINTS)
        for entry in push.updated:
            if entry.endpoints:
                self._warming.sent(entry.name, entry.endpoints)
                if endpoints is not None:
                    endpoints.send_again(entry.endpoints)
        if endpoints is not None:
            self._warming.forget(endpoints.told_absent)

    def _note_answer(self, push: Push, *, refused: bool) -> None:
        if push.type_url == types.ENDPOINTS:
            self._warming.arrived((*(entry.name for entry in push.updated), *push.removed))
        elif push.type_url == types.CLUSTER and refused:
            self._warming.gone(entry.name for entry in push.updated)

    def close(self) -> None:
        """The stream ended. Nothing may be called afterwards."""
        for stop in self._stop:
            stop()
        for state in self._ordered:
            state.close()
        self._stop.clear()
