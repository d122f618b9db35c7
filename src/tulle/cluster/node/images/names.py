"""Image references: what `image: nginx` means in full.

The grammar is that of the distribution project: `[registry/]repository[:tag][@digest]`; without a registry docker.io
is meant, and a single name is one of docker.io's library.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REFERENCE = re.compile(
    rf"(?:(?P<registry>(?:[a-zA-Z0-9-]+\.)+[a-zA-Z0-9-]+(?::\d+)?|[a-zA-Z0-9-]+:\d+|localhost)/)?"
    rf"(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)

_MIRRORS = {"index.docker.io": "docker.io", "registry-1.docker.io": "docker.io", "mirror.gcr.io": "docker.io"}


class ImageNameError(ValueError):
    """The text is not an image reference."""


@dataclass(frozen=True)
class Reference:
    """A reference in full; `tag` is empty only when a digest names the image."""

    registry: str
    path: str
    tag: str
    digest: str

    @property
    def repository(self) -> str:
        return f"{self.registry}/{self.path}"

    def __str__(self) -> str:
        return self.repository + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse(text: str) -> Reference:
    """Raises ImageNameError."""
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise ImageNameError(
            f"couldn't parse image name {text!r}: accepted is [registry/]repository[:tag][@sha256:digest]"
        )
    registry = match["registry"] or "docker.io"
    registry = _MIRRORS.get(registry, registry)
    path = match["path"]
    if registry == "docker.io" and "/" not in path:
        path = f"library/{path}"
    digest = match["digest"] or ""
    return Reference(registry, path, match["tag"] or ("" if digest else "latest"), digest)
