"""What is known of one container: the record on disk that survives the kubelet, the shim and the machine's memory.

`record.json` is written before the container exists and `exit.json` when it ended, so that after any crash the files say what has to
be adopted, killed or cleaned up.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

State = Literal["creating", "created", "running", "exited"]

RECORD_FILE = "record.json"
EXIT_FILE = "exit.json"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One container as it was asked for; `kind` tells a pod's sandbox from its containers."""

    cid: str
    kind: Literal["sandbox", "container"]
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
    config_hash: str = ""


class Exit(msgspec.Struct, frozen=True, kw_only=True):
    """How a container ended; `signal` is 0 unless a signal ended it, and then `exit_code` is 128 + signal."""

    exit_code: int
    signal: int = 0
    oom_killed: bool = False
    finished_at: float
    lost: bool = False


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """A container as it is now."""

    record: Record
    state: State
    pid: int = 0
    started_at: float = 0.0
    exit: Exit | None = None


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """The pid of a container's first process and when it started; written so that a crash leaves no unknown process."""

    pid: int
    start_ticks: int
    started_at: float = 0.0


def write(directory: Path, name: str, value: msgspec.Struct) -> None:
    """Write one file of a container's directory so that a reader sees the old text or the new one, never a part."""
    fresh = directory / f".{name}.new"
    fresh.write_bytes(msgspec.json.encode(value))
    os.replace(fresh, directory / name)


def read_record(directory: Path) -> Record | None:
    """The record in a container's directory, or None if the directory was not finished or is gone."""
    try:
        return msgspec.json.decode((directory / RECORD_FILE).read_bytes(), type=Record)
    except FileNotFoundError:
        return None


def read_exit(directory: Path) -> Exit | None:
    try:
        return msgspec.json.decode((directory / EXIT_FILE).read_bytes(), type=Exit)
    except FileNotFoundError:
        return None


STARTED_FILE = "started.json"


def read_started(directory: Path) -> Started | None:
    try:
        return msgspec.json.decode((directory / STARTED_FILE).read_bytes(), type=Started)
    except FileNotFoundError:
        return None
