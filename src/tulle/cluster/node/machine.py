"""The machine's own network, which is not the node's: from there images are made and the machine's resolvers are asked.

The node's process is put into the node's network namespace by its parent, the supervisor, which itself stays where `tulle up` was typed.
(Process 1 would not do: in a container or under a hardened kernel its namespaces may not be looked at.)
"""

from __future__ import annotations

import os
from pathlib import Path


def machine_netns() -> Path:
    """The network namespace that this process was started from; its own where the parent cannot be looked at."""
    parent = Path(f"/proc/{os.getppid()}/ns/net")
    return parent if os.access(parent, os.R_OK) else Path("/proc/self/ns/net")
