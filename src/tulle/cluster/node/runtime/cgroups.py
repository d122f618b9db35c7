"""The cgroup2 tree of the pods: `/kubepods/pod<uid>/<container id>`, as on any node.

A node agent finds a pod's processes by these names, `cgroup.kill` ends a container with everything that it forked,
and `memory.events` tells whether the kernel ran out of memory for it. On a machine whose controllers are still bound
to cgroup v1 there are no limits, but names and killing work all the same.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
PODS = "/kubepods"


def pod_path(uid: str) -> str:
    return f"{PODS}/pod{uid}"


def container_path(uid: str, cid: str) -> str:
    return f"{pod_path(uid)}/{cid}"


def directory(path: str, mount: Path = MOUNT) -> Path:
    return mount / path.lstrip("/")


def controllers() -> frozenset[str]:
    """The cgroup2 controllers that the kernel can enforce limits with here."""
    try:
        return frozenset((MOUNT / "cgroup.controllers").read_text().split())
    except FileNotFoundError:
        return frozenset()


def kill(path: str, mount: Path = MOUNT) -> None:
    """SIGKILL every process of the cgroup at once; a cgroup that is gone already is fine."""
    with contextlib.suppress(FileNotFoundError):
        (directory(path, mount) / "cgroup.kill").write_text("1")


def processes(path: str) -> list[int]:
    """Pids in the cgroup and below it."""
    pids: list[int] = []
    for folder, _, files in os.walk(directory(path)):
        if "cgroup.procs" in files:
            with contextlib.suppress(OSError):
                pids += [int(pid) for pid in (Path(folder) / "cgroup.procs").read_text().split()]
    return pids


def oom_killed(path: str) -> bool:
    """Whether the kernel killed a process of this cgroup because its memory limit was reached."""
    try:
        text = (directory(path) / "memory.events").read_text()
    except OSError:
        return False
    return any(line.startswith("oom_kill ") and line.split()[1] != "0" for line in text.splitlines())


def remove(path: str, patience: float = 2.0, mount: Path = MOUNT) -> bool:
    """Remove the cgroup and those below it; dying processes are waited for up to `patience` seconds. False if it is
    still busy.
    """
    deadline = time.monotonic() + patience
    for folder, _, _ in os.walk(directory(path, mount), topdown=False):
        while True:
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                break
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    return False
                time.sleep(0.005)
            else:
                break
    return True
