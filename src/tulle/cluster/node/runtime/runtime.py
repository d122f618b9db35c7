"""What the kubelet calls to have containers: create, start, stop, remove, and the news of their ends."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

import tulle
from tulle.cluster.node import linux
from tulle.cluster.node.paths import NodePaths
from tulle.cluster.node.runtime import cgroups, oci, pause, records, rootfs
from tulle.cluster.node.runtime.oci import ContainerConfig
from tulle.cluster.node.runtime.records import Record, Status
from tulle.cluster.node.runtime.rootfs import ImageRoot
from tulle.cluster.node.runtime.shim.client import Attachment, ShimClient, ShimError

CONFIG_FILE = "config.json"
_DYING_SECONDS = 5.0


class ContainerError(Exception):
    """A container could not be made or started; the text is what the event says."""


class ShimNote(msgspec.Struct):
    """The shim's pid file."""

    pid: int
    start_ticks: int


def shim_pid(paths: NodePaths) -> int | None:
    """The pid of this node's running shim, or None; a pid that was reused by another process is not it."""
    try:
        note = msgspec.json.decode(paths.shim_pid.read_bytes(), type=ShimNote)
    except FileNotFoundError:
        return None
    return note.pid if linux.start_time(note.pid) == note.start_ticks else None


def spawn_shim(paths: NodePaths) -> int:
    """Start the shim as a session of its own: it has to outlive this process, and no signal to this one is for it."""
    # it uses the standard library only, so site-packages is left out; the source has to be named then
    environment = {**os.environ, "PYTHONPATH": str(Path(tulle.__file__).parent.parent)}
    files = (paths.shim_socket, paths.containers, paths.crun, paths.shim_pid)
    command = [sys.executable, "-S", "-m", "tulle.cluster.node.runtime.shim", *map(str, files)]
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(paths.shim_log), flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(sys.executable, command, environment, file_actions=actions, setsid=True)


def _exit_code(pid: int) -> int | None:
    """The exit code of a child that has ended, None while it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def new_id() -> str:
    """A container ID: 64 hexadecimal digits, as every runtime's."""
    return secrets.token_hex(32)


class Runtime:
    """The containers of one node. `on_change` is called with the status of every container that ended."""

    def __init__(self, paths: NodePaths, on_change: Callable[[Status], None]) -> None:
        self._paths = paths
        self._on_change = on_change
        self._shim = ShimClient(paths.shim_socket, self._event, self._shim_lost)
        self._statuses: dict[str, Status] = {}
        self.lost = asyncio.Event()
        self.controllers = cgroups.controllers()

    @property
    def statuses(self) -> Mapping[str, Status]:
        """Every container that exists, by ID, the ended ones too until they are removed."""
        return self._statuses

    async def start(self) -> None:
        """Connect to the shim, starting it if it does not run. Raises ShimError."""
        pause.install(self._paths.pause)
        for status in await self._connect():
            self._statuses[status.record.cid] = status
        for directory in self._paths.containers.iterdir():
            rootfs.release(directory / "rootfs")
        for cid in [cid for cid, status in self._statuses.items() if status.state in {"creating", "created"}]:
            await self.remove(cid)  # an earlier process ended before it could start this one

    async def _connect(self) -> Sequence[Status]:
        """The containers of the shim. One that dies closes its socket a moment before its process is gone."""
        deadline = time.monotonic() + _DYING_SECONDS
        while True:
            if shim_pid(self._paths) is None:
                await self._start_shim()
            try:
                return await self._shim.connect()
            except ShimError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.02)

    async def _start_shim(self) -> None:
        pid = spawn_shim(self._paths)
        while shim_pid(self._paths) is None:
            code = _exit_code(pid)
            if code is not None:
                raise ShimError(f"the container shim ended with code {code}; see {self._paths.shim_log}")
            await asyncio.sleep(0.01)

    async def create(self, record: Record, config: ContainerConfig, image: ImageRoot | None) -> Status:
        """Make the container, not yet running. Raises ContainerError with crun's own words.

        It is not left half made: whoever is cancelled meanwhile is so once the container is there, and can be removed.
        """
        making = asyncio.create_task(self._create(record, config, image))
        try:
            return await asyncio.shield(making)
        except asyncio.CancelledError:
            await asyncio.wait((making,))
            raise

    async def _create(self, record: Record, config: ContainerConfig, image: ImageRoot | None) -> Status:
        directory = self._paths.container(record.cid)
        directory.mkdir(parents=True)
        cgroup = cgroups.container_path(record.pod_uid, record.cid)
        record = record._replace(created_at=time.time(), cgroup=cgroup)
        records.write(directory, records.RECORD_FILE, record)
        (directory / CONFIG_FILE).write_bytes(msgspec.json.encode(oci.build(config)))
        try:
            if image is None:
                status = await self._call("create", record.cid)
            else:
                with rootfs.mounted(image, directory):
                    status = await self._call("create", record.cid)
        except (ShimError, OSError) as error:
            self._forget(record.cid, cgroup)
            raise ContainerError(str(error)) from error
        self._statuses[record.cid] = status
        return status

    def rootfs_path(self, cid: str) -> str:
        """Where the root of container `cid` will be while it is created."""
        return str(self._paths.container(cid) / "rootfs")

    async def run(self, cid: str) -> Status:
        """Start a created container. Raises ContainerError."""
        try:
            status = await self._call("start", cid)
        except ShimError as error:
            raise ContainerError(str(error)) from error
        known = self._statuses.get(cid)
        if known is not None and known.exit is not None:
            return known  # it ended before the answer arrived
        self._statuses[cid] = status
        return status

    async def signal(self, cid: str, number: int) -> None:
        """Send a signal to the container's first process; one that ended already is fine."""
        if cid in self._statuses:
            await self._shim.call("signal", cid, number)

    async def kill(self, cid: str) -> None:
        """End every process of the container at once."""
        if cid in self._statuses:
            await self._shim.call("kill", cid)

    async def remove(self, cid: str) -> None:
        """Remove the container and its files, running or not; idempotent. Raises ShimError when a process will not
        die.
        """
        status = self._statuses.get(cid)
        if status is None:
            return
        await self._shim.call("delete", cid)
        self._statuses.pop(cid, None)
        self._forget(cid, status.record.cgroup)

    def remove_pod_cgroup(self, uid: str) -> None:
        cgroups.remove(cgroups.pod_path(uid), patience=0.1)

    def _forget(self, cid: str, cgroup: str) -> None:
        self._statuses.pop(cid, None)
        cgroups.kill(cgroup)
        cgroups.remove(cgroup, patience=0.2)
        rootfs.remove(self._paths.container(cid))

    async def attach(self, cid: str, *, stdin: bool, stdout: bool, stderr: bool) -> Attachment:
        """A stream to a running container. Raises ShimError."""
        return await Attachment.open(self._paths.shim_socket, cid, stdin=stdin, stdout=stdout, stderr=stderr)

    def directory(self, cid: str) -> Path:
        return self._paths.container(cid)

    async def close(self) -> None:
        """Let go of the shim; the containers stay."""
        await self._shim.close()

    async def _call(self, op: str, cid: str) -> Status:
        statuses = await self._shim.call("create" if op == "create" else "start", cid)
        return statuses[0]

    def _event(self, status: Status) -> None:
        self._statuses[status.record.cid] = status
        self._on_change(status)

    def _shim_lost(self) -> None:
        self.lost.set()
