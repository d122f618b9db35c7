"""`curlimages/curl`: the machine's curl and its libraries, a busybox shell, the user curl_user (100:101)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from tulle.cluster.node.images import busybox, debian, files
from tulle.cluster.node.images.model import Image, ImageConfig, docker_hub
from tulle.cluster.node.runtime.rootfs import Part

_ENTRYPOINT = """#!/bin/sh
# Arguments that are options, or no command of this image, are curl's.
if [ "${1#-}" != "$1" ] || ! command -v "$1" >/dev/null 2>&1; then
  set -- curl "$@"
fi
exec "$@"
"""


def _recipe(root: Path) -> Sequence[Part]:
    busybox.shell(root)
    files.accounts(root, {"curl_user": (100, 101, "/home/curl_user", "/bin/sh")}, {"curl_group": 101})
    home = root / "home/curl_user"
    home.mkdir(parents=True)
    shutil.chown(home, 100, 101)
    program = debian.program("curl", "curl", root)
    (root / "usr/bin/curl").unlink(missing_ok=True)
    files.install_program(root, program, "/usr/bin/curl")
    bundle = files.certificates(root)
    (root / "cacert.pem").symlink_to(bundle)
    files.write(root, "entrypoint.sh", _ENTRYPOINT, 0o755)
    return ()


IMAGE = Image(
    repositories=docker_hub("curlimages/curl", "quay.io/curl/curl", "ghcr.io/curl/curl-container/curl"),
    about="curl",
    config=ImageConfig(
        entrypoint=("/entrypoint.sh",),
        cmd=("curl",),
        env=(("PATH", files.PATH), ("CURL_CA_BUNDLE", "/cacert.pem")),
        working_dir="/home/curl_user",
        user="curl_user",
    ),
    recipe=_recipe,
    made_from=("/usr/bin/curl",),
)
