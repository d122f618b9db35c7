"""A pod's network namespace: found through the cgroups of its processes, entered by child processes only.

The agent's own threads never leave the host's namespace. A namespace is held as a file descriptor, which keeps it
reachable whatever happens to paths, and which is also what ztunnel is handed. cgroup paths are matched by the pod's
uid alone, because their shape differs: ``/kubepods/pod<uid>/…``, ``/kubepods.slice/kubepods-burstable.slice/kubepods-
burstable-pod<uid with underscores>.slice/…``, with or without prefixes of the reader's own cgroup namespace
(``/../..``). A pod's process can make itself a namespace of its own (with a user namespace it needs no right for that);
the pod's is that of its oldest process, which was there before any that the pod has a say in. It can likewise make
cgroups of any name below its own, or in a tree that the runtime does not use, but not get out of its own.
"""

import asyncio
import fcntl
import itertools
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tulle.cni.rules import REMOVAL, ROUTE, ROUTE_RULE, ROUTE_TABLE, RULE_PREFERENCE, TABLE, Ruleset

_NS_GET_NSTYPE = 0xB703
_CLONE_NEWNET = 0x40000000
_POD_UID = "[0-9a-f]{8}(?:[-_]?[0-9a-f]{4}){3}[-_]?[0-9a-f]{12}"
#: In a shell inside a namespace: whether it speaks IPv6, and so can have routes of it.
_HAS_IPV6 = "ip -6 addr show dev lo | grep -q inet6"


class NamespaceError(Exception):
    """A tool refused to work inside a pod's namespace; the message has what it printed."""


@dataclass
class PodNetns:
    """An open network namespace. ``inode`` tells two namespaces apart. Close it when the pod leaves."""

    descriptor: int
    inode: int

    @classmethod
    def adopt(cls, descriptor: int) -> "PodNetns":
        """Take over an open descriptor, such as one received over a socket. Raises NamespaceError when it is not a
        namespace.
        """
        try:
            kind = fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
        except OSError:
            kind = 0
        if kind != _CLONE_NEWNET:
            os.close(descriptor)
            raise NamespaceError("the descriptor handed over is not a network namespace")
        return cls(descriptor, os.fstat(descriptor).st_ino)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


def find(proc: Path, uid: str) -> PodNetns | None:
    """Open the namespace of a running pod; None when no process of it is alive, or only such as share the agent's
    own namespace.
    """
    own = os.stat("/proc/self/ns/net").st_ino
    for process in _processes(proc, uid):
        try:
            found = PodNetns.adopt(os.open(process / "ns/net", os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            continue  # ended meanwhile
        if found.inode != own:
            return found
        found.close()
    return None


def belongs_to(uid: str, own: str = "") -> Callable[[str], bool]:
    """Tells from a process's /proc/<pid>/cgroup whether it is the pod's, in any of the shapes that runtimes use.

    In each path the first name of a pod counts, and all paths must name the same. ``own``: the reader's own
    /proc/self/cgroup; what is above both is no pod of this node, but one that the node itself runs in.
    """
    plain, underscored = re.escape(uid), re.escape(uid.replace("-", "_"))
    pod = re.compile(rf"(?:^|[/-])pod({_POD_UID}|{plain}|{underscored})(?:\.slice)?(?=[/:]|$)")
    above = dict(_paths(own))

    def look(cgroups: str) -> bool:
        below = (_below(path, above.get(tree, "")) for tree, path in _paths(cgroups))
        named = {_bare(found[1]) for path in below if (found := pod.search(path)) is not None}
        return named == {_bare(uid)}

    return look


def _bare(uid: str) -> str:
    return uid.replace("-", "").replace("_", "")


def _paths(cgroups: str) -> Iterator[tuple[str, str]]:
    """Each tree of cgroups, and the path in it."""
    for line in cgroups.split("\n"):
        number, _, rest = line.partition(":")
        yield number, rest.partition(":")[2]


def _below(path: str, other: str) -> str:
    """The part of a path that it does not share with another's beginning."""
    pairs = itertools.zip_longest(path.split("/"), other.split("/"))
    return "/" + "/".join(mine for mine, _ in itertools.dropwhile(lambda pair: pair[0] == pair[1], pairs) if mine)


def _processes(proc: Path, uid: str) -> Iterator[Path]:
    is_of_pod = belongs_to(uid, Path("/proc/self/cgroup").read_text())
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            cgroups = (entry / "cgroup").read_text(errors="replace")
        except OSError:
            continue  # ended meanwhile
        if is_of_pod(cgroups):
            found.append(entry)
    yield from sorted(found, key=_began)


def _began(process: Path) -> int:
    """When it began, in clock ticks since boot: pids go round, so a lower one is not an older one. 0 if it has ended."""
    try:
        return int((process / "stat").read_text(errors="replace").rpartition(")")[2].split()[19])
    except OSError:
        return 0


def _routes(ip: str) -> str:
    return f"{ip} {ROUTE}; {ip} rule show pref {RULE_PREFERENCE} | grep -q . || {ip} rule add {ROUTE_RULE}"


async def apply(netns: PodNetns, ruleset: Ruleset) -> None:
    """Put the ruleset and its route in force, atomically replacing an earlier one. Raises NamespaceError."""
    script = f"nft -f -; {_routes('ip')}; if {_HAS_IPV6}; then {_routes('ip -6')}; fi"
    await _inside(netns, ["sh", "-ec", script], ruleset.text)


async def remove(netns: PodNetns) -> None:
    """Take the redirection away; harmless when there is none. Raises NamespaceError."""
    gone = "; ".join(
        f"{ip} rule del {ROUTE_RULE} 2>/dev/null || true; {ip} route flush table {ROUTE_TABLE} 2>/dev/null || true"
        for ip in ("ip", "ip -6")
    )
    script = f"nft -f -; {gone}"
    await _inside(netns, ["sh", "-ec", script], REMOVAL)


async def verify(netns: PodNetns, ruleset: Ruleset) -> bool:
    """Whether exactly this ruleset is in force."""
    listing = await _inside(netns, ["nft", "list", "tables", "inet"])
    if f"table inet {TABLE}" not in listing.splitlines():
        return False
    table = await _inside(netns, ["nft", "list", "table", "inet", TABLE])
    lines = [line.strip() for line in table.splitlines()]
    structure = ("table ", "chain ", "type ", "comment ", "}")
    rules = [line for line in lines if line and not line.startswith(structure)]
    return f'comment "{ruleset.digest}"' in lines and len(rules) == ruleset.rule_count


async def is_redirected(netns: PodNetns) -> bool:
    """Whether any of our redirection is in force in the namespace."""
    listing = await _inside(netns, ["nft", "list", "tables", "inet"])
    return f"table inet {TABLE}" in listing.splitlines()


async def _inside(netns: PodNetns, command: list[str], stdin: str = "") -> str:
    enter = ["nsenter", f"--net=/proc/self/fd/{netns.descriptor}", *command]
    return await run(enter, stdin, pass_fds=(netns.descriptor,))


async def run(command: list[str], stdin: str = "", *, pass_fds: tuple[int, ...] = ()) -> str:
    """Run a tool to its end. Raises NamespaceError on a non-zero exit."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=pass_fds,
        )
    except OSError as error:
        raise NamespaceError(f"{command[0]} cannot be run: {error}") from error
    out, err = await process.communicate(stdin.encode())
    if process.returncode:
        raise NamespaceError(
            f"`{' '.join(command)}` exited {process.returncode}: {err.decode(errors='replace').strip()}"
        )
    return out.decode(errors="replace")
