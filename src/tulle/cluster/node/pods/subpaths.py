"""The sub-paths of a container's volumes, each as a mount of its own.

Whoever else has the volume may put a link in the place of a directory at any moment, also between a look at it and crun, which
opens what it mounts by name (CVE-2021-25741 was that). So a sub-path is opened piece by piece without following a link, and what
was opened is bound where only the node writes; that is what crun is told. Upstream's kubelet does the same.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from tulle.cluster.node import linux
from tulle.cluster.node.pods.projected import VolumeError

_FLAGS = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class SubPaths:
    """Binds the sub-paths of one container below `directory`, in place of those of its run before."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = 0
        if directory.exists():
            self._clear()

    def _clear(self) -> None:
        for point in linux.mounts_under(self._directory):
            linux.unmount(point)
        for place in self._directory.iterdir():
            if place.is_dir():
                place.rmdir()
            else:
                place.unlink()

    def pin(self, base: Path, sub_path: str) -> Path:
        """Where `base/sub_path` is found as it is now; it is made if it is not there. Raises VolumeError, OSError."""
        place = self._directory / str(self._number)
        self._number += 1
        with opened(base, sub_path) as fd:
            if stat.S_ISDIR(os.fstat(fd).st_mode):
                place.mkdir(parents=True)
            else:
                self._directory.mkdir(parents=True, exist_ok=True)
                place.touch()
            linux.bind(f"/proc/self/fd/{fd}", str(place))
        return place


@contextlib.contextmanager
def opened(base: Path, sub_path: str) -> Iterator[int]:
    """A descriptor of `base/sub_path`, made if it is not there. One that leads out of the volume, also through a link, is refused.

    Raises VolumeError, OSError.
    """
    if sub_path.startswith("/") or ".." in Path(sub_path).parts:
        raise VolumeError(f"subPath {sub_path!r} must be relative and must not contain '..'")
    top = base.resolve()
    target = (base / sub_path).resolve()
    if not target.is_relative_to(top):
        raise VolumeError(f"subPath {sub_path!r} leads out of the volume")
    fd = os.open(top, _FLAGS)
    try:
        mode = stat.S_IMODE(os.fstat(fd).st_mode)
        for part in target.relative_to(top).parts:
            below = _step(fd, part, mode)
            os.close(fd)
            fd = below
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                raise VolumeError(f"subPath {sub_path!r} changed while it was opened: {part!r} has become a link")
        yield fd
    finally:
        os.close(fd)


def _step(directory: int, name: str, mode: int) -> int:
    """One piece further down; a new directory gets `mode`."""
    try:
        return os.open(name, _FLAGS, dir_fd=directory)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):
            os.mkdir(name, 0o700, dir_fd=directory)
            made = os.open(name, _FLAGS | os.O_DIRECTORY, dir_fd=directory)
            try:
                os.chmod(f"/proc/self/fd/{made}", mode)
            finally:
                os.close(made)
        return os.open(name, _FLAGS, dir_fd=directory)
