"""A container's log file, in the format of the Container Runtime Interface.

Each line is `<RFC 3339 time, nanoseconds> <stdout|stderr> <F|P> <text>`, where P marks a piece of a line that was too
long or not finished; so `kubectl logs --timestamps` and `--since` work, and so do tools that read a node's log files.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

MAX_LINE = 16 * 1024
MAX_FILE = 10 * 1024 * 1024
MAX_FILES = 5


def timestamp(nanoseconds: int) -> str:
    """RFC 3339 in UTC with nanoseconds."""
    seconds, rest = divmod(nanoseconds, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09d}Z"


class LogFile:
    """Appends the output of one container; rotates at MAX_FILE bytes and keeps MAX_FILES files.

    Output that cannot be written, most likely because the disk is full, is lost, and a line says so once there is room again:
    whoever writes here keeps every container of the node.
    """

    def __init__(self, path: Path, max_file: int = MAX_FILE, max_files: int = MAX_FILES) -> None:
        self._path = path
        self._max_file = max_file
        self._max_files = max_files
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = self._open()
        self._size = os.fstat(self._fd).st_size
        self._partial: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self._lost = 0
        self._why = ""

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def write(self, stream: str, data: bytes) -> None:
        """Log a piece of output as it came from the pipe."""
        prefix = f"{timestamp(time.time_ns())} {stream} ".encode()
        *lines, rest = (self._partial[stream] + data).split(b"\n")
        out = [piece for text in lines for piece in _pieces(prefix, text, finished=True)]
        while len(rest) > MAX_LINE:
            out.append(prefix + b"P " + rest[:MAX_LINE] + b"\n")
            rest = rest[MAX_LINE:]
        self._partial[stream] = rest
        if out:
            self._append(b"".join(out))

    def flush(self) -> None:
        """Log what came without a final newline."""
        for stream, rest in self._partial.items():
            if rest:
                prefix = f"{timestamp(time.time_ns())} {stream} ".encode()
                self._append(prefix + b"P " + rest + b"\n")
                self._partial[stream] = b""

    def close(self) -> None:
        self.flush()
        os.close(self._fd)

    def _append(self, data: bytes) -> None:
        try:
            if self._size and self._size + len(data) > self._max_file:
                self._rotate()
            if self._lost:
                self._write(f"{timestamp(time.time_ns())} stderr F [{self._lost} bytes lost: {self._why}]\n".encode())
                self._lost = 0
            self._write(data)
        except OSError as error:
            self._lost += len(data)
            self._why = error.strerror or str(error)

    def _write(self, data: bytes) -> None:
        """All of it, or nothing: half a line would spoil the next one."""
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)

    def _rotate(self) -> None:
        for index in range(self._max_files - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{index}")
            newer = self._path if index == 1 else self._path.with_name(f"{self._path.name}.{index - 1}")
            if newer.exists():
                os.replace(newer, older)
        full, self._fd = self._fd, self._open()
        os.close(full)
        self._size = 0


def _pieces(prefix: bytes, text: bytes, *, finished: bool) -> list[bytes]:
    out = []
    while len(text) > MAX_LINE:
        out.append(prefix + b"P " + text[:MAX_LINE] + b"\n")
        text = text[MAX_LINE:]
    out.append(prefix + (b"F " if finished else b"P ") + text + b"\n")
    return out
