"""Network namespaces as files: pinning a pod's, finding it again, and opening a socket in another one.

A pod's namespace is pinned by a bind mount in the node process's own mount namespace. That mount dies with the node
process while the pod lives on, so a restarted node finds the namespace again through the processes of the pod's
cgroup, as any node agent would.
"""

import ctypes
import os
import re
import socket
from pathlib import Path

from tulle.cluster.node.network.commands import CommandError, run
from tulle.cluster.node.runtime import cgroups

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

POD_SYSCTLS = {
    "net/ipv6/conf/all/disable_ipv6": "1",
    "net/ipv6/conf/default/disable_ipv6": "1",
    "net/ipv4/ip_unprivileged_port_start": "0",
    "net/ipv4/ping_group_range": "0 2147483647",
}


def is_pinned(path: Path) -> bool:
    """Whether a namespace is mounted on the file (the plain file alone is left over from an earlier node process)."""
    return path.exists() and path.stat().st_dev != path.parent.stat().st_dev


async def create_pinned(path: Path, ip_lines: list[str]) -> None:
    """Make a network namespace, pin it at ``path`` and run ``ip -batch`` lines inside it. Raises CommandError."""
    _place(path)
    sysctls = "".join(
        f"[ ! -e /proc/sys/{name} ] || echo '{value}' > /proc/sys/{name}; " for name, value in POD_SYSCTLS.items()
    )
    await run(["unshare", f"--net={path}", "sh", "-ec", f"{sysctls} exec ip -batch -"], "\n".join(ip_lines) + "\n")


async def pin_again(path: Path, uid: str, proc: Path = Path("/proc")) -> bool:
    """Pin the namespace of a pod that is still running; False when no process of the pod is alive."""
    for process in pod_processes(uid, proc):
        _place(path)
        try:
            await run(["mount", "--bind", str(process / "ns/net"), str(path)])
        except CommandError:
            continue  # the process ended between the look and the mount
        return True
    return False


async def unpin(path: Path) -> None:
    """Remove the pin; the namespace itself ends with its last process."""
    if is_pinned(path):
        await run(["umount", "--lazy", str(path)])
    _drop(path)


def _place(path: Path) -> None:
    """The plain file that a namespace can be mounted on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def _drop(path: Path) -> None:
    path.unlink(missing_ok=True)


def pod_processes(uid: str, proc: Path = Path("/proc")) -> list[Path]:
    """``/proc/<pid>`` of every process in the pod's cgroup, the oldest first: a younger one may have made itself a
    network namespace that is not the pod's. What is called like a pod below another's cgroup is that other pod's work.
    """
    wanted = re.compile(rf"^0::(?:/\.\.)*{re.escape(cgroups.pod_path(uid))}(?:/|$)", re.MULTILINE)
    found = []
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                paths = (entry / "cgroup").read_text(errors="replace")
            except OSError:
                continue  # ended meanwhile
            if wanted.search(paths):
                found.append(entry)
    return sorted(found, key=_began)


def _began(process: Path) -> int:
    """Clock ticks since boot, because pids go round; 0 if it has ended."""
    try:
        return int((process / "stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    except OSError:
        return 0


def socket_in(netns: Path, kind: socket.SocketKind) -> socket.socket:
    """A non-blocking IPv4 socket that lives in another network namespace. Raises OSError when that is not permitted.

    The thread steps over and back without yielding, so nothing else can run in the wrong namespace.
    """
    own, other = os.open("/proc/thread-self/ns/net", os.O_RDONLY), os.open(netns, os.O_RDONLY)
    try:
        _setns(other)
        try:
            made = socket.socket(socket.AF_INET, kind)
        finally:
            _setns(own)
    finally:
        os.close(own)
        os.close(other)
    made.setblocking(False)
    return made


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        error = ctypes.get_errno()
        raise OSError(error, f"cannot enter the network namespace: {os.strerror(error)}")
