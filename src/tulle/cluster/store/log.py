"""The SQLite side of the store: a log of revisions and the state they add up to.

One thread owns the connection and commits whatever has queued up in one transaction (group commit), with
`synchronous=FULL`: a batch is on the disk before anybody hears about it. The log keeps the previous value of each change,
so that after a restart a watch with a selector can still tell that an object left the selector.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tulle.cluster.store.records import Key

_SCHEMA = """
CREATE TABLE IF NOT EXISTS log (
  rev INTEGER PRIMARY KEY, resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
  value BLOB NOT NULL, deleted INTEGER NOT NULL, prev_rev INTEGER NOT NULL, old BLOB);
CREATE TABLE IF NOT EXISTS objects (
  resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, rev INTEGER NOT NULL, value BLOB NOT NULL,
  PRIMARY KEY (resource, namespace, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, number INTEGER NOT NULL) WITHOUT ROWID;
"""
_BATCH = 256


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of the log. `value` is the object after the change, or its last state when `deleted`."""

    revision: int
    key: Key
    value: bytes
    deleted: bool
    previous_revision: int
    old: bytes | None


class Log:
    """The log file at `path`; `commit` queues an entry, and `on_committed(entries, error)` is called on the log's thread.

    Raises sqlite3.Error from the constructor when the file cannot be opened or is not a store.
    """

    def __init__(self, path: Path, on_committed: Callable[[Sequence[Entry], Exception | None], None]) -> None:
        self._path = path
        self._on_committed = on_committed
        self._queue: queue.SimpleQueue[Entry | int | None] = queue.SimpleQueue()
        connection = self._connect()
        connection.executescript(_SCHEMA)
        connection.close()
        path.chmod(0o600)
        self._thread = threading.Thread(target=self._run, name="store-log", daemon=True)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        return connection

    def load(self) -> tuple[int, int, list[tuple[Key, int, bytes]], list[Entry]]:
        """(current revision, compacted revision, objects, log entries in order)."""
        connection = self._connect()
        try:
            numbers = dict(connection.execute("SELECT name, number FROM meta"))
            objects = [
                (Key(resource, namespace, name), rev, value)
                for resource, namespace, name, rev, value in connection.execute(
                    "SELECT resource, namespace, name, rev, value FROM objects"
                )
            ]
            entries = list(self._entries(connection))
        finally:
            connection.close()
        compacted = int(numbers.get("compacted", 0))
        current = max([compacted, *(e.revision for e in entries[-1:]), *(rev for _, rev, _ in objects)])
        return current, compacted, objects, entries

    @staticmethod
    def _entries(connection: sqlite3.Connection) -> Iterator[Entry]:
        rows = connection.execute(
            "SELECT rev, resource, namespace, name, value, deleted, prev_rev, old FROM log ORDER BY rev"
        )
        for rev, resource, namespace, name, value, deleted, prev, old in rows:
            yield Entry(rev, Key(resource, namespace, name), value, bool(deleted), prev, old)

    def start(self) -> None:
        """Begin committing."""
        self._thread.start()

    def commit(self, entry: Entry) -> None:
        """Queue an entry; entries are committed in the order of these calls."""
        self._queue.put(entry)

    def compact(self, revision: int) -> None:
        """Forget the history up to and including `revision` (the objects themselves stay)."""
        self._queue.put(revision)

    def close(self) -> None:
        """Commit what is queued, then stop."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        connection = self._connect()
        running = True
        while running:
            item = self._queue.get()
            batch: list[Entry] = []
            floor = 0
            while True:
                if item is None:
                    running = False
                elif isinstance(item, int):
                    floor = max(floor, item)
                else:
                    batch.append(item)
                if len(batch) >= _BATCH or self._queue.empty():
                    break
                item = self._queue.get()
            error = self._write(connection, batch, floor)
            if batch:
                self._on_committed(batch, error)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()

    @staticmethod
    def _write(connection: sqlite3.Connection, batch: Sequence[Entry], floor: int) -> Exception | None:
        try:
            connection.execute("BEGIN IMMEDIATE")
            for entry in batch:
                connection.execute(
                    "INSERT INTO log VALUES (?,?,?,?,?,?,?,?)",
                    (entry.revision, *entry.key, entry.value, entry.deleted, entry.previous_revision, entry.old),
                )
                if entry.deleted:
                    connection.execute("DELETE FROM objects WHERE resource=? AND namespace=? AND name=?", entry.key)
                else:
                    connection.execute(
                        "INSERT OR REPLACE INTO objects VALUES (?,?,?,?,?)", (*entry.key, entry.revision, entry.value)
                    )
            if floor:
                connection.execute("DELETE FROM log WHERE rev <= ?", (floor,))
                connection.execute("INSERT OR REPLACE INTO meta VALUES ('compacted', ?)", (floor,))
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            return error
        return None
