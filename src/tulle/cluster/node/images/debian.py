"""Debian roots: the machine's own `/usr` and package database below, everything else fresh.

Nothing is copied that is large, and nothing is shown that is private: `/etc` is made anew from public files, `/home`,
`/root` and `/var` start empty. `apt-get` and `dpkg` in the container are the real ones; they see the machine's
packages as installed and write to the container's own layer. A package that the machine lacks is downloaded once and
unpacked as a layer of the image.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tulle.cluster.node.images import files
from tulle.cluster.node.images.model import ImageUnavailableError
from tulle.cluster.node.machine import machine_netns
from tulle.cluster.node.runtime.rootfs import Part

STATUS = "/var/lib/dpkg/status"

_PUBLIC = (
    "debian_version",
    "os-release",
    "issue",
    "profile",
    "bash.bashrc",
    "ld.so.conf",
    "ld.so.cache",
    "login.defs",
    "mime.types",
    "debconf.conf",
    "ca-certificates.conf",
    "host.conf",
    "gai.conf",
    "shells",
    "environment",
    "deluser.conf",
    "adduser.conf",
)
_PUBLIC_TREES = (
    "ld.so.conf.d",
    "alternatives",
    "dpkg",
    "ssl/certs",
    "skel",
    "profile.d",
    "pam.d",
    "terminfo",
    "security",
    "default",
)
_APT_TREES = ("sources.list.d", "apt.conf.d", "keyrings", "trusted.gpg.d", "preferences.d")
_HOOKS = ("Post-Invoke", "Pre-Invoke", "Pre-Install-Pkgs")

FIRST_ORDINARY_ID = 1000
"""Accounts below it belong to packages; those above it are people's, and stay out of images."""


def _system_accounts() -> tuple[files.Users, dict[str, int]]:
    """The accounts that the machine's packages made: their files belong to them, and dpkg refuses to work without
    them.
    """
    users = {}
    for line in Path("/etc/passwd").read_text().splitlines():
        name, _, uid, gid, _, home, shell = line.split(":")
        if 0 < int(uid) < FIRST_ORDINARY_ID:
            users[name] = (int(uid), int(gid), home, shell)
    groups = {}
    for line in Path("/etc/group").read_text().splitlines():
        name, _, gid, _ = line.split(":")
        if 0 < int(gid) < FIRST_ORDINARY_ID:
            groups[name] = int(gid)
    return users, groups


def free_id(wanted: int) -> int:
    """`wanted`, or the next number that no account of the machine has."""
    users, groups = _system_accounts()
    taken = {uid for uid, *_ in users.values()} | set(groups.values())
    return next(number for number in range(wanted, FIRST_ORDINARY_ID) if number not in taken)


def system(root: Path, users: files.Users | None = None, groups: dict[str, int] | None = None) -> None:
    """A fresh Debian system without its /usr. Raises ImageUnavailableError on a machine that is no Debian."""
    if not Path(STATUS).exists():
        raise ImageUnavailableError(
            "this image is made from the machine's Debian packages, and this machine has no dpkg database"
        )
    files.skeleton(root)
    machine_users, machine_groups = _system_accounts()
    files.accounts(root, {**machine_users, **(users or {})}, {**machine_groups, **(groups or {})})
    files.network_files(root)
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(os.readlink(Path("/", name)))
    for name in _PUBLIC:
        if Path("/etc", name).is_file():
            shutil.copy(Path("/etc", name), root / "etc" / name)
    for name in _PUBLIC_TREES:
        if Path("/etc", name).is_dir():
            files.copy_tree(Path("/etc", name), root / "etc" / name)
    for name in (
        "var/lib/dpkg",
        "var/lib/apt/lists/partial",
        "var/cache/apt/archives/partial",
        "var/cache/debconf",
        "var/log/apt",
    ):
        (root / name).mkdir(parents=True, exist_ok=True)
    _apt(root)


