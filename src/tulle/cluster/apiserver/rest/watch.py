"""watch: a stream of the changes after a revision, optionally after the present state.

Selectors act on both sides of a change: an object that leaves the selector is DELETED for this watcher, one that enters it
is ADDED. Bookmarks tell a quiet watcher how far the store has come.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
from aiohttp import web

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.registry import Registry
from tulle.cluster.apiserver.request import truthy
from tulle.cluster.apiserver.rest import response
from tulle.cluster.apiserver.rest.call import Call
from tulle.cluster.apiserver.rest.convert import from_storage, is_identity
from tulle.cluster.apiserver.rest.objects import parse_number, parse_revision
from tulle.cluster.apiserver.rest.read import Filter, filter_of
from tulle.cluster.apiserver.rest.response import Format
from tulle.cluster.apiserver.table import render
from tulle.cluster.store import CompactedError, Event, FutureRevisionError, Record, Store, Watcher

_BOOKMARK_EVERY = 60.0
_SHORTEST_DEFAULT = 1800.0
_INITIAL_END = {"k8s.io/initial-events-end": "true"}
Object = dict[str, Any]


def change_for(event: Event, wanted: Filter) -> tuple[str, Record | bytes] | None:
    """What a change is to a watcher with this filter: (type, object), or None."""
    before, after = wanted.matches(event.old), wanted.matches(event.new)
    if after and event.new is not None:
        return ("MODIFIED" if before else "ADDED"), event.new
    if before and event.old is not None:
        return "DELETED", event.deleted or _at_revision(event)
    return None


def _at_revision(event: Event) -> bytes:
    """The last state that matched, at the revision of the change that made it leave."""
    if event.old is None:
        raise ValueError("an object that was never there cannot leave a selector")
    obj = event.old.decode()
    obj["metadata"]["resourceVersion"] = str(event.revision)
    return msgspec.json.encode(obj)


class _Encoder:
    """Event lines in the negotiated form."""

    def __init__(self, call: Call, form: Format) -> None:
        self._kind = call.kind
        self._form = form
        self._include = response.include_object(call)
        self._plain = form.shape == "object" and is_identity(call.kind)
        self._columns = True

    def line(self, change: str, value: bytes) -> bytes:
        """One event."""
        if self._plain:
            return b'{"type":"%s","object":%s}\n' % (change.encode(), value)
        obj = from_storage(self._kind, msgspec.json.decode(value))
        return self._wrapped(change, obj)

    def _wrapped(self, change: str, obj: Object) -> bytes:
        body: Object = response.shaped(obj, self._form)
        if self._form.shape == "table":
            revision = obj["metadata"].get("resourceVersion", "")
            body = render.table(self._kind, [obj], {"resourceVersion": revision}, self._include, columns=self._columns)
            self._columns = False
        return msgspec.json.encode({"type": change, "object": body}) + b"\n"

    def bookmark(self, revision: int, annotations: dict[str, str] | None = None) -> bytes:
        """A bookmark at a revision."""
        metadata: Object = {"resourceVersion": str(revision), "creationTimestamp": None}
        if annotations:
            metadata["annotations"] = annotations
        obj: Object = {"kind": self._kind.kind, "apiVersion": self._kind.api_version, "metadata": metadata}
        if self._form.shape == "table":
            body = render.bookmark(obj)
            return msgspec.json.encode({"type": "BOOKMARK", "object": body}) + b"\n"
        return msgspec.json.encode({"type": "BOOKMARK", "object": response.shaped(obj, self._form)}) + b"\n"


def _start(call: Call, store: Store, wanted: Filter) -> tuple[Watcher, list[Record], bool]:
    """(watcher, records to send first, whether their end is to be marked). Raises StatusError."""
    text = call.query.get("resourceVersion", "")
    send_initial = call.query.get("sendInitialEvents")
    _check_initial(call, send_initial)
    revision = parse_revision(text) if text else 0
    namespace = call.info.namespace if call.kind.namespaced else ""
    if revision > store.revision:
        raise errors.too_large_revision(revision, store.revision)
    from_now = truthy(send_initial) or (send_initial is None and revision == 0)
    if from_now or revision == 0:
        initial = [r for r in store.list(call.kind.storage, namespace) if wanted.matches(r)] if from_now else []
        return store.watch(call.kind.storage, namespace, store.revision), initial, truthy(send_initial)
    return store.watch(call.kind.storage, namespace, revision), [], False


def _check_initial(call: Call, send_initial: str | None) -> None:
    match = call.query.get("resourceVersionMatch", "")
    if send_initial is None and match:
        problem = errors.forbidden_field(
            "resourceVersionMatch", "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        )
    elif send_initial is not None and match != "NotOlderThan":
        problem = errors.forbidden_field(
            "resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        )
    elif truthy(send_initial) and not truthy(call.query.get("allowWatchBookmarks")):
        problem = errors.forbidden_field("sendInitialEvents", "sendInitialEvents requires allowWatchBookmarks")
    else:
        return
    raise errors.invalid("ListOptions", "meta.k8s.io", "", [problem])


def _timeout(call: Call) -> float:
    seconds = parse_number("timeoutSeconds", call.query.get("timeoutSeconds") or "0")
    return float(seconds) or _SHORTEST_DEFAULT * (1 + random.random())  # noqa: S311 - jitter


async def watch(call: Call, store: Store, registry: Registry) -> web.StreamResponse:
    """Stream the changes until the timeout, the client's departure or an overflow."""
    form = response.format_of(call)
    wanted = filter_of(call, registry)
    deadline = time.monotonic() + _timeout(call)
    try:
        watcher, initial, mark_end = _start(call, store, wanted)
    except CompactedError as error:
        return await _expired(call, error)
    except FutureRevisionError as error:
        raise errors.too_large_revision(error.requested, error.current) from None
    try:
        encoder, store_revision = _Encoder(call, form), store.revision
        stream = await _open(call)
        first = [encoder.line("ADDED", record.value) for record in initial]
        if mark_end:
            first.append(encoder.bookmark(store_revision, _INITIAL_END))
        bookmarks = truthy(call.query.get("allowWatchBookmarks"))
        with contextlib.suppress(ConnectionResetError):  # the client has seen enough
            if first:
                await stream.write(b"".join(first))
            await _Following(stream, watcher, store, wanted, encoder, deadline, bookmarks).run()
        return stream
    finally:
        store.unwatch(watcher)


