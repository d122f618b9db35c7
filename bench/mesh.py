"""A whole mesh for a measurement, and the network namespaces of its pods for the programs that load it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import processes
from tulle.cluster import supervisor

BIN = Path(sys.executable).parent
STATE = Path(os.environ.get("TULLE_BENCH_STATE", "/var/tmp/tulle-bench"))  # noqa: S108 (kept for its image roots)
PATIENCE = 60.0


class MeshError(Exception):
    """The mesh did not do what the measurement needs; the message has the command and what it said."""


@dataclass(frozen=True)
class Mesh:
    """A running mesh."""

    state: Path

    @property
    def environment(self) -> Mapping[str, str]:
        kubeconfig = str(self.state / "kubeconfig")
        path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "KUBECONFIG": kubeconfig, "TULLE_STATE_DIR": str(self.state), "PATH": path}

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl. Raises MeshError."""
        return run(("kubectl", *arguments), self.environment, stdin)

    def apply(self, manifest: str) -> None:
        self.kubectl("apply", "-f", "-", stdin=manifest)

    def captured_namespace(self, name: str) -> None:
        """Make a namespace in the mesh; returns when pods can be made in it."""
        self.kubectl("create", "namespace", name)
        self.kubectl("label", "namespace", name, "istio.io/dataplane-mode=ambient")
        self.kubectl("wait", "-n", name, "--for=create", "serviceaccount/default", f"--timeout={PATIENCE:.0f}s")

    def get(self, *arguments: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def ready(self, namespace: str, *what: str) -> None:
        """Wait until pods are Ready."""
        self.kubectl("wait", "-n", namespace, "--for=condition=Ready", f"--timeout={PATIENCE:.0f}s", *what)

    def processes(self) -> list[processes.Process]:
        """Everything that runs because of this mesh."""
        return processes.descendants(supervisor.pids(self.state)["supervisor"])

    def pod(self, namespace: str, name: str) -> Pod:
        """A running pod. Raises MeshError."""
        found = self.get("pod", "-n", namespace, name)
        uid = found["metadata"]["uid"]
        for process in self.processes():
            if f"pod{uid}" in process.cgroup:
                return Pod(namespace, name, found["status"]["podIP"], process.pid)
        raise MeshError(f"pod {namespace}/{name} has no process")


@dataclass(frozen=True)
class Pod:
    """A pod's address, and a process of it by which its network namespace is found."""

    namespace: str
    name: str
    address: str
    pid: int

    def command(self, *command: str) -> list[str]:
        """A command line that runs in the pod's network."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *command]


@contextmanager
def running(*options: str, state: Path = STATE) -> Iterator[Mesh]:
    """Bring a mesh up in this process's network namespace and take it down."""
    mesh = Mesh(state)
    down = (str(BIN / "tulle"), "down")
    run(down, mesh.environment)
    try:
        run((str(BIN / "tulle"), "up", "--no-kubeconfig", *options), mesh.environment)
        yield mesh
    finally:
        run(down, mesh.environment)


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition. Raises MeshError."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise MeshError(f"not in {PATIENCE:.0f} s: {what}")
        time.sleep(0.02)


def run(command: Sequence[str], environment: Mapping[str, str], stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise MeshError(
            f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}"
        )
    return done.stdout
