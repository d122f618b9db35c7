"""A running mesh, seen through the commands that its users type."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tulle.cli import lab
from tulle.cli.lab import Result
from tulle.cli.lesson import Outcome

BIN = Path(sys.executable).parent
STATE = Path(os.environ.get("TULLE_STATE_DIR", "/var/lib/tulle"))
NODE_NETNS = "tulle-node1"
SETTLING = 30.0


def command(*arguments: str, env: dict[str, str] | None = None, user: int | None = None) -> Result:
    """Run a command to its end; stdout and stderr as one text."""
    done = subprocess.run(
        arguments,
        env={**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        user=user,
    )
    return Result(done.returncode, done.stdout.replace("\r", ""))


def tulle(*arguments: str, **options: object) -> Result:
    return command(str(BIN / "tulle"), *arguments, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Mesh:
    """The mesh of one profile and a folder with the lesson's manifests."""

    profile: str
    folder: Path

    def run(self, line: str) -> Result:
        """A command line as a user types it."""
        return lab.run(line, self.folder, lab.environment(STATE / "kubeconfig"))

    def ok(self, line: str) -> str:
        """A command line that must succeed; what it printed."""
        result = self.run(line)
        assert result.code == 0, f"$ {line}\n{result.output}"
        return result.output

    def settles(self, line: str, wanted: Outcome) -> Result:
        """Repeat a command line until its outcome is the wanted one."""
        return until(lambda: self.run(line), lambda result: result.meets(wanted), f"$ {line} -> {wanted}")

    def apply(self, manifest: str) -> Result:
        """`kubectl apply -f -` with this text."""
        done = subprocess.run(
            ["kubectl", "apply", "-f", "-"],
            input=manifest,
            env=lab.environment(STATE / "kubeconfig"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return Result(done.returncode, done.stdout)

    def clean(self) -> None:
        """Back to an empty mesh."""
        self.ok("kubectl delete peerauthentication,authorizationpolicy -A --all")
        made = [n for n in self.ok("kubectl get ns -o name").split() if n.split("/")[1] not in KEPT]
        if made:
            self.ok(f"kubectl delete {' '.join(made)} --timeout=120s")


KEPT = frozenset({"default", "istio-system", "kube-system", "kube-public", "kube-node-lease"})


def until(attempt: Callable[[], Result], good: Callable[[Result], bool], what: str) -> Result:
    """Repeat until good, for a bounded time."""
    deadline = time.monotonic() + SETTLING
    while not good(result := attempt()):
        assert time.monotonic() < deadline, f"{what}: still exit code {result.code} and\n{result.output}"
        time.sleep(0.1)
    return result


def lines(output: str) -> Sequence[str]:
    return [line for line in output.splitlines() if line.strip()]