async def _open(call: Call) -> web.StreamResponse:
    stream = web.StreamResponse(headers={"Content-Type": "application/json"})
    for name, value in response.warning_headers(call.options.warnings):
        stream.headers.add(name, value)
    stream.enable_chunked_encoding()
    await stream.prepare(call.request)
    return stream


async def _expired(call: Call, error: CompactedError) -> web.StreamResponse:
    """A watch from too far back is answered with 200 and one ERROR event, as clients expect."""
    stream = await _open(call)
    body = errors.expired(str(error)).body()
    await stream.write(msgspec.json.encode({"type": "ERROR", "object": body}) + b"\n")
    return stream


@dataclass(frozen=True, slots=True)
class _Following:
    """One watch in progress."""

    stream: web.StreamResponse
    watcher: Watcher
    store: Store
    wanted: Filter
    encoder: _Encoder
    deadline: float
    bookmarks: bool

    async def run(self) -> None:
        """Write changes as they come, until the deadline or the watcher's end; what came before that is written still."""
        marked = self.store.revision
        while True:
            left = self.deadline - time.monotonic()
            events = await self.watcher.drain(max(0.0, min(left, _BOOKMARK_EVERY)))
            # Nothing can be queued between here and the next await, so this watcher has seen all up to `reached`.
            reached, over = self.store.revision, self.watcher.overflowed
            lines = list(_lines(events, self.wanted, self.encoder))
            if lines:
                await self.stream.write(b"".join(lines))
            if over:
                return  # no bookmark may cover what it could not keep: the client asks again from the last that it was sent
            ended = time.monotonic() >= self.deadline
            if self.bookmarks and reached > marked and (ended or not events):
                marked = reached
                await self.stream.write(self.encoder.bookmark(marked))
            if ended:
                return


def _lines(events: Iterable[Event], wanted: Filter, encoder: _Encoder) -> Iterable[bytes]:
    for event in events:
        found = change_for(event, wanted)
        if found is not None:
            kind, value = found
            yield encoder.line(kind, value if isinstance(value, bytes) else value.value)
