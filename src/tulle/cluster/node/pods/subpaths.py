"""Sub-paths of volumes, held in place while a container is made.

Other containers may have the volume too, and swap a directory for a link to anywhere between the moment in which the path is
checked and the one in which the runtime mounts it. So each step of the path is opened without following links, and what was
opened, not its name, is bound where only the node can write; that is what the runtime mounts.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from types import TracebackType

from tulle.cluster.node import linux
from tulle.cluster.node.pods.projected import VolumeError

_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class SubPaths:
    """A context of one container; `directory` is the node's own, and is gone with the context."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: list[Path] = []

    def __enter__(self) -> SubPaths:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None
    ) -> None:
        # The container's own mount namespace has a copy of each by now.
        for path in self._held:
            with contextlib.suppress(OSError):  # the bind is what failed
                linux.unmount(str(path))
            path.rmdir() if path.is_dir() else path.unlink()
        if self._held:
            self._directory.rmdir()

    def hold(self, base: Path, sub_path: str) -> Path:
        """Where `base/sub_path` is held, a directory made if it is not there. Raises VolumeError naming the sub-path, OSError."""
        found = open_inside(base, sub_path)
        try:
            place = self._directory / str(len(self._held))
            self._directory.mkdir(parents=True, exist_ok=True)
            if stat.S_ISDIR(os.fstat(found).st_mode):
                place.mkdir()
            else:
                place.touch()
            self._held.append(place)
            linux.bind(f"/proc/self/fd/{found}", str(place))
            return place
        finally:
            os.close(found)


def open_inside(base: Path, sub_path: str) -> int:
    """A descriptor (O_PATH) of `base/sub_path`. Links are followed as long as they stay in the volume. Raises VolumeError."""
    if sub_path.startswith("/") or ".." in Path(sub_path).parts:
        raise VolumeError(f"subPath {sub_path!r} must be relative and must not contain '..'")
    root = base.resolve()
    try:
        target = (root / sub_path).resolve()
        if not target.is_relative_to(root):
            raise VolumeError(f"subPath {sub_path!r} leads out of the volume")
        return _walk(root, target.relative_to(root).parts)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise VolumeError(f"subPath {sub_path!r} cannot be opened: {error}") from error


def _walk(root: Path, steps: tuple[str, ...]) -> int:
    """What is at the end of `steps`, none of which is a link now."""
    here = os.open(root, os.O_PATH | os.O_CLOEXEC)
    try:
        mode = stat.S_IMODE(os.fstat(here).st_mode)
        for step in steps:
            deeper = _step(here, step, mode)
            os.close(here)
            here = deeper
    except BaseException:
        os.close(here)
        raise
    return here


def _step(directory: int, name: str, mode: int) -> int:
    try:
        found = os.open(name, _STEP, dir_fd=directory)
    except FileNotFoundError:
        with contextlib.suppress(FileExistsError):  # made for another container meanwhile
            os.mkdir(name, dir_fd=directory)
        made = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.fchmod(made, mode)  # the process's umask has no say in what the volume is open for
        finally:
            os.close(made)
        found = os.open(name, _STEP, dir_fd=directory)
    if stat.S_ISLNK(os.fstat(found).st_mode):
        os.close(found)
        raise OSError(f"{name!r} has become a link")
    return found
