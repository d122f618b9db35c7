"""A private machine for each test: network and mount namespaces of its own, so that nothing can leak onto the real one."""

import ctypes
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

CLONE_NEWNS, CLONE_NEWNET = 0x00020000, 0x40000000
MS_REC, MS_PRIVATE = 0x4000, 0x40000
libc = ctypes.CDLL(None, use_errno=True)


def check(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextmanager
def inside(path: str | Path) -> Iterator[None]:
    """Run the body in another network namespace (this thread, and the processes that it starts)."""
    before, there = os.open("/proc/thread-self/ns/net", os.O_RDONLY), os.open(path, os.O_RDONLY)
    try:
        check(libc.setns(there, CLONE_NEWNET))
        yield
    finally:
        check(libc.setns(before, CLONE_NEWNET))
        os.close(before)
        os.close(there)


@pytest.fixture
def machine() -> Iterator[None]:
    """The test's thread lives in fresh network and mount namespaces; /run/netns is empty there."""
    cwd = os.getcwd()
    net, mnt = (os.open(f"/proc/thread-self/ns/{kind}", os.O_RDONLY) for kind in ("net", "mnt"))
    check(libc.unshare(CLONE_NEWNET | CLONE_NEWNS))
    try:
        check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
        Path("/run/netns").mkdir(exist_ok=True)
        check(libc.mount(b"tk-network", b"/run/netns", b"tmpfs", 0, None))
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        check(libc.setns(net, CLONE_NEWNET))
        check(libc.setns(mnt, CLONE_NEWNS))
        os.chdir(cwd)
        os.close(net)
        os.close(mnt)


def sh(*command: str, stdin: str = "", ok: bool = True) -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=60)
    assert not ok or done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
    return done.stdout
