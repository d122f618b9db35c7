"""`busybox`: one static program with a few hundred names. It is also the shell of the small images."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tulle.cluster.node.images import debian, files
from tulle.cluster.node.images.model import Image, ImageConfig, docker_hub
from tulle.cluster.node.runtime.rootfs import Part

_USERS = {
    "daemon": (1, 1, "/usr/sbin", "/bin/false"),
    "bin": (2, 2, "/bin", "/bin/false"),
    "www-data": (33, 33, "/var/www", "/bin/false"),
}


def shell(root: Path) -> None:
    """A root with busybox under all its names. Raises ImageUnavailableError if the machine cannot get a busybox."""
    files.skeleton(root)
    for name in ("bin", "sbin", "usr/bin", "usr/sbin"):
        (root / name).mkdir(parents=True, exist_ok=True)
    files.accounts(root, _USERS, {"daemon": 1, "bin": 2, "www-data": 33})
    files.network_files(root)
    program = debian.program("busybox-static", "busybox", root)
    target = root / "bin/busybox"
    shutil.copy(program, target)
    target.chmod(0o755)
    listed = subprocess.run([str(target), "--list-full"], capture_output=True, text=True, check=True).stdout
    for name in listed.split():
        link = root / name
        if link != target and not link.exists():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to("/bin/busybox")


def _recipe(root: Path) -> Sequence[Part]:
    shell(root)
    return ()


IMAGE = Image(
    repositories=docker_hub("library/busybox", "registry.k8s.io/busybox", "gcr.io/google-containers/busybox"),
    about="sh, wget, nc, httpd, sleep and the other applets of busybox",
    config=ImageConfig(cmd=("sh",), env=(("PATH", files.PATH),)),
    recipe=_recipe,
    made_from=("/bin/busybox",),
)
