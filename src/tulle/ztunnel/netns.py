"""The pods' network namespaces, as paths that Envoy can open.

A namespace arrives as a descriptor.  Envoy, a child of this process, opens it by `/proc/<pid>/fd/<n>`; but descriptor
numbers are reused, and configuration that is a moment out of date must not open the namespace of another pod.  So Envoy
gets the path of a link whose name is never used twice, and the link goes before the descriptor does.

A socket of this process in another namespace is made by a thread that goes there and ends there.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

_CLONE_NEWNET: Final = 0x40000000
_IP_TRANSPARENT: Final = 19


@dataclass(frozen=True)
class HeldNetns:
    """A namespace kept open: its descriptor, its inode (which identifies it), and the path for Envoy."""

    descriptor: int
    inode: int
    path: str


class NetnsDirectory:
    """Links to the namespaces held by this process, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count(1)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left_over in directory.iterdir():
            left_over.unlink()

    def hold(self, uid: str, descriptor: int) -> HeldNetns:
        """Take over a descriptor.  Raises OSError if it is not open."""
        inode = os.fstat(descriptor).st_ino
        link = self._directory / f"{uid}.{next(self._numbers)}"
        link.symlink_to(f"/proc/{os.getpid()}/fd/{descriptor}")
        return HeldNetns(descriptor, inode, str(link))

    def release(self, held: HeldNetns) -> None:
        """Remove the link, then close the descriptor."""
        Path(held.path).unlink(missing_ok=True)
        os.close(held.descriptor)


def has_ipv6(netns: int) -> bool:
    """Whether the namespace of the descriptor speaks IPv6: its loopback has that address then."""
    try:
        made_inside(netns, partial(socket.create_server, ("::1", 0), family=socket.AF_INET6)).close()
    except OSError:
        return False
    return True


def can_impersonate(netns: int) -> bool:
    """Whether connections can be made in the namespace of the descriptor with an address that is not its own."""

    def transparent() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            made.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        except OSError:
            made.close()
            raise
        return made

    try:
        made_inside(netns, transparent).close()
    except OSError:
        return False
    return True


def made_inside(netns: int, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket made in the namespace of the descriptor `netns`.  Raises OSError."""
    made: list[socket.socket] = []
    failed: list[OSError] = []

    def enter() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(netns, _CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            failed.append(OSError(number, f"setns: {os.strerror(number)}"))
            return
        try:
            made.append(make())
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=enter, name="enter-netns")
    try:
        thread.start()
    except RuntimeError as error:
        raise OSError(errno.EAGAIN, f"no thread to enter a network namespace with: {error}") from error
    thread.join()
    if failed:
        raise failed[0]
    return made[0]
