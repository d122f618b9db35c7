"""One type on one client's stream: what it subscribes to, what it was sent, and what is to be sent next.

For each type a stream remembers what the client subscribes to and which version of which resource it was last sent.
Whatever happens (a change, a subscription, a reconnection) only marks names as worth a look; a response is then made
by comparing those names with what was sent. Changes that come while a response is unacknowledged therefore fold into
the next one, and the cost of a change does not depend on how many resources there are.

A refusal (NACK) is of a whole response, and does not say which resource was at fault, nor whether the others are in
use. So a refused response is sent again in halves until what is refused is a single resource: then the others are known
to be in use, and the refusal has a name. That one is kept for whoever asks and not sent again until it changes; the
client keeps its previous version of it in the meantime.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from envoy.service.discovery.v3 import discovery_pb2

from tulle.xds import types
from tulle.xds.resources import Entry, ResourceMap

WILDCARD: Final = "*"
CONTROL_PLANE: Final = "tulle"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A response that the client refused: its type, its nonce, and the client's own words."""

    type_url: str
    nonce: str
    message: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Push:
    """One response: resources that are new or changed, names that are gone (or were never there).

    ``joined`` is the encoding of all of ``updated`` where somebody has it already.
    """

    type_url: str
    nonce: str
    updated: tuple[Entry, ...]
    removed: tuple[str, ...]
    joined: bytes | None = field(default=None, compare=False, repr=False)

    def encode(self, control_plane: str = CONTROL_PLANE) -> bytes:
        """The ``DeltaDiscoveryResponse``, joined from the resources' own encodings."""
        head = discovery_pb2.DeltaDiscoveryResponse(
            type_url=self.type_url, nonce=self.nonce, removed_resources=self.removed
        )
        head.control_plane.identifier = control_plane
        encoded: bytes = head.SerializeToString()
        if self.joined is not None:
            return encoded + self.joined
        return b"".join((encoded, *(entry.wire for entry in self.updated)))


