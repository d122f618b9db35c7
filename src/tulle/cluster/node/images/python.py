"""Roots for programs of this package: this Python, its libraries and this source, all read-only, at the paths they
have here.

The servers of the sample images and the mesh's own parts are Python; they run on the interpreter that runs the node,
so there is nothing to install and every pod shares the same pages of memory.
"""

from __future__ import annotations

import site
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import tulle
from tulle.cluster.node.images import debian
from tulle.cluster.node.runtime.rootfs import Part


def directories() -> tuple[str, ...]:
    """The directories that the interpreter needs besides /usr, none of them inside another."""
    source = Path(tulle.__file__).resolve().parent.parent
    wanted = {
        Path(p).resolve() for p in (sys.prefix, sys.base_prefix, sysconfig.get_path("purelib"), *site.getsitepackages())
    }
    wanted.add(source)
    wanted = {path for path in wanted if path.is_dir() and not path.is_relative_to("/usr")}
    wanted |= {path for path in (Path("/usr/local"),) if Path(sys.base_prefix).resolve() == path}
    return tuple(
        str(path)
        for path in sorted(wanted)
        if not any(path != other and path.is_relative_to(other) for other in wanted)
    )


def root(directory: Path) -> Sequence[Part]:
    """A Debian system with this interpreter and this package."""
    debian.system(directory)
    parts = list(debian.usr(directory, writable=False))
    for path in directories():
        if not path.startswith("/usr/"):
            (directory / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
        parts.append(Part(path, path))
    return parts


def environment() -> tuple[tuple[str, str], ...]:
    """What a process needs to find this package: the interpreter's own directory comes first in PATH."""
    source = str(Path(tulle.__file__).resolve().parent.parent)
    path = f"{Path(sys.executable).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return (("PATH", path), ("PYTHONPATH", source), ("PYTHONUNBUFFERED", "1"), ("PYTHONDONTWRITEBYTECODE", "1"))
