"""What a process has loaded when it is ready lives as long as the process; garbage is looked for in the rest only."""

from __future__ import annotations

import gc


def settle() -> None:
    """Take what is there now out of the collector's sight.

    CPython puts a full collection off until new objects are a quarter as many as the last one's survivors. After this it compares with
    what a process makes at work, not with its modules, and does not walk through those again.
    """
    gc.freeze()
    gc.collect()