@dataclass(slots=True)
class TypeState:
    """One type on one stream.

    ``sent`` is what the client was last offered: name -> version. Of what is in ``unsure`` it may hold that, an older
    version, or none, because the response was refused. ``suspects`` are parts of such responses that are to be sent
    again, and ``refused`` are the resources found to be at fault, each with what the client said. The nonces are those of
    the last response and of the last one that the client took.
    """

    resources: ResourceMap
    wildcard: bool = False
    named: set[str] = field(default_factory=set)
    sent: dict[str, str] = field(default_factory=dict)
    unsure: set[str] = field(default_factory=set)
    suspects: deque[tuple[str, ...]] = field(default_factory=deque)
    refused: dict[str, Rejection] = field(default_factory=dict)
    dirty: set[str] = field(default_factory=set)
    forced: set[str] = field(default_factory=set)
    missing: set[str] = field(default_factory=set)
    in_flight: Push | None = None
    answered: bool = False
    narrow: bool = True
    nonce_sent: str = ""
    nonce_acked: str = ""

    @property
    def type_url(self) -> str:
        """The type this is about."""
        return self.resources.type_url

    @property
    def rejection(self) -> Rejection | None:
        """The client's refusal of a resource as it stands, if there is one."""
        return next(iter(self.refused.values()), None)

    # What the client asked for

    def first_request(self, request: discovery_pb2.DeltaDiscoveryRequest) -> None:
        """The first request for this type: subscriptions, and what the client kept from an earlier stream."""
        subscribe = set(request.resource_names_subscribe)
        unsubscribe = set(request.resource_names_unsubscribe)
        implicit = not subscribe and WILDCARD not in unsubscribe and self.type_url not in types.NEVER_IMPLICIT_WILDCARD
        self.wildcard = (implicit or WILDCARD in subscribe) and WILDCARD not in unsubscribe
        self.sent = dict(request.initial_resource_versions)
        self.dirty.update(self.sent)
        if self.wildcard:
            self.dirty.update(self.resources)
        for name in sorted(subscribe - unsubscribe - {WILDCARD}):
            self._add_name(name, again=False)

    def later_request(self, subscribe: Iterable[str], unsubscribe: Iterable[str]) -> None:
        """Names added and left. Asking again for a name that is held means wanting it sent again."""
        for name in subscribe:
            if name == WILDCARD:
                self.wildcard = True
                self.dirty.update(self.resources)
            else:
                self._add_name(name, again=True)
        for name in unsubscribe:
            if name == WILDCARD:
                self._drop_wildcard()
            elif name in self.named:
                self._drop_name(name)

    def _add_name(self, name: str, *, again: bool) -> None:
        if name not in self.named:
            self.named.add(name)
            self.resources.acquire(name)
        found = self.resources.resolve(name)
        if not found:
            self.missing.add(name)
        for entry in found:
            self.dirty.add(entry.name)
            if again:
                self.forced.add(entry.name)

    def _drop_name(self, name: str) -> None:
        self.named.discard(name)
        self.missing.discard(name)
        self.resources.release(name)
        for entry in self.resources.resolve(name):
            if self.wildcard:
                # The client cannot know whether what it left by name is still part of "everything": tell it.
                self.dirty.add(entry.name)
                self.forced.add(entry.name)
            elif not self.wants(entry):
                self._client_forgets(entry.name)
        if self.resources.get(name) is None:
            self._client_forgets(name)

    def _drop_wildcard(self) -> None:
        self.wildcard = False
        for name in list(self.sent):
            entry = self.resources.get(name)
            if entry is None or not self.wants(entry):
                self._client_forgets(name)

    def _client_forgets(self, name: str) -> None:
        """The client left a resource by itself, if it judged by what we judge by. If what it holds is outdated it may
        have judged otherwise (by an alias that is gone), so then the resource is removed explicitly.
        """
        entry = self.resources.get(name)
        outdated = entry is None or entry.version != self.sent.get(name) or name in self.unsure
        if name in self.sent and outdated:
            self.dirty.add(name)
            return
        self.sent.pop(name, None)
        self.dirty.discard(name)
        self.forced.discard(name)

    def wants(self, entry: Entry) -> bool:
        """Whether the client's subscriptions cover the resource, by wildcard, name or alias."""
        return self.wildcard or entry.name in self.named or any(alias in self.named for alias in entry.aliases)

    # What changed

    def changed(self, names: frozenset[str]) -> bool:
        """Note changed resources; says whether the client has an interest in any."""
        before = len(self.dirty) + len(self.missing)
        for name in names:
            entry = self.resources.get(name)
            if name in self.sent or (entry is not None and self.wants(entry)):
                self.dirty.add(name)
            elif name in self.named and self.resources.is_given_up(name):
                self.missing.add(name)
        return len(self.dirty) + len(self.missing) > before

    def send_again(self, name: str) -> None:
        """Send a resource once more, if the client's subscriptions cover it."""
        entry = self.resources.get(name)
        if entry is not None and self.wants(entry):
            self.dirty.add(name)
            self.forced.add(name)

    def told_absent(self, name: str) -> bool:
        """Whether the client asked for a name, was told that there is nothing, and there still is not."""
        asked = self.wildcard or name in self.named
        return asked and self.answered and name not in self.missing and name not in self.resources

    # What to send

    @property
    def has_work(self) -> bool:
        """Whether a response may be due: the first one, or one about names that are worth a look."""
        return not self.answered or bool(self.dirty or self.missing or self.suspects)

    def has_additions(self) -> bool:
        """Whether something is to be sent that the client does not hold."""
        return any(self._to_send(name) is not None for name in self.dirty)

    def idle(self) -> bool:
        """Nothing to send and nothing unacknowledged."""
        return self.in_flight is None and not self.dirty and not self.suspects

    def make_push(self, nonce: str, *, removals: bool) -> Push | None:
        """The next response, or ``None`` if there is nothing to say now; ``removals=False`` keeps those for later."""
        if self.in_flight is not None:
            return None
        if self.wildcard and not self.sent and self.dirty and self.resources:
            return self._push_everything(nonce)
        updated, removed = self._take_dirty(removals=removals)
        removed += self._absent()
        if not updated and not removed:
            updated = self._take_suspects()
        if not updated and not removed and self.answered:
            return None
        for entry in updated:
            self.sent[entry.name] = entry.version
        for name in removed:
            self.sent.pop(name, None)
        self._forget_refusals((*(entry.name for entry in updated), *removed))
        return self._sending(Push(self.type_url, nonce, tuple(updated), tuple(removed)))

    def _push_everything(self, nonce: str) -> Push:
        """To a client that holds nothing and wants everything."""
        everything = self.resources.everything()
        absent = self._absent()
        self.dirty = set()
        self.forced.clear()
        self.sent = dict(everything.versions)
        self._forget_refusals((*everything.versions, *absent))
        return self._sending(Push(self.type_url, nonce, everything.entries, tuple(absent), everything.wire))

    def _sending(self, push: Push) -> Push:
        self.answered = True
        self.nonce_sent = push.nonce
        self.in_flight = push
        return push

    def _take_dirty(self, *, removals: bool) -> tuple[list[Entry], list[str]]:
        updated: list[Entry] = []
        removed: list[str] = []
        kept: set[str] = set()
        for name in sorted(self.dirty):
            entry = self._to_send(name)
            if entry is not None:
                updated.append(entry)
            elif name in self.sent and self._gone(name):
                if removals:
                    removed.append(name)
                else:
                    kept.add(name)
        self.dirty = kept
        self.forced.clear()
        return updated, removed

    def _take_suspects(self) -> list[Entry]:
        """The next part of a refused response, without what changed (and so was sent) since."""
        found: list[Entry] = []
        while self.suspects and not found:
            entries = [self.resources.get(name) for name in self.suspects.popleft() if name in self.unsure]
            found = [entry for entry in entries if entry is not None and self.wants(entry)]
        return found

    def _forget_refusals(self, names: Iterable[str]) -> None:
        """Those resources are sent anew: what the client said of them before is of no more interest."""
        self.refused.pop("", None)
        if not self.unsure and not self.refused:
            return
        for name in names:
            self.unsure.discard(name)
            self.refused.pop(name, None)

    def _to_send(self, name: str) -> Entry | None:
        entry = self.resources.get(name)
        if entry is None or not self.wants(entry):
            return None
        return entry if name in self.forced or self.sent.get(name) != entry.version else None

    def _gone(self, name: str) -> bool:
        entry = self.resources.get(name)
        return entry is None or not self.wants(entry)

    def _absent(self) -> list[str]:
        """Names asked for that stand for nothing, each told once."""
        absent = sorted(name for name in self.missing if not self.resources.resolve(name))
        if self.type_url in types.ANSWERED_WHEN_MADE:
            absent = list(filter(self.resources.is_given_up, absent))
        self.missing.clear()
        return absent

    # What the client answered

    def answer(self, nonce: str, error: str | None) -> Push | None:
        """Match an ACK or NACK with the response in flight; an answer to anything else is stale and means nothing."""
        push = self.in_flight
        if push is None or push.nonce != nonce:
            return None
        self.in_flight = None
        if error is None:
            self.nonce_acked = nonce
        else:
            self._refused(Rejection(self.type_url, nonce, error, tuple(entry.name for entry in push.updated)))
        return push

    def _refused(self, rejection: Rejection) -> None:
        names = rejection.names
        self.unsure.update(names)
        if self.narrow and len(names) > 1:
            middle = len(names) // 2
            self.suspects.extendleft((names[middle:], names[:middle]))
            return
        # Refusing to let go of something has no name of its own.
        self.refused.update(dict.fromkeys(names or ("",), rejection))

    def close(self) -> None:
        """The stream ended: leave every name."""
        for name in self.named:
            self.resources.release(name)
        self.named.clear()
