"""Roots for programs of this package: this Python, its libraries and this source, all read-only.

The servers of the sample images and the mesh's own parts are Python; they run on the interpreter that runs the node,
so there is nothing to install and every pod shares the same pages of memory. A virtual environment and the source are
put below /opt/tulle, wherever they are on this machine: a pod may mount a volume over any path of the machine, /tmp say.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import tulle
from tulle.cluster.node.images import debian
from tulle.cluster.node.runtime.rootfs import Part

ENVIRONMENT = "/opt/tulle/venv"
SOURCE = "/opt/tulle/src"


def _source() -> Path:
    """The directory that holds the package `tulle`."""
    return Path(tulle.__file__).resolve().parent.parent


def directories() -> Iterator[tuple[str, str]]:
    """What the interpreter needs besides /usr: directories of this machine, and where they are in the root.

    The interpreter itself stays at its path, because a virtual environment names it by that.
    """
    base = Path(sys.base_prefix).resolve()
    if not base.is_relative_to("/usr") or base == Path("/usr/local"):
        yield str(base), str(base)
    if sys.prefix != sys.base_prefix:
        yield str(Path(sys.prefix).resolve()), ENVIRONMENT
    yield str(_source()), SOURCE


def origins() -> tuple[str, ...]:
    """The directories of this machine that such a root is made from: another checkout's root is another root."""
    return tuple(source for source, _ in directories())


def root(directory: Path) -> Sequence[Part]:
    """A Debian system with this interpreter and this package."""
    debian.system(directory)
    parts = list(debian.usr(directory, writable=False))
    for source, target in directories():
        if not target.startswith("/usr/"):
            (directory / target.lstrip("/")).mkdir(parents=True, exist_ok=True)
        parts.append(Part(source, target))
    return parts


def environment() -> tuple[tuple[str, str], ...]:
    """What a process needs to find this package: the interpreter's own directory comes first in PATH."""
    programs = f"{ENVIRONMENT}/bin" if sys.prefix != sys.base_prefix else str(Path(sys.base_prefix) / "bin")
    path = f"{programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return (("PATH", path), ("PYTHONPATH", SOURCE), ("PYTHONUNBUFFERED", "1"), ("PYTHONDONTWRITEBYTECODE", "1"))
