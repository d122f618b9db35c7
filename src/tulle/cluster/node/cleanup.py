"""The end of a node: every process and every file of it, also after a crash of any of its parts.

It needs nothing but the state directory and touches nothing that is not recorded there.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog

from tulle.cluster.node import linux
from tulle.cluster.node.paths import NodePaths
from tulle.cluster.node.runtime import cgroups, records
from tulle.cluster.node.runtime.runtime import shim_pid

PATIENCE = 5.0
"""Seconds that a killed process may take to be gone."""

log = structlog.get_logger("tulle.node.cleanup")


def end_containers(paths: NodePaths) -> None:
    """Kill the node's shim and containers and remove their cgroups; idempotent. The node process has ended before."""
    pid = shim_pid(paths)
    if pid is not None:
        _kill(pid)
    uids: set[str] = set()
    with _cgroup2() as mount:
        for directory in sorted(paths.containers.iterdir()) if paths.containers.is_dir() else ():
            record = records.read_record(directory)
            if record is None:
                continue
            started = records.read_started(directory)
            cgroups.kill(record.cgroup, mount)
            if started is not None and linux.start_time(started.pid) == started.start_ticks:
                _kill(started.pid)
            if not cgroups.remove(record.cgroup, mount=mount):
                log.warning("cgroup still has processes", cgroup=record.cgroup)
            uids.add(record.pod_uid)
        for uid in uids:
            cgroups.remove(cgroups.pod_path(uid), mount=mount)
        with contextlib.suppress(OSError):  # another node's pods may be there
            cgroups.directory(cgroups.PODS, mount).rmdir()


def clean(state: Path, node: str) -> None:
    """End everything of the node and remove what the kubelet keeps for it; idempotent, also after a crash.

    The network's record of what it made on the machine stays: whoever takes that away still needs it.
    Raises OSError if something is still mounted there in this process's view, because removing would reach through it.
    """
    paths = NodePaths(state, node)
    end_containers(paths)
    mounted = linux.mounts_under(paths.root)
    if mounted:
        raise OSError(f"not removing {paths.root}: {mounted[0]} is still mounted")
    for directory in (paths.fs, paths.pods, paths.containers, paths.logs, paths.crun, paths.pause):
        shutil.rmtree(directory, ignore_errors=True)
    for file in (paths.shim_socket, paths.shim_pid, paths.shim_log):
        file.unlink(missing_ok=True)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        fd = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            select.select([fd], [], [], PATIENCE)
        finally:
            os.close(fd)


@contextmanager
def _cgroup2() -> Iterator[Path]:
    """Where the machine has the unified cgroup tree; where it has none mounted, it is mounted for the moment."""
    for candidate in (cgroups.MOUNT, cgroups.MOUNT / "unified"):
        if (candidate / "cgroup.procs").exists() and (candidate / "cgroup.controllers").exists():
            yield candidate
            return
    with tempfile.TemporaryDirectory() as name:
        linux.mount("none", name, "cgroup2")
        try:
            yield Path(name)
        finally:
            linux.unmount(name)
