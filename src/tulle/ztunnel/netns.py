"""The pods' network namespaces, as paths that Envoy can open.

A namespace arrives as a descriptor.  Envoy, a child of this process, opens it by `/proc/<pid>/fd/<n>`; but descriptor
numbers are reused, and configuration that is a moment out of date must not open the namespace of another pod.  So Envoy
gets the path of a link whose name is never used twice, and the link goes before the descriptor does.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path


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
