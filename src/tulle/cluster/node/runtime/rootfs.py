"""A container's root directory: the image's files below, the container's own changes above.

The overlay is mounted for the moment in which crun copies the mount namespace, and unmounted right after: from then
on only the container sees it, so there is nothing to clean up when it dies.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tulle.cluster.node import linux


@dataclass(frozen=True)
class Part:
    """A directory of this machine that is part of an image's root: `layers` are the image's own files above it.

    A writable part gets the container's changes on top; a read-only one is bound as it is, which is faster.
    """

    source: str
    target: str
    layers: tuple[str, ...] = ()
    writable: bool = False


@dataclass(frozen=True)
class ImageRoot:
    """An image's files: `layers` (top first) make the root, `parts` are mounted into it, in this order."""

    layers: tuple[str, ...]
    parts: Sequence[Part] = ()


@contextmanager
def mounted(image: ImageRoot, directory: Path) -> Iterator[Path]:
    """The container's root at `directory/rootfs`, as long as the context lasts. Raises OSError when a mount fails."""
    target = directory / "rootfs"
    try:
        _overlay(image.layers, directory / "changes" / "root", target)
        for index, part in enumerate(image.parts):
            inside = target / part.target.lstrip("/")
            if part.writable:
                _overlay((*part.layers, part.source), directory / "changes" / str(index), inside)
            elif part.layers:
                linux.mount(
                    "overlay",
                    str(inside),
                    "overlay",
                    linux.MS_RDONLY,
                    f"lowerdir={':'.join((*part.layers, part.source))}",
                )
            else:
                linux.bind(part.source, str(inside), read_only=True, recursive=False)
        yield target
    finally:
        release(target)


def _overlay(layers: Sequence[str], changes: Path, target: Path) -> None:
    upper, work = changes / "upper", changes / "work"
    for directory in (upper, work, target):
        directory.mkdir(parents=True, exist_ok=True)
    shutil.copymode(layers[0], upper)
    owner = os.stat(layers[0])
    os.chown(upper, owner.st_uid, owner.st_gid)
    for path in (*layers, str(upper), str(work)):
        if ":" in path or "," in path:
            raise OSError(f"an overlay cannot use the directory {path!r}: its name contains ':' or ','")
    linux.mount("overlay", str(target), "overlay", 0, f"lowerdir={':'.join(layers)},upperdir={upper},workdir={work}")


def release(target: Path) -> None:
    """Unmount everything at `target`; idempotent."""
    for point in linux.mounts_under(target):
        linux.unmount(point)


def remove(directory: Path) -> None:
    """Remove a container's directory. Nothing may be mounted in it any more, or the files of an image would be
    removed.
    """
    mounted_here = linux.mounts_under(directory)
    if mounted_here:
        raise OSError(f"not removing {directory}: {mounted_here[0]} is still mounted")
    shutil.rmtree(directory, ignore_errors=True)
