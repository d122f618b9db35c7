"""Where a node keeps its files: one place that names every path, so that clean-up after a crash cannot miss one.

Everything of a node lives under `<state>/nodes/<name>`; only the image roots, which nodes share, live beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

REAL_HOST_PATHS = ("/proc", "/sys")
"""hostPath volumes below these are the machine's own: a node agent has to see the real processes."""


@dataclass(frozen=True)
class NodePaths:
    """The layout of one node's part of the state directory."""

    state: Path
    node: str

    @property
    def root(self) -> Path:
        return self.state / "nodes" / self.node

    @property
    def fs(self) -> Path:
        """The node's own file system, as hostPath volumes and CNI see it."""
        return self.root / "fs"

    @property
    def pods(self) -> Path:
        return self.root / "pods"

    @property
    def containers(self) -> Path:
        return self.root / "containers"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def crun(self) -> Path:
        """crun's own state (`crun --root`)."""
        return self.root / "crun"

    @property
    def pause(self) -> Path:
        """Root directory of the sandbox container."""
        return self.root / "pause"

    @property
    def shim_socket(self) -> Path:
        return self.root / "shim.sock"

    @property
    def shim_pid(self) -> Path:
        return self.root / "shim.json"

    @property
    def shim_log(self) -> Path:
        return self.root / "shim.log"

    @property
    def images(self) -> Path:
        return self.state / "images"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    def pod(self, uid: str) -> Path:
        return self.pods / uid

    def container(self, cid: str) -> Path:
        return self.containers / cid

    def pod_logs(self, namespace: str, name: str, uid: str) -> Path:
        return self.logs / f"{namespace}_{name}_{uid}"

    def host_path(self, path: str) -> Path:
        """Where hostPath `path` really is on this machine."""
        clean = "/" + path.strip("/")
        if any(clean == real or clean.startswith(real + "/") for real in REAL_HOST_PATHS):
            return Path(clean)
        return self.fs / clean.lstrip("/")

    def create(self) -> None:
        """Make the directories; idempotent."""
        for directory in (self.fs, self.pods, self.containers, self.logs, self.crun, self.images):
            directory.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)
