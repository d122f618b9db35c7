"""The few lines that run between fork and exec of Envoy.

Envoy must never outlive the process that owns its keys and its configuration, so the kernel is asked to kill it with its parent
(PR_SET_PDEATHSIG).  That has to be set in the child.  A `preexec_fn` would do it in a fork of a process full of gRPC threads,
where a lock may be held for ever; a fresh interpreter that sets the flag and then becomes Envoy has no such hazard.
"""

from __future__ import annotations

import sys

_SOURCE = """\
import ctypes, os, signal, sys
parent, argv = int(sys.argv[1]), sys.argv[2:]
if ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0) != 0:
    sys.exit("PR_SET_PDEATHSIG: " + os.strerror(ctypes.get_errno()))
if os.getppid() != parent:
    sys.exit("the parent process ended before Envoy was started")
os.execv(argv[0], argv)
"""


def command(parent_pid: int, argv: list[str]) -> list[str]:
    """The command line that becomes `argv` and is killed by the kernel when the thread of `parent_pid` that started it ends."""
    return [sys.executable, "-I", "-S", "-c", _SOURCE, str(parent_pid), *argv]
