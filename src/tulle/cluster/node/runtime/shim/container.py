"""One container as the shim keeps it: its pipes or terminal, its log, who is attached, and how it ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import struct
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tulle.cluster.node.runtime import records
from tulle.cluster.node.runtime.records import Exit, Record, Started, State, Status
from tulle.cluster.node.runtime.shim.logfile import LogFile

CHUNK = 64 * 1024
STDIN_LIMIT = 1 << 20
"""Bytes of input that may wait for a container that does not read, before its writers are paused."""
TERMINAL_PATIENCE = 0.05
"""Seconds."""
MOST_IN_A_PIPE = 1 << 20
"""Bytes; what the kernel lets a process without privileges ask for."""


class Output(Protocol):
    """Somebody attached to a container."""

    def output(self, stream: str, data: bytes) -> None: ...

    def finished(self) -> None: ...


class Container:
    """State and file descriptors of one container; the loop tells it which descriptor is ready."""

    def __init__(self, directory: Path, record: Record) -> None:
        self.directory = directory
        self.record = record
        self.state: State = "creating"
        self.pid = 0
        self.started_at = 0.0
        self.exit: Exit | None = None
        self.outputs: dict[int, str] = {}
        self.stdin_fd: int | None = None
        self.pending_stdin = bytearray()
        self.close_stdin_when_written = False
        self.attached: list[Output] = []
        self.when_ended: Callable[[], None] | None = None
        self._log = LogFile(Path(record.log_path)) if record.log_path else None

    def status(self) -> Status:
        return Status(record=self.record, state=self.state, pid=self.pid, started_at=self.started_at, exit=self.exit)

    def read(self, fd: int) -> int | None:
        """Move what is readable to the log and to the attached; the number of bytes, 0 at the end, None if nothing is
        there now.
        """
        try:
            data = os.read(fd, CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            return 0  # a terminal whose last process is gone says EIO
        if data:
            stream = self.outputs[fd]
            if self._log is not None:
                self._log.write(stream, data)
            for output in list(self.attached):
                output.output(stream, data)
        return len(data)

    def drain(self, close: Callable[[int], None]) -> None:
        """Take the output that is already there; a descendant that lives on must not hold up the report of the end.

        A terminal hands its last bytes over a moment after its processes are gone, so there the end itself is waited
        for. A descendant may also write faster than this reads: no more is taken than a pipe can hold.
        """
        patience = TERMINAL_PATIENCE if self.record.tty else 0.0
        for fd in list(self.outputs):
            left = MOST_IN_A_PIPE
            while left > 0 and select.select([fd], [], [], patience)[0]:
                count = self.read(fd)
                if count == 0:
                    close(fd)
                    break
                left -= count or 0

    def write_stdin(self, data: bytes) -> None:
        if self.stdin_fd is not None:
            self.pending_stdin += data
            self.flush_stdin()

    def flush_stdin(self) -> None:
        """Write waiting input; what does not fit now stays for the loop's next turn."""
        while self.pending_stdin and self.stdin_fd is not None:
            try:
                written = os.write(self.stdin_fd, self.pending_stdin[:CHUNK])
            except BlockingIOError:
                return
            except OSError:
                self.pending_stdin.clear()
                return
            del self.pending_stdin[:written]

    def resize(self, rows: int, columns: int) -> None:
        if self.record.tty and self.stdin_fd is not None:
            with contextlib.suppress(OSError):
                fcntl.ioctl(self.stdin_fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def note(self, file: str, value: Exit | Started) -> None:
        """Write it down for whoever comes after this process. With a full disk they learn less; nothing else depends on it."""
        try:
            records.write(self.directory, file, value)
        except OSError as error:
            print(f"container {self.record.cid}: {file} not written: {error}", file=sys.stderr, flush=True)

    def ended(self, result: Exit) -> None:
        """Note the end on disk first: who is told of it may act on it at once."""
        self.state = "exited"
        self.exit = result
        self.note(records.EXIT_FILE, result)
        if self._log is not None:
            self._log.close()
            self._log = None
        for output in self.attached:
            output.finished()
        self.attached.clear()
