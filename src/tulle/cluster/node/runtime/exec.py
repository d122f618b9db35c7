"""A further process in a running container: what `kubectl exec` and exec probes start.

It joins the container's namespaces through `crun exec`, with the container's own environment, user and capabilities.
With a terminal, crun sends the master side over a socket, so that resizing is a plain ioctl and a closed connection
hangs the session up.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import signal
import socket
import struct
import termios
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tulle.cluster.node.runtime.shim import spawn

_CHUNK = 64 * 1024


class ExecError(Exception):
    """The process could not be started; the text is crun's."""


@dataclass(frozen=True)
class Files:
    """The files of one session, in the container's directory."""

    directory: Path
    tag: str

    @property
    def pid(self) -> Path:
        return self.directory / f"exec-{self.tag}.pid"

    @property
    def log(self) -> Path:
        return self.directory / f"exec-{self.tag}.log"

    @property
    def console(self) -> Path:
        return self.directory / f"exec-{self.tag}.sock"

    def reason(self) -> str:
        """crun's last line without its time stamp, or nothing if it had nothing to say."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return (lines[-1].partition(": ")[2] or lines[-1]) if lines else ""

    def remove_console(self) -> None:
        self.console.unlink(missing_ok=True)

    def remove(self) -> None:
        self.pid.unlink(missing_ok=True)
        self.log.unlink(missing_ok=True)


@dataclass(frozen=True)
class ExecRequest:
    """What to run. The streams that are not wanted are /dev/null."""

    command: Sequence[str]
    stdin: bool = False
    tty: bool = False


class ExecSession:
    """A running process. Read it with `stdout`/`stderr` (with a terminal, all of it is stdout), end it with `wait` or
    `hang_up`.
    """

    def __init__(self, process: asyncio.subprocess.Process, files: Files) -> None:
        self._process = process
        self._files = files
        self._master: int | None = None

    @classmethod
    async def start(cls, container: Path, crun_root: Path, cid: str, request: ExecRequest) -> ExecSession:
        """Start `request` in the container whose directory is `container`. Raises ExecError."""
        config = msgspec.json.decode((container / "config.json").read_bytes())["process"]
        config.update(args=list(request.command), terminal=request.tty)
        if request.tty:
            config["env"] = [e for e in config["env"] if not e.startswith("TERM=")] + ["TERM=xterm"]
        files = Files(container, secrets.token_hex(6))
        process_file = os.memfd_create("process.json")
        os.write(process_file, msgspec.json.encode(config))
        program = spawn.find_crun()
        command = [program, "--root", str(crun_root), "--cgroup-manager", "cgroupfs", "--log", f"file:{files.log}"]
        command += ["exec", "--process", f"/proc/self/fd/{process_file}", "--pid-file", str(files.pid)]
        try:
            if request.tty:
                return await cls._with_terminal([*command, "--console-socket"], cid, files, process_file)
            process = await asyncio.create_subprocess_exec(
                *command,
                cid,
                stdin=asyncio.subprocess.PIPE if request.stdin else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(process_file,),
                limit=_CHUNK * 4,
            )
            return cls(process, files)
        finally:
            os.close(process_file)

    @classmethod
    async def _with_terminal(cls, command: list[str], cid: str, files: Files, process_file: int) -> ExecSession:
        null = asyncio.subprocess.DEVNULL
        with spawn.listen(files.console) as listener:
            try:
                process = await asyncio.create_subprocess_exec(
                    *command, str(files.console), cid, stdin=null, stdout=null, stderr=null, pass_fds=(process_file,)
                )
                session = cls(process, files)
                session._master = await _master(listener, process)
            finally:
                files.remove_console()
        return session

    async def read_stdout(self) -> bytes:
        """Some output, or nothing at its end."""
        if self._master is not None:
            return await _read_terminal(self._master)
        assert self._process.stdout is not None or self._finished()
        return await self._process.stdout.read(_CHUNK) if self._process.stdout is not None else b""

    async def read_stderr(self) -> bytes:
        """Some error output, or nothing at its end (at once with a terminal, which has one stream)."""
        return await self._process.stderr.read(_CHUNK) if self._process.stderr is not None else b""

    async def write(self, data: bytes) -> None:
        """Give the process input; one that reads no more is no error."""
        if self._master is not None:
            await _write_terminal(self._master, data)
        elif self._process.stdin is not None:
            with contextlib.suppress(ConnectionError, RuntimeError):
                self._process.stdin.write(data)
                await self._process.stdin.drain()

    def close_stdin(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    def resize(self, rows: int, columns: int) -> None:
        if self._master is not None:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def wait(self) -> int:
        """The exit code (128 + signal if one ended it). Raises ExecError if the process never ran."""
        code = await self._process.wait()
        reason, never_ran = self._files.reason(), not self._files.pid.exists()
        self._clean()
        if reason and (never_ran or code in {126, 127, 1, 255}):
            raise ExecError(reason)
        return 128 - code if code < 0 else code

    async def hang_up(self) -> None:
        """End the process and its group: its client is gone. A terminal's session gets SIGHUP first, as from a closed
        window.
        """
        if self._finished():
            return
        self._close_master()
        pid = self._pid()
        if pid:
            for number, patience in ((signal.SIGHUP, 0.5), (signal.SIGKILL, 5.0)):
                for kill, target in ((os.killpg, pid), (os.kill, pid)):
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        kill(target, number)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience):
                        await self._process.wait()
                    break
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        self._clean()

    def _pid(self) -> int:
        """The process's pid on this machine; crun, which is its parent, has not ended, so it is not reused."""
        try:
            return int(self._files.pid.read_text())
        except (FileNotFoundError, ValueError):
            return 0

    def _finished(self) -> bool:
        return self._process.returncode is not None

    def _close_master(self) -> None:
        if self._master is not None:
            asyncio.get_running_loop().remove_reader(self._master)
            asyncio.get_running_loop().remove_writer(self._master)
            os.close(self._master)
            self._master = None

    def _clean(self) -> None:
        self._close_master()
        self._files.remove()


def _resolve(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _master(listener: socket.socket, process: asyncio.subprocess.Process) -> int | None:
    """The terminal's master side, or None if crun ended without one (`wait` then says why)."""
    accepted = asyncio.create_task(asyncio.get_running_loop().sock_accept(listener))
    ended = asyncio.create_task(process.wait())
    await asyncio.wait((accepted, ended), return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    if not accepted.done():
        accepted.cancel()
        return None
    connection, _ = accepted.result()
    with connection:
        connection.setblocking(True)
        _, fds, _, _ = socket.recv_fds(connection, 1024, 1)
    if not fds:
        return None
    os.set_blocking(fds[0], False)
    return fds[0]


async def _read_terminal(master: int) -> bytes:
    loop = asyncio.get_running_loop()
    while True:
        try:
            return os.read(master, _CHUNK)
        except BlockingIOError:
            ready: asyncio.Future[None] = loop.create_future()
            loop.add_reader(master, _resolve, ready)
            try:
                await ready
            finally:
                loop.remove_reader(master)
        except OSError:
            return b""  # EIO: the last process of the terminal is gone


async def _write_terminal(master: int, data: bytes) -> None:
    loop = asyncio.get_running_loop()
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(master, view) :]
        except BlockingIOError:
            ready: asyncio.Future[None] = loop.create_future()
            loop.add_writer(master, _resolve, ready)
            try:
                await ready
            finally:
                loop.remove_writer(master)
        except OSError:
            return