def _apt(root: Path) -> None:
    """The machine's package sources and proxies. Credentials (auth.conf) stay where they are, and so do hooks that
    call its services.
    """
    target = root / "etc/apt"
    target.mkdir(parents=True, exist_ok=True)
    for name in _APT_TREES:
        if Path("/etc/apt", name).is_dir():
            files.copy_tree(Path("/etc/apt", name), target / name)
    for name in ("sources.list", "apt.conf", "trusted.gpg"):
        if Path("/etc/apt", name).is_file():
            shutil.copy(Path("/etc/apt", name), target / name)
    for configuration in (target / "apt.conf.d").glob("*"):
        if any(hook in configuration.read_text(errors="replace") for hook in _HOOKS):
            configuration.unlink()
    files.write(root, "etc/apt/apt.conf.d/90container", 'APT::Install-Recommends "false";\nAcquire::Retries "0";\n')


def usr(root: Path, *, writable: bool, packages: Sequence[str] = ()) -> Sequence[Part]:
    """The mounts that complete `system`: /usr with `packages` in it, and the package database. `/usr/local` is empty."""
    layer = root.parent / "usr"
    local = layer / "local"
    for name in ("bin", "sbin", "lib", "share", "etc", "src", "include"):
        (local / name).mkdir(parents=True, exist_ok=True)
    os.setxattr(local, "trusted.overlay.opaque", b"y")
    missing = [name for name in packages if not installed(name)]
    if missing:
        unpack(missing, root, layer)
    database = Part("/var/lib/dpkg", "/var/lib/dpkg", writable=writable)
    return (Part("/usr", "/usr", layers=(str(layer),), writable=writable), database)


def installed(package: str) -> bool:
    """Whether the machine has the package's files."""
    command = ["dpkg-query", "--show", "--showformat=${db:Status-Status}", package]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout == "installed"


def unpack(packages: Sequence[str], root: Path, usr_layer: Path) -> None:
    """Download packages, with what they need and the machine lacks, and unpack them: /usr into its layer, the rest
    into the root.

    Raises ImageUnavailableError with apt's own words.
    """
    archives = root.parent / "archives"
    (archives / "partial").mkdir(parents=True)
    options = [
        "-o",
        f"Dir::Cache::archives={archives}",
        "-o",
        "Debug::NoLocking=1",
        "-qq",
        "-y",
        "--no-install-recommends",
    ]
    command = ["apt-get", *options, "--download-only", "install", *packages]
    result = subprocess.run(_on_machine_network(command), capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise ImageUnavailableError(
            f"Debian package(s) {', '.join(packages)} are neither installed on this machine nor to be had: "
            f"{' '.join(result.stderr.split())}. Run `apt-get update`, or install them with `apt-get install {' '.join(packages)}`"
        )
    unpacked = root.parent / "unpacked"
    for archive in sorted(archives.glob("*.deb")):
        subprocess.run(["dpkg-deb", "--extract", str(archive), str(unpacked)], check=True)
    shutil.rmtree(archives)
    for name in ("usr", "bin", "sbin", "lib"):
        if (unpacked / name).is_dir():
            files.copy_tree(unpacked / name, usr_layer if name == "usr" else usr_layer / name)
    for name in ("etc", "var"):
        if (unpacked / name).is_dir():
            files.copy_tree(unpacked / name, root / name)
    shutil.rmtree(unpacked, ignore_errors=True)


def _on_machine_network(command: list[str]) -> list[str]:
    """The node has a network of its own; packages are fetched the way the machine fetches them."""
    machine = machine_netns()
    return command if machine.samefile("/proc/self/ns/net") else ["nsenter", f"--net={machine}", *command]


def program(package: str, name: str, root: Path) -> Path:
    """A program of `package` as a file to copy: the machine's own, or one from the downloaded package. Raises
    ImageUnavailableError.
    """
    for folder in ("/usr/bin", "/bin", "/usr/sbin"):
        if installed(package) and Path(folder, name).exists():
            return Path(folder, name).resolve()
    layer = root.parent / "fetched"
    unpack([package], root, layer)
    for folder in ("bin", "sbin"):
        if (layer / folder / name).exists():
            return layer / folder / name
    raise ImageUnavailableError(f"the Debian package {package} has no program {name}")
