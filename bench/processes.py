"""What processes cost, from /proc: CPU time by process, and memory where shared pages are counted once (PSS)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_NAMES = (
    ("tulle.cluster.supervisor", "supervisor"),
    ("tulle.cluster.control_plane", "control plane"),
    ("tulle.cluster.node.runtime.shim", "container shim"),
    ("tulle.cluster.node.images", "sample server"),
    ("tulle.cluster.node", "node"),
    ("tulle.istiod", "istiod"),
    ("tulle.cni", "istio-cni-node"),
    ("tulle.ztunnel", "ztunnel"),
    ("tulle.waypoint", "waypoint"),
    ("/run/tulle-ztunnel/", "ztunnel's Envoy"),
    ("_bin/envoy", "waypoint's Envoy"),
)
"""A part of the command line and the program it is; the first that fits."""
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """One process: its id, its parent's, its command line and the cgroup2 path it is in."""

    pid: int
    parent: int
    command: tuple[str, ...]
    cgroup: str


@dataclass(frozen=True)
class Memory:
    """Bytes: resident, proportional (shared pages divided among those who share them), and private."""

    rss: int
    pss: int
    uss: int


def processes() -> Mapping[int, Process]:
    """Every process that can be read now."""
    found = (_process(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdecimal())
    return {process.pid: process for process in found if process is not None}


def descendants(root: int) -> list[Process]:
    """A process and everything it started, in order of process id."""
    known = processes()
    children: dict[int, list[int]] = {}
    for process in known.values():
        children.setdefault(process.parent, []).append(process.pid)
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        if pid in known:
            found.append(known[pid])
        todo.extend(children.get(pid, ()))
    return sorted(found, key=lambda process: process.pid)


def started(pid: int) -> float:
    """When the process started, in seconds on CLOCK_BOOTTIME."""
    return int(_stat(pid)[19]) / TICKS


def name(process: Process) -> str:
    """What the process is, as the documentation calls it."""
    command = " ".join(process.command)
    found = next((said for mark, said in _NAMES if mark in command), None)
    return found or (Path(process.command[0]).name if process.command else "?")


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of these processes so far; one that is gone counts nothing."""
    total = 0
    for pid in pids:
        fields = _stat(pid)
        if fields:
            total += int(fields[11]) + int(fields[12])
    return total / TICKS


def memory(pid: int) -> Memory | None:
    """The process's memory; None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except (OSError, ProcessLookupError):
        return None
    kb = {line.split(":")[0]: int(line.split()[1]) for line in text.splitlines()[1:]}
    return Memory(kb["Rss"] * 1024, kb["Pss"] * 1024, (kb["Private_Clean"] + kb["Private_Dirty"]) * 1024)


def open_files(pid: int) -> int:
    """How many descriptors the process has open; 0 when it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except (OSError, ProcessLookupError):
        return 0


def _stat(pid: int) -> Sequence[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, ProcessLookupError):
        return ()


def _process(pid: int) -> Process | None:
    fields = _stat(pid)
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
        groups = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except (OSError, ProcessLookupError):
        return None
    if not fields:
        return None
    cgroup = next((line[3:] for line in groups if line.startswith("0::")), "")
    return Process(pid, int(fields[1]), tuple(word for word in command if word), cgroup)
