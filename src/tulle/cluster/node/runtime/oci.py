"""A container's `config.json` (OCI runtime specification 1.0): a pure function of what the kubelet decided.

Everything is resolved before it comes here: names are numbers, references are values, volumes are directories of this
machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tulle.cluster.node.runtime import security


@dataclass(frozen=True)
class Mount:
    """A directory or file of this machine inside the container. `propagation` is private, rslave or rshared."""

    source: str
    destination: str
    read_only: bool = False
    recursive: bool = True
    propagation: str = "rprivate"


@dataclass(frozen=True)
class User:
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()


@dataclass(frozen=True)
class Namespaces:
    """Paths of the namespaces to join; an empty path is a fresh namespace, None is the machine's."""

    network: str | None = ""
    ipc: str | None = ""
    uts: str | None = ""
    pid: str | None = ""
    cgroup: str | None = ""


@dataclass(frozen=True)
class Limits:
    """Resource limits that this machine's kernel can enforce: bytes, CPU shares in cgroup2 weight, CPU quota in
    microseconds per period.
    """

    memory: int | None = None
    cpu_weight: int | None = None
    cpu_quota: int | None = None
    cpu_period: int = 100_000


@dataclass(frozen=True)
class ContainerConfig:
    """One container, everything resolved."""

    rootfs: str
    args: Sequence[str]
    env: Sequence[str]
    cwd: str
    cgroup: str
    user: User = User()
    hostname: str = ""
    namespaces: Namespaces = Namespaces()
    mounts: Sequence[Mount] = ()
    tty: bool = False
    privileged: bool = False
    read_only_root: bool = False
    no_new_privileges: bool = True
    capabilities: Sequence[str] = tuple(sorted(security.DEFAULT_CAPABILITIES))
    seccomp: Mapping[str, Any] | None = None
    unmasked_proc: bool = False
    filter_devices: bool = False
    limits: Limits = Limits()
    sysctls: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)


_STANDARD_MOUNTS: tuple[Mapping[str, Any], ...] = (
    {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
    {
        "destination": "/dev",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
)


def build(config: ContainerConfig) -> dict[str, Any]:
    """The whole config.json."""
    return {
        "ociVersion": "1.0.2",
        "root": {"path": config.rootfs, "readonly": config.read_only_root},
        "process": process(config),
        **({"hostname": config.hostname} if config.namespaces.uts == "" and config.hostname else {}),
        "mounts": _mounts(config),
        "annotations": dict(config.annotations),
        "linux": _linux(config),
    }


def process(config: ContainerConfig) -> dict[str, Any]:
    """The `process` object, which `exec` reuses with other arguments."""
    granted = list(config.capabilities)
    # a process that is not root gets none of them, as with every engine, unless it runs a set-uid or
    # file-capability program
    effective = granted if config.user.uid == 0 else []
    return {
        "terminal": config.tty,
        "user": {
            "uid": config.user.uid,
            "gid": config.user.gid,
            "additionalGids": list(config.user.groups),
            "umask": 0o22,
        },
        "args": list(config.args),
        "env": list(config.env),
        "cwd": config.cwd or "/",
        "capabilities": {
            "bounding": granted,
            "effective": effective,
            "permitted": effective,
            "inheritable": [],
            "ambient": [],
        },
        "noNewPrivileges": config.no_new_privileges,
    }


def _mounts(config: ContainerConfig) -> list[dict[str, Any]]:
    mode = "rw" if config.privileged else "ro"
    system = [
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", mode]},
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", mode],
        },
    ]
    return [*map(dict, _STANDARD_MOUNTS), *system, *map(_bind, _parents_first(config.mounts))]


def _parents_first(mounts: Sequence[Mount]) -> list[Mount]:
    """A mount below another's destination has to come after it, whatever order the pod lists them in."""
    return sorted(mounts, key=lambda m: m.destination.rstrip("/").count("/"))


def _bind(mount: Mount) -> dict[str, Any]:
    options = ["rbind" if mount.recursive else "bind", mount.propagation, "ro" if mount.read_only else "rw"]
    return {"destination": mount.destination, "type": "bind", "source": mount.source, "options": options}


def _linux(config: ContainerConfig) -> dict[str, Any]:
    spaces = config.namespaces
    listed: list[dict[str, str]] = [{"type": "mount"}]
    for kind, path in (
        ("network", spaces.network),
        ("ipc", spaces.ipc),
        ("uts", spaces.uts),
        ("pid", spaces.pid),
        ("cgroup", spaces.cgroup),
    ):
        if path is not None:
            listed.append({"type": kind, "path": path} if path else {"type": kind})
    document: dict[str, Any] = {
        "cgroupsPath": config.cgroup,
        "namespaces": listed,
        "resources": _resources(config),
        "rootfsPropagation": "rprivate" if not any(m.propagation != "rprivate" for m in config.mounts) else "rslave",
    }
    if config.sysctls:
        document["sysctl"] = dict(config.sysctls)
    if not config.privileged and not config.unmasked_proc:
        document["maskedPaths"] = list(security.MASKED_PATHS)
        document["readonlyPaths"] = list(security.READONLY_PATHS)
    if config.seccomp is not None:
        document["seccomp"] = dict(config.seccomp)
    return document


_DEVICES: tuple[Mapping[str, Any], ...] = (
    {"allow": False, "access": "rwm"},
    *({"allow": True, "type": kind, "access": "m"} for kind in ("c", "b")),
    *(
        {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
        for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2))
    ),
    {"allow": True, "type": "c", "major": 136, "access": "rwm"},
)


def _resources(config: ContainerConfig) -> dict[str, Any]:
    devices: list[Mapping[str, Any]] = [{"allow": True, "access": "rwm"}] if config.privileged else list(_DEVICES)
    document: dict[str, Any] = {"devices": [dict(device) for device in devices]} if config.filter_devices else {}
    limits = config.limits
    if limits.memory is not None:
        document["memory"] = {"limit": limits.memory}
    unified = {}
    if limits.cpu_weight is not None:
        unified["cpu.weight"] = str(limits.cpu_weight)
    if unified:
        document["unified"] = unified
    if limits.cpu_quota is not None:
        document["cpu"] = {"quota": limits.cpu_quota, "period": limits.cpu_period}
    return document
