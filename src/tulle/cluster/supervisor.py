"""Keeps the embedded cluster's processes running: `python -m tulle.cluster.supervisor --state-dir DIR`.

One small process, so that a control plane or a node that dies comes back by itself, as a service manager would bring it back. It knows no
Kubernetes: it reads what to run from `<state>/processes.json`, starts those processes, writes their output to `<state>/logs/`, and
restarts what ends. It imports nothing but the standard library, to cost next to no memory.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

PROCESSES = "processes.json"
RECORD = "supervisor.json"
LOCK = "supervisor.lock"
_PR_SET_PDEATHSIG = 1
_STOP_SECONDS = 10.0
_BACKOFF = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Seconds before each restart in a row; a process that has run for `_STABLE` starts over at the first."""
_STABLE = 30.0
_IDLE_SECONDS = 60.0
_RECORD_AGAIN = 1.0
_AWAITED = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGCHLD})


@dataclass(frozen=True)
class ProcessSpec:
    """A process to keep running. They are started in order and stopped in reverse order."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]


def write(state: Path, processes: Sequence[ProcessSpec]) -> None:
    """Record what to run, for a supervisor that is started afterwards."""
    (state / PROCESSES).write_text(json.dumps([asdict(process) for process in processes], indent=2))


def read(state: Path) -> tuple[ProcessSpec, ...]:
    """What `write` recorded. Raises FileNotFoundError."""
    found = json.loads((state / PROCESSES).read_text())
    return tuple(ProcessSpec(p["name"], tuple(p["command"]), p["environment"]) for p in found)


def running(state: Path) -> bool:
    """Whether a supervisor holds this state directory."""
    lock = state / LOCK
    if not lock.exists():
        return False
    with lock.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


def pids(state: Path) -> Mapping[str, int]:
    """Process ids by name, the supervisor's own under `supervisor`; empty when none has run."""
    record = state / RECORD
    return json.loads(record.read_text()) if record.exists() else {}


@dataclass
class Backoff:
    """How long to wait before a process is started again: longer each time that it ends soon after its start."""

    failures: int = 0

    def ended(self, ran: float) -> float:
        """The process ended after `ran` seconds; the pause in seconds until its next start."""
        self.failures = 1 if ran > _STABLE else self.failures + 1
        return _BACKOFF[min(self.failures, len(_BACKOFF)) - 1]


def _prepare() -> None:
    """In the child, before its program: it ends with the supervisor, and takes signals again."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _AWAITED)


class _Child:
    """One supervised process."""

    def __init__(self, spec: ProcessSpec, state: Path) -> None:
        self.spec = spec
        self._log = state / "logs" / f"{spec.name}.log"
        self._backoff = Backoff()
        self._started = 0.0
        self.due = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    def _start(self, now: float) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self.spec.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.spec.environment},
                preexec_fn=_prepare,  # noqa: PLW1509 (one thread only)
            )
        self._started = now

    def tend(self, now: float) -> bool:
        """Notice an end, or start when it is time; True when something changed."""
        if self.process is not None:
            if self.process.poll() is None:
                return False
            pause = self._backoff.ended(now - self._started)
            self.due = now + pause
            _log(f"{self.spec.name} ended with {self.process.returncode}; it is started again in {pause} s")
            self.process = None
            return True
        return now >= self.due and self._try_start(now)

    def _try_start(self, now: float) -> bool:
        """What cannot be started now (no memory, no file) is tried again like one that ended: it is no reason to end the others."""
        try:
            self._start(now)
        except (OSError, subprocess.SubprocessError) as error:
            pause = self._backoff.ended(0.0)
            self.due = now + pause
            _log(f"{self.spec.name} cannot be started ({error}); it is tried again in {pause} s")
            return False
        return True

    def stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            _log(f"{self.spec.name} did not end within {_STOP_SECONDS} s; it is killed")
            self.process.kill()
            self.process.wait()


def _log(text: str) -> None:
    with contextlib.suppress(OSError):  # a full disk
        sys.stderr.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {text}\n")
        sys.stderr.flush()


def _record(state: Path, children: Sequence[_Child]) -> bool:
    """Write down what runs; False when that is not possible now (a full disk)."""
    known = {"supervisor": os.getpid(), **{c.spec.name: c.process.pid for c in children if c.process is not None}}
    temporary = state / f"{RECORD}.new"
    try:
        temporary.write_text(json.dumps(known))
        temporary.replace(state / RECORD)
    except OSError as error:
        _log(f"{state / RECORD} cannot be written ({error}); it is tried again in {_RECORD_AGAIN} s")
        return False
    return True


def _pause(children: Sequence[_Child]) -> float:
    """Seconds until the next start that is due; long when everything runs, because an end is told by a signal."""
    waiting = [child.due for child in children if child.process is None]
    return max(0.0, min(waiting) - time.monotonic()) if waiting else _IDLE_SECONDS


def _keep_running(state: Path, children: Sequence[_Child]) -> None:
    """Start what is due until told to stop. Signals wait in the queue meanwhile, so none interrupts a step."""
    recorded = False
    while True:
        changed = [child.tend(time.monotonic()) for child in children]
        if any(changed) or not recorded:
            recorded = _record(state, children)
        pause = _pause(children) if recorded else min(_pause(children), _RECORD_AGAIN)
        arrived = signal.sigtimedwait(_AWAITED, pause)
        if arrived is not None and arrived.si_signo != signal.SIGCHLD:
            return


def supervise(state: Path) -> int:
    """Run until SIGTERM or SIGINT. Exit code 3 if another supervisor holds the state directory."""
    (state / "logs").mkdir(parents=True, exist_ok=True)
    with (state / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log(f"another supervisor is running for {state}")
            return 3
        signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
        children = [_Child(spec, state) for spec in read(state)]
        _keep_running(state, children)
        for child in reversed(children):
            child.stop()
        (state / RECORD).unlink(missing_ok=True)
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="keep the embedded cluster's processes running")
    parser.add_argument("--state-dir", type=Path, required=True)
    return supervise(parser.parse_args().state_dir)


if __name__ == "__main__":
    sys.exit(main())
