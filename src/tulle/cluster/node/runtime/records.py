"""What is known of one container: the record on disk that survives the kubelet, the shim and the machine's memory.

`record.json` is written before the container exists, `started.json` when it has a process and `exit.json` when it
ended, so that after any crash the files say what has to be adopted, killed or cleaned up. Named tuples and the plain
`json` module do here: the shim reads and writes these too, and its size matters.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

State = Literal["creating", "created", "running", "exited"]
Kind = Literal["sandbox", "container"]

RECORD_FILE = "record.json"
STARTED_FILE = "started.json"
EXIT_FILE = "exit.json"


class Record(NamedTuple):
    """One container as it was asked for; `kind` tells a pod's sandbox from its containers. Times are clock seconds."""

    cid: str
    kind: Kind
    pod_uid: str
    pod_namespace: str
    pod_name: str
    name: str
    attempt: int
    image: str = ""
    image_id: str = ""
    log_path: str = ""
    tty: bool = False
    stdin: bool = False
    stdin_once: bool = False
    stop_signal: str = "SIGTERM"
    cgroup: str = ""
    created_at: float = 0.0


class Exit(NamedTuple):
    """How a container ended; `signal` is 0 unless a signal ended it, and then `exit_code` is 128 + signal."""

    exit_code: int
    finished_at: float
    signal: int = 0
    oom_killed: bool = False
    lost: bool = False


class Started(NamedTuple):
    """A container's first process: its pid, when that began in clock ticks (together they are unique), and the time."""

    pid: int
    start_ticks: int
    started_at: float = 0.0


class Status(NamedTuple):
    """A container as it is now."""

    record: Record
    state: State
    pid: int = 0
    started_at: float = 0.0
    exit: Exit | None = None

    def document(self) -> dict[str, Any]:
        """As JSON objects."""
        ended = self.exit._asdict() if self.exit is not None else None
        return {**self._asdict(), "record": self.record._asdict(), "exit": ended}


def status(document: Mapping[str, Any]) -> Status:
    """The status that `Status.document` wrote."""
    ended = Exit(**document["exit"]) if document["exit"] is not None else None
    return Status(**{**document, "record": Record(**document["record"]), "exit": ended})


def write(directory: Path, name: str, value: Record | Exit | Started) -> None:
    """Write one file of a container's directory so that a reader sees the old text or the new one, never a part."""
    fresh = directory / f".{name}.new"
    fresh.write_text(json.dumps(value._asdict()))
    os.replace(fresh, directory / name)


def _read(directory: Path, name: str, fields: tuple[str, ...]) -> dict[str, Any] | None:
    """The fields of a file; those that another version of this program wrote and this one does not know are left out. One that
    a machine's sudden end left empty says nothing.
    """
    try:
        document = json.loads((directory / name).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return {key: value for key, value in document.items() if key in fields}


def read_record(directory: Path) -> Record | None:
    """The record in a container's directory, or None if the directory was not finished or is gone."""
    document = _read(directory, RECORD_FILE, Record._fields)
    return Record(**document) if document is not None else None


def read_started(directory: Path) -> Started | None:
    document = _read(directory, STARTED_FILE, Started._fields)
    return Started(**document) if document is not None else None


def read_exit(directory: Path) -> Exit | None:
    document = _read(directory, EXIT_FILE, Exit._fields)
    return Exit(**document) if document is not None else None
