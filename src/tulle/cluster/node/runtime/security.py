"""What a container may do: capabilities, seccomp, hidden paths.

The set is the one that container engines give by default, less NET_RAW: since Linux 5.17 that allows SO_MARK, and a
marked socket is what the mesh's redirection lets pass (ping works without it, by the kernel's ping sockets). Nothing
here lets a pod change its own network or mounts, so whatever the mesh sets up in a pod's network namespace cannot be
undone or evaded from inside.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

DEFAULT_CAPABILITIES = frozenset(
    f"CAP_{name}"
    for name in [
        "CHOWN",
        "DAC_OVERRIDE",
        "FSETID",
        "FOWNER",
        "MKNOD",
        "SETGID",
        "SETUID",
        "SETFCAP",
        "SETPCAP",
        "NET_BIND_SERVICE",
        "SYS_CHROOT",
        "KILL",
        "AUDIT_WRITE",
    ]
)

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_DENIED_CALLS = [
    "acct",
    "add_key",
    "bpf",
    "clock_adjtime",
    "clock_settime",
    "delete_module",
    "finit_module",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "get_mempolicy",
    "init_module",
    "io_uring_enter",
    "io_uring_register",
    "io_uring_setup",
    "ioperm",
    "iopl",
    "kcmp",
    "kexec_file_load",
    "kexec_load",
    "keyctl",
    "lookup_dcookie",
    "mbind",
    "mount",
    "mount_setattr",
    "move_mount",
    "move_pages",
    "nfsservctl",
    "open_by_handle_at",
    "open_tree",
    "perf_event_open",
    "personality",
    "pivot_root",
    "process_vm_readv",
    "process_vm_writev",
    "quotactl",
    "quotactl_fd",
    "reboot",
    "request_key",
    "set_mempolicy",
    "setdomainname",
    "sethostname",
    "setns",
    "settimeofday",
    "stime",
    "swapoff",
    "swapon",
    "umount",
    "umount2",
    "unshare",
    "userfaultfd",
    "vhangup",
]


_CLONE_NEWUSER = 0x10000000
_NO_USER_NAMESPACES: list[dict[str, Any]] = [
    {
        "names": ["clone"],
        "action": "SCMP_ACT_ERRNO",
        "errnoRet": errno.EPERM,
        "args": [{"index": 0, "value": _CLONE_NEWUSER, "valueTwo": _CLONE_NEWUSER, "op": "SCMP_CMP_MASKED_EQ"}],
    },
    {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": errno.ENOSYS},
]
"""In a user namespace of its own a process has every capability, over network namespaces too. What clone3 is asked for a filter cannot
see: C libraries go back to clone when the kernel seems not to have it."""

_BITS = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
]
ALL_CAPABILITIES = frozenset(f"CAP_{name}" for name in _BITS)


def own_capabilities() -> frozenset[str]:
    """The capabilities that this process can hand on."""
    status = Path("/proc/self/status").read_text()
    mask = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    return frozenset(f"CAP_{name}" for bit, name in enumerate(_BITS) if mask >> bit & 1)


class UnknownCapabilityError(ValueError):
    """A capability name that Linux does not have."""


def capability(name: str) -> str:
    """`NET_ADMIN` or `CAP_NET_ADMIN` as the kernel names it. Raises UnknownCapabilityError."""
    full = name.upper() if name.upper().startswith("CAP_") else f"CAP_{name.upper()}"
    if full not in ALL_CAPABILITIES:
        raise UnknownCapabilityError(name)
    return full


class MissingCapabilityError(ValueError):
    """A capability that this machine's root does not have itself, so no container can get it."""


def capabilities(
    add: Iterable[str], drop: Iterable[str], *, privileged: bool, available: frozenset[str] = ALL_CAPABILITIES
) -> list[str]:
    """The container's bounding set, sorted: drop is applied first and add wins, as in Kubernetes.

    `available` is what the node itself has; `ALL` and `privileged` mean all of that. Without SYS_RESOURCE the
    kernel's device filter cannot be loaded, and then MKNOD is not given either: a container must not be able to make
    itself the machine's disk. Raises UnknownCapabilityError, MissingCapabilityError.
    """
    filtered = available if "CAP_SYS_RESOURCE" in available or privileged else available - {"CAP_MKNOD"}
    if privileged:
        return sorted(available)
    kept = set(DEFAULT_CAPABILITIES)
    dropped, added = [n.upper() for n in drop], [n.upper() for n in add]
    if "ALL" in dropped:
        kept = set()
    kept -= {capability(name) for name in dropped if name != "ALL"}
    if "ALL" in added:
        kept |= ALL_CAPABILITIES
    for name in added:
        if name != "ALL" and capability(name) not in filtered:
            raise MissingCapabilityError(name)
        kept |= {capability(name)} if name != "ALL" else set()
    return sorted(kept & filtered)


def seccomp(granted: Iterable[str]) -> Mapping[str, Any]:
    """The default profile: what reaches deep into the kernel or out of the container fails with EPERM.

    It lists what is denied, not what is allowed: the programs in the catalogue are the machine's own, and a new
    system call must not break them. A call whose capability was granted on purpose is let through.
    """
    capabilities_ = set(granted)
    denied = set(_DENIED_CALLS)
    if "CAP_SYS_ADMIN" in capabilities_:
        denied -= {
            "bpf",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "pivot_root",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "umount",
            "umount2",
            "unshare",
        }
    if "CAP_SYS_PTRACE" in capabilities_:
        denied -= {"kcmp", "process_vm_readv", "process_vm_writev"}
    if "CAP_SYS_TIME" in capabilities_:
        denied -= {"settimeofday", "stime", "clock_settime", "clock_adjtime"}
    if "CAP_SYS_NICE" in capabilities_:
        denied -= {"get_mempolicy", "mbind", "set_mempolicy", "move_pages"}
    if "CAP_BPF" in capabilities_:
        denied -= {"bpf"}
    if "CAP_PERFMON" in capabilities_:
        denied -= {"perf_event_open"}
    if "CAP_DAC_READ_SEARCH" in capabilities_:
        denied -= {"open_by_handle_at"}
    rules: list[dict[str, Any]] = [{"names": sorted(denied), "action": "SCMP_ACT_ERRNO", "errnoRet": errno.EPERM}]
    if "CAP_SYS_ADMIN" not in capabilities_:
        rules += _NO_USER_NAMESPACES
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}
