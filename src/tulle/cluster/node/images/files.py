"""Small ingredients of image roots: directories, accounts, programs with the libraries they need."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from tulle.cluster.node.images.model import ImageUnavailableError

_PLAIN = (
    "dev",
    "etc",
    "home",
    "media",
    "mnt",
    "opt",
    "proc",
    "root",
    "run",
    "srv",
    "sys",
    "usr",
    "var",
    "var/log",
    "var/lib",
    "var/cache",
)

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def skeleton(root: Path) -> None:
    """The directories of any Unix system, with their modes."""
    for name in _PLAIN:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/tmp", "run/lock"):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name).chmod(0o1777)
    (root / "root").chmod(0o755)
    if not (root / "var/run").exists():
        (root / "var/run").symlink_to("/run")


def write(root: Path, path: str, text: str, mode: int = 0o644) -> None:
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    target.chmod(mode)


Users = dict[str, tuple[int, int, str, str]]
"""name -> uid, gid, home directory, shell."""


def accounts(root: Path, users: Users, groups: Mapping[str, int]) -> None:
    """/etc/passwd, group and shadow with root, nobody and `users`; no account has a password."""
    everyone = {
        "root": (0, 0, "/root", "/bin/sh"),
        **users,
        "nobody": (65534, 65534, "/nonexistent", "/usr/sbin/nologin"),
    }
    all_groups = {"root": 0, "tty": 5, **groups, "nogroup": 65534}
    passwd = "".join(f"{n}:x:{uid}:{gid}:{n}:{home}:{shell}\n" for n, (uid, gid, home, shell) in everyone.items())
    write(root, "etc/passwd", passwd)
    write(root, "etc/group", "".join(f"{name}:x:{gid}:\n" for name, gid in all_groups.items()))
    write(root, "etc/shadow", "".join(f"{name}:*:19000:0:99999:7:::\n" for name in everyone), 0o600)


def network_files(root: Path) -> None:
    """What name resolution reads besides the files that the kubelet mounts."""
    write(
        root,
        "etc/nsswitch.conf",
        "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n",
    )
    for name in ("services", "protocols"):
        source = Path("/etc") / name
        if source.exists():
            shutil.copy(source, root / "etc" / name)


def certificates(root: Path) -> str:
    """Copy the machine's CA bundle; its path in the image. An image without it still works for plain HTTP."""
    source = Path("/etc/ssl/certs/ca-certificates.crt")
    inside = "etc/ssl/certs/ca-certificates.crt"
    if source.exists():
        (root / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, root / inside)
        (root / inside).chmod(0o644)
    return f"/{inside}"


def libraries(program: Path) -> list[Path]:
    """The shared libraries and the loader that a program needs. Raises ImageUnavailableError if one is missing."""
    result = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
    if "not a dynamic executable" in result.stderr or "statically linked" in result.stdout:
        return []
    found = []
    for line in result.stdout.splitlines():
        words = line.split()
        if "not found" in line:
            raise ImageUnavailableError(f"{program} needs the library {words[0]}, which this machine does not have")
        path = next((word for word in words if word.startswith("/")), None)
        if path is not None:
            found.append(Path(path))
    return found


def install_program(root: Path, program: Path, target: str) -> None:
    """Copy a program, and what it is linked to, into the root."""
    destination = root / target.lstrip("/")
    destination.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(program, destination)
    for library in libraries(program):
        copy = root / str(library).lstrip("/")
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, copy)


def copy_tree(source: Path, target: Path, skip: Iterable[str] = ()) -> None:
    """Copy files and symbolic links; what is not readable by everybody stays out, whoever runs this."""
    skipped = set(skip)
    for folder, directories, names in os.walk(source):
        here = target / Path(folder).relative_to(source)
        here.mkdir(parents=True, exist_ok=True)
        directories[:] = [d for d in directories if d not in skipped]
        for name in names + [d for d in directories if (Path(folder) / d).is_symlink()]:
            path = Path(folder) / name
            mode = path.lstat().st_mode
            public = stat.S_ISLNK(mode) or (stat.S_ISREG(mode) and mode & stat.S_IROTH)
            if name not in skipped and public and not (here / name).exists():
                shutil.copy2(path, here / name, follow_symlinks=False)
