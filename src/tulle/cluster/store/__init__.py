"""The durable memory of the embedded cluster.

A Kubernetes API server answers from memory but may acknowledge only what survives a power cut. This package is that
promise: an append-only log of revisions in SQLite (`log.py`), the record types that flow through it (`records.py`), and
the in-memory state with its window of recent events that lists and watches are served from (`store.py`, `watch.py`).
Reading order: records, log, watch, store.
"""

from tulle.cluster.store.records import Event, Key, Record
from tulle.cluster.store.store import RevisionConflictError, Store, StoreFailedError
from tulle.cluster.store.watch import CompactedError, FutureRevisionError, Watcher

__all__ = [
    "CompactedError",
    "Event",
    "FutureRevisionError",
    "Key",
    "Record",
    "RevisionConflictError",
    "Store",
    "StoreFailedError",
    "Watcher",
]
