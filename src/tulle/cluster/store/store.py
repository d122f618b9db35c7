"""The store: optimistic writes, snapshots and watches over the log.

Everything here runs on one event loop. A write takes the next revision, goes to the log, and becomes visible (to readers,
watchers and its own caller alike) only when the log says that it is on the disk. Two writes to one object never overlap:
the second waits for the first and then finds a different revision than it expected.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec
import structlog

from tulle.cluster.store.log import Entry, Log
from tulle.cluster.store.records import Event, Key, Object, Record
from tulle.cluster.store.watch import WINDOW, Watcher, Window

log = structlog.get_logger("tulle.store")

FieldsOf = Callable[[str, Object], Mapping[str, str]]
_COMPACT_EVERY = 1_000


class RevisionConflictError(Exception):
    """The object is not at the revision the writer expected; `current` is what is there now (None: nothing)."""

    def __init__(self, key: Key, expected: int, current: Record | None) -> None:
        super().__init__(f"{key.resource} {key.namespace}/{key.name}: expected revision {expected}")
        self.key = key
        self.expected = expected
        self.current = current


class StoreFailedError(Exception):
    """The log could not be written: nothing of the write is visible, and it may be tried again."""


class _Pending:
    __slots__ = ("done", "new", "old")

    def __init__(self, old: Record | None, new: Record | None, done: asyncio.Future[Record | None]) -> None:
        self.old = old
        self.new = new
        self.done = done


class Store:
    """Objects by key, with revisions. `fields_of(resource, object)` gives the values field selectors may use."""

    def __init__(self, path: Path, fields_of: FieldsOf, *, window: int = WINDOW) -> None:
        self._loop = asyncio.get_running_loop()
        self._fields_of = fields_of
        self._objects: dict[str, dict[tuple[str, str], Record]] = {}
        self._pending: dict[int, _Pending] = {}
        self._busy: dict[Key, asyncio.Future[Record | None]] = {}
        self._watchers: dict[str, set[Watcher]] = {}
        self._listeners: dict[str, list[Callable[[Event], None]]] = {}
        self._uncompacted = 0
        self._log = Log(path, self._committed_on_thread)
        self.revision, compacted, objects, entries = self._log.load()
        self._next = self.revision + 1
        for key, revision, value in objects:
            self._objects.setdefault(key.resource, {})[key.namespace, key.name] = self._record(key, revision, value)
        self._window = Window(compacted, window)
        for entry in entries:
            self._window.append(self._event(entry))
        self._log.start()

    def _record(self, key: Key, revision: int, value: bytes, obj: Object | None = None) -> Record:
        decoded: Object = msgspec.json.decode(value) if obj is None else obj
        labels = decoded.get("metadata", {}).get("labels") or {}
        return Record(key, revision, value, dict(labels), self._fields_of(key.resource, decoded))

    def _next_record(self, before: Record | None, key: Key, revision: int, value: bytes, obj: Object) -> Record:
        """The record after `before`. What a change leaves as it was is kept once: most of them are of a status alone."""
        record = self._record(key, revision, value, obj)
        if before is None:
            return record
        labels = before.labels if before.labels == record.labels else record.labels
        fields = before.fields if before.fields == record.fields else record.fields
        return Record(before.key, revision, value, labels, fields)

    def reindex(self, resource: str) -> None:
        """Ask again for the fields of every record of `resource`, those of the history and of writes under way included."""
        known: dict[int, Record] = {}

        def renewed(record: Record | None) -> Record | None:
            if record is None:
                return None
            if record.revision not in known:
                known[record.revision] = self._record(record.key, record.revision, record.value)
            return known[record.revision]

        for name, record in self._objects.get(resource, {}).items():
            self._objects[resource][name] = renewed(record) or record
        for pending in self._pending.values():
            if any(record is not None and record.key.resource == resource for record in (pending.old, pending.new)):
                pending.old, pending.new = renewed(pending.old), renewed(pending.new)
        self._window.replace(
            resource,
            lambda event: Event(event.revision, event.key, renewed(event.old), renewed(event.new), event.deleted),
        )

    def _event(self, entry: Entry) -> Event:
        old = None if entry.old is None else self._record(entry.key, entry.previous_revision, entry.old)
        if entry.deleted:
            return Event(entry.revision, entry.key, old, None, entry.value)
        return Event(entry.revision, entry.key, old, self._record(entry.key, entry.revision, entry.value))

    @property
    def compacted(self) -> int:
        """History up to this revision is gone."""
        return self._window.compacted

    def get(self, key: Key) -> Record | None:
        """The committed object, or None."""
        return self._objects.get(key.resource, {}).get((key.namespace, key.name))

    def list(self, resource: str, namespace: str = "") -> list[Record]:
        """Committed objects in key order, of one namespace or ("") of all."""
        table = self._objects.get(resource, {})
        if namespace:
            return [table[key] for key in sorted(key for key in table if key[0] == namespace)]
        return [table[key] for key in sorted(table)]

    def list_at(self, resource: str, namespace: str, revision: int) -> Sequence[Record]:
        """What `list` gave when the store was at `revision`. Raises CompactedError or FutureRevisionError."""
        if revision == self.revision:
            return self.list(resource, namespace)
        table = {record.key: record for record in self.list(resource, namespace)}
        for event in reversed(self._since(resource, namespace, revision)):
            if event.old is None:
                table.pop(event.key, None)
            else:
                table[event.key] = event.old
        return [table[key] for key in sorted(table)]

    def _since(self, resource: str, namespace: str, revision: int) -> Sequence[Event]:
        return self._window.since(
            resource, revision, self.revision, lambda event: not namespace or event.key.namespace == namespace
        )

    def resources(self) -> Iterable[str]:
        """Storage resources that hold at least one object."""
        return [resource for resource, table in self._objects.items() if table]

    def watch(self, resource: str, namespace: str, revision: int) -> Watcher:
        """Follow `resource` after `revision`. Raises CompactedError or FutureRevisionError; end it with `unwatch`."""
        watcher = Watcher(resource, namespace, self._since(resource, namespace, revision), self.revision)
        self._watchers.setdefault(resource, set()).add(watcher)
        return watcher

    def unwatch(self, watcher: Watcher) -> None:
        """Stop following."""
        self._watchers.get(watcher.resource, set()).discard(watcher)

    def listen(self, resource: str, listener: Callable[[Event], None]) -> None:
        """Call `listener` on the loop for each committed event of `resource` (before any watcher or caller sees it)."""
        self._listeners.setdefault(resource, []).append(listener)

    def writing(self, resource: str) -> bool:
        """Whether a change of `resource` is on its way to the disk."""
        return any(key.resource == resource for key in self._busy)

    async def write(self, key: Key, obj: Object, expected: int, check: Callable[[], None] | None = None) -> Record:
        """Create (`expected` 0) or replace; sets metadata.resourceVersion in `obj`.

        `check` may refuse by raising, at the last moment: nothing that it saw changes before the write is on its way.
        Returns the record once it is durable. Raises RevisionConflictError, or StoreFailedError when the disk refused it.
        """
        current = await self._claim(key, expected)
        if check is not None:
            check()
        revision = self._take_revision()
        obj.setdefault("metadata", {})["resourceVersion"] = str(revision)
        value = msgspec.json.encode(obj)
        record = self._next_record(current, key, revision, value, obj)
        entry = Entry(
            revision, key, value, False, current.revision if current else 0, current.value if current else None
        )
        await self._commit(entry, current, record)
        return record

    async def delete(self, key: Key, obj: Object, expected: int) -> None:
        """Remove; `obj` is the last state that watchers get. Raises as `write`."""
        current = await self._claim(key, expected)
        revision = self._take_revision()
        obj.setdefault("metadata", {})["resourceVersion"] = str(revision)
        value = msgspec.json.encode(obj)
        entry = Entry(
            revision, key, value, True, current.revision if current else 0, current.value if current else None
        )
        await self._commit(entry, current, None)

    async def _claim(self, key: Key, expected: int) -> Record | None:
        while key in self._busy:
            await asyncio.wait([self._busy[key]])
        current = self.get(key)
        if (current.revision if current else 0) != expected:
            raise RevisionConflictError(key, expected, current)
        return current

    def _take_revision(self) -> int:
        revision = self._next
        self._next += 1
        return revision

    async def _commit(self, entry: Entry, old: Record | None, new: Record | None) -> None:
        done: asyncio.Future[Record | None] = self._loop.create_future()
        self._pending[entry.revision] = _Pending(old, new, done)
        self._busy[entry.key] = done
        self._log.commit(entry)
        # Shielded: a client that goes away must not leave the key claimed, nor undo what is on its way to the disk.
        await asyncio.shield(done)

    def _committed_on_thread(self, entries: Sequence[Entry], error: Exception | None) -> None:
        self._loop.call_soon_threadsafe(self._committed, entries, error)

    def _committed(self, entries: Sequence[Entry], error: Exception | None) -> None:
        for entry in entries:
            pending = self._pending.pop(entry.revision)
            del self._busy[entry.key]
            if error is None:
                self._apply(entry, pending)
                pending.done.set_result(pending.new)
            else:
                failure = StoreFailedError(f"{entry.key.resource} {entry.key.namespace}/{entry.key.name}: {error}")
                pending.done.set_exception(failure)
                pending.done.exception()  # retrieved here, because the caller may have gone away

    def _apply(self, entry: Entry, pending: _Pending) -> None:
        table = self._objects.setdefault(entry.key.resource, {})
        if pending.new is None:
            del table[entry.key.namespace, entry.key.name]
        else:
            table[entry.key.namespace, entry.key.name] = pending.new
        self.revision = entry.revision
        deleted = entry.value if entry.deleted else b""
        event = Event(entry.revision, entry.key, pending.old, pending.new, deleted)
        self._compact(self._window.append(event))
        for listener in self._listeners.get(entry.key.resource, ()):
            try:
                listener(event)
            except Exception:
                # The write is on the disk: its writer, those committed with it and the watchers have to hear of it all the same.
                log.exception(
                    "listener failed", resource=entry.key.resource, key=f"{entry.key.namespace}/{entry.key.name}"
                )
        for watcher in self._watchers.get(entry.key.resource, ()):
            watcher.offer(event)

    def _compact(self, floor: int) -> None:
        if not floor:
            return
        self._uncompacted += 1
        if self._uncompacted >= _COMPACT_EVERY:
            self._uncompacted = 0
            self._log.compact(floor)

    def interrupt(self, resource: str = "") -> None:
        """End the watchers of a resource, or ("") all of them."""
        for name, watchers in self._watchers.items():
            if resource in ("", name):
                for watcher in watchers:
                    watcher.interrupt()

    async def close(self) -> None:
        """Finish queued writes and close the log; watchers are ended."""
        self.interrupt()
        await asyncio.to_thread(self._log.close)
