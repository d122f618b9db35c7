"""An image: the names it is published under, what it runs, and the recipe of its root."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from tulle.cluster.node.runtime.rootfs import Part


class ImageUnavailableError(Exception):
    """The image's root cannot be made here; the text says why and what to do."""


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an image says about running it (OCI image configuration)."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    working_dir: str = "/"
    user: str = ""
    stop_signal: str = "SIGTERM"


Recipe = Callable[[Path], Sequence[Part]]
"""Fills an empty directory with the image's own files and answers with the machine's directories to mount into it.
Raises ImageUnavailableError."""


@dataclass(frozen=True)
class Image:
    """One entry of the catalogue. `made_from` are files of the machine whose change makes a cached root stale."""

    repositories: tuple[str, ...]
    about: str
    config: ImageConfig
    recipe: Recipe
    version: int = 1
    made_from: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.repositories[0]


def docker_hub(path: str, *others: str) -> tuple[str, ...]:
    """The names of an image of Docker Hub, with the well-known places that mirror it, and `others`."""
    library = path.removeprefix("library/")
    mirrors = (f"public.ecr.aws/docker/{path}",) if path != library else ()
    return (f"docker.io/{path}", *mirrors, *others)
