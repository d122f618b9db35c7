"""`debian` and `ubuntu`: a shell on the machine's own Debian, with apt and curl."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tulle.cluster.node.images import debian, files
from tulle.cluster.node.images.model import Image, ImageConfig, docker_hub
from tulle.cluster.node.runtime.rootfs import Part


def _recipe(root: Path) -> Sequence[Part]:
    debian.system(root)
    return debian.usr(root, writable=True, packages=("curl",))


def _image(name: str) -> Image:
    return Image(
        repositories=docker_hub(f"library/{name}"),
        about="a shell on this machine's Debian, with apt-get and curl",
        config=ImageConfig(cmd=("bash",), env=(("PATH", files.PATH),)),
        recipe=_recipe,
        made_from=(debian.STATUS, "/etc/apt/sources.list.d", "/etc/ssl/certs/ca-certificates.crt"),
    )


DEBIAN = _image("debian")
UBUNTU = _image("ubuntu")
