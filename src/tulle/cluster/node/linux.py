"""The few Linux calls that Python 3.11's standard library lacks: mounts, namespaces, subreaper.

They are here, and nowhere else, so that the rest of the node reads as Python: each wrapper raises OSError with the
path it was about.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000

MNT_DETACH = 2

CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000

_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)
_libc.unshare.argtypes = (ctypes.c_int,)
_libc.setns.argtypes = (ctypes.c_int, ctypes.c_int)
_libc.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """mount(2). Raises OSError naming the target."""
    arguments = (os.fsencode(source), os.fsencode(target), fstype.encode() or None, flags, os.fsencode(data) or None)
    _check(_libc.mount(*arguments), f"mount {fstype or source} on {target}")


def bind(source: str, target: str, *, read_only: bool = False, recursive: bool = True) -> None:
    """Bind `source` on `target`; a read-only bind needs a second call, because the kernel ignores the flag on the
    first.
    """
    rec = MS_REC if recursive else 0
    mount(source, target, "", MS_BIND | rec)
    if read_only:
        mount("none", target, "", MS_BIND | MS_REMOUNT | MS_RDONLY | rec)


def unmount(target: str) -> None:
    """Lazily unmount the whole tree at `target`. Raises OSError."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), f"unmount {target}")


def unshare_mounts() -> None:
    """Give this process a mount namespace of its own whose mounts never reach the machine's."""
    _check(_libc.unshare(CLONE_NEWNS), "unshare the mount namespace")
    mount("none", "/", "", MS_REC | MS_PRIVATE)


def enter_mounts(pid: int) -> None:
    """Join the mount namespace of process `pid`. The caller must still be single-threaded."""
    fd = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, CLONE_NEWNS), f"enter the mount namespace of process {pid}")
    finally:
        os.close(fd)


def become_subreaper() -> None:
    """Make orphans of this process's descendants its own children, so that their exit status can be collected."""
    _check(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "become a child subreaper")


def mounts_under(directory: Path) -> list[str]:
    """Mount points at or below `directory` in this mount namespace, deepest first."""
    prefix = str(directory)
    found = []
    for line in Path("/proc/self/mounts").read_text().splitlines():
        target = line.split(" ")[1].replace("\\040", " ")
        if target == prefix or target.startswith(prefix + "/"):
            found.append(target)
    return sorted(found, key=len, reverse=True)


def start_time(pid: int) -> int | None:
    """The process's start time in clock ticks since boot, or None if there is no such process.

    A pid alone is not a name: it is reused. A pid with its start time is.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in {"Z", "X"} else int(fields[19])


def enter_network(path: str) -> None:
    """Move the calling thread, and it alone, into the network namespace at `path`."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(_libc.setns(fd, CLONE_NEWNET), f"enter the network namespace {path}")
    finally:
        os.close(fd)
