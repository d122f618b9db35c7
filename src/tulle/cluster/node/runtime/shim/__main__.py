"""`python -m tulle.cluster.node.runtime.shim SOCKET CONTAINERS CRUN_ROOT PID_FILE`: run the shim until it is told to
end.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from tulle.cluster.node import linux
from tulle.cluster.node.runtime.shim.server import Shim


def main() -> None:
    """Announce this process in the pid file, then serve."""
    socket_path, containers, crun_root, pid_file = (Path(argument) for argument in sys.argv[1:5])
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    shim = Shim(socket_path, containers, crun_root)
    note = {"pid": os.getpid(), "start_ticks": linux.start_time(os.getpid())}
    fresh = pid_file.with_suffix(".new")
    fresh.write_text(json.dumps(note))
    os.replace(fresh, pid_file)
    shim.run()
    pid_file.unlink(missing_ok=True)
    socket_path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
