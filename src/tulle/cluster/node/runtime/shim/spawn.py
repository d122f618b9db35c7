"""Starting `crun` from the shim: the descriptors that a container gets, and what crun said when it failed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from tulle.cluster.node.runtime.records import Record

_IGNORED_HERE = (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGXFSZ)
"""Python and the shim ignore these, and an ignored signal stays ignored in a child; a container must have them as
they are by default.
"""


def listen(path: Path) -> socket.socket:
    """A listening unix socket at `path`, however long the path is (the kernel's limit is 107 bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
    path.chmod(0o600)
    sock.listen(64)
    sock.setblocking(False)
    return sock


def receive_terminal(listener: socket.socket) -> int:
    """The terminal's master side, which crun sends to its console socket."""
    listener.setblocking(True)
    listener.settimeout(5)
    connection, _ = listener.accept()
    with connection:
        _, fds, _, _ = socket.recv_fds(connection, 1024, 1)
    os.set_blocking(fds[0], False)
    return fds[0]


class Stdio:
    """What a new container gets as 0, 1 and 2 (`given`), and the sides that the shim keeps."""

    def __init__(
        self,
        given: tuple[int, int, int],
        outputs: Mapping[int, str] | None = None,
        stdin: int | None = None,
        console: tuple[socket.socket, Path] | None = None,
    ) -> None:
        self.given = given
        self._outputs = dict(outputs or {})
        self._stdin = stdin
        self._console = console

    @property
    def options(self) -> tuple[str, ...]:
        """What crun has to be told."""
        return ("--console-socket", str(self._console[1])) if self._console is not None else ()

    def close_given(self) -> None:
        for fd in set(self.given):
            os.close(fd)

    def take(self) -> tuple[dict[int, str], int | None]:
        """The shim's sides, once crun has made the container: output descriptors with their stream, and the input."""
        if self._console is None:
            return self._outputs, self._stdin
        master = receive_terminal(self._console[0])
        self._close_console()
        return {master: "stdout"}, master

    def close(self) -> None:
        """Give everything up: crun failed."""
        for fd in self._outputs:
            os.close(fd)
        if self._stdin is not None:
            os.close(self._stdin)
        self._close_console()

    def _close_console(self) -> None:
        if self._console is not None:
            self._console[0].close()
            self._console[1].unlink(missing_ok=True)


def open_stdio(record: Record, directory: Path) -> Stdio:
    """Pipes for a container without a terminal; a console socket for one with."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    if record.kind == "sandbox":
        return Stdio((null, null, null))
    if record.tty:
        path = directory / "console.sock"
        return Stdio((null, null, null), console=(listen(path), path))
    out_read, out_write = os.pipe2(os.O_CLOEXEC)
    err_read, err_write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(out_read, False)
    os.set_blocking(err_read, False)
    outputs = {out_read: "stdout", err_read: "stderr"}
    if not record.stdin:
        return Stdio((null, out_write, err_write), outputs=outputs)
    os.close(null)
    in_read, in_write = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(in_write, False)
    return Stdio((in_read, out_write, err_write), outputs=outputs, stdin=in_write)


def find_crun() -> str:
    """The path of crun. Raises FileNotFoundError."""
    for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
        path = os.path.join(directory, "crun")
        if os.access(path, os.X_OK):
            return path
    raise FileNotFoundError("crun is not in PATH: containers need it (Debian package crun)")


def crun(root: Path, log: Path, arguments: Sequence[str], stdio: Stdio | None) -> int:
    """Start crun and return its pid. It leads no session of its own: a signal to the shim's group must not reach
    containers.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    fds = stdio.given if stdio is not None else (null, null, null)
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(fds)]
    try:
        program = find_crun()
        options = ("--root", str(root), "--cgroup-manager", "cgroupfs", "--log", f"file:{log}", "--log-format", "json")
        command = [program, *options, *arguments]
        log.unlink(missing_ok=True)
        return os.posix_spawn(program, command, os.environ, file_actions=actions, setsigdef=_IGNORED_HERE)
    finally:
        os.close(null)
        if stdio is not None:
            stdio.close_given()


def last_error(log: Path, code: int) -> str:
    """What crun wrote last, or its exit code if it wrote nothing."""
    with contextlib.suppress(FileNotFoundError):
        for line in reversed(log.read_text(errors="replace").splitlines()):
            with contextlib.suppress(ValueError):
                return str(json.loads(line)["msg"])
            if line.strip():
                return line.strip()
    return f"crun ended with code {code}"
