"""Directories whose files all change at once, as a container sees them.

The files are symbolic links into `..data`, itself a link to a directory with a time in its name; an update writes a
new directory and moves the one link. A reader sees all old files or all new ones.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_DATA = "..data"


@dataclass(frozen=True)
class File:
    """Content and mode; `uid` and `gid` are who may read it besides root, None to leave it."""

    data: bytes
    mode: int = 0o644
    uid: int | None = None
    gid: int | None = None


def write(directory: Path, files: Mapping[str, File]) -> bool:
    """Make the directory contain exactly `files` (relative paths, which may have folders); False if it already did.

    Raises ValueError for a path that would lead out of the directory.
    """
    for path in files:
        if path.startswith("/") or ".." in Path(path).parts or not path:
            raise ValueError(f"{path!r} is not a path inside a volume")
    current = directory / _DATA
    if current.is_symlink() and _same(current, files):
        return False
    fresh = directory / f"..{time.strftime('%Y_%m_%d_%H_%M_%S')}.{secrets.token_hex(4)}"
    fresh.mkdir(parents=True)
    fresh.chmod(0o755)
    try:
        for path, file in files.items():
            _write_file(fresh, path, file)
    except OSError:
        # It is tried again every few seconds, and the disk may be full already.
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    old = os.readlink(current) if current.is_symlink() else None
    link = directory / f"{_DATA}_new"
    link.unlink(missing_ok=True)
    link.symlink_to(fresh.name)
    os.replace(link, current)
    _links(directory, files)
    if old is not None:
        shutil.rmtree(directory / old, ignore_errors=True)
    return True


def _write_file(base: Path, path: str, file: File) -> None:
    target = base / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(file.data)
    target.chmod(file.mode)
    if file.uid is not None or file.gid is not None:
        os.chown(target, -1 if file.uid is None else file.uid, -1 if file.gid is None else file.gid)


def _same(current: Path, files: Mapping[str, File]) -> bool:
    there = {str(p.relative_to(current)) for p in current.rglob("*") if p.is_file()}
    return there == set(files) and all((current / p).read_bytes() == f.data for p, f in files.items())


def _links(directory: Path, files: Mapping[str, File]) -> None:
    """The visible names: one link for each first part of a path."""
    tops = {Path(path).parts[0] for path in files}
    for name in tops:
        link = directory / name
        if not link.is_symlink():
            link.symlink_to(f"{_DATA}/{name}")
    for entry in directory.iterdir():
        if entry.is_symlink() and not entry.name.startswith("..") and entry.name not in tops:
            entry.unlink()
