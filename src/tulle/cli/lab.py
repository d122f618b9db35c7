"""`tulle lab`: the lesson, guided. Each command is shown, run, and its outcome explained and checked.

Commands run with the real kubectl against the embedded mesh, in a folder that holds the lesson's manifests, exactly as they are printed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from tulle.cli import lesson
from tulle.cli.lesson import Outcome, Step

NAMESPACES = ("hello", "test", "web")
_SETTLING = 20.0
"""Seconds that a changed configuration may take to show, on a machine that is busy."""
_PAUSE = 0.2


@dataclass(frozen=True)
class Result:
    """How a command ended: exit code and everything it printed."""

    code: int
    output: str

    def meets(self, wanted: Outcome) -> bool:
        return self.code == wanted.code and wanted.contains in self.output


class MissingToolError(Exception):
    """A command that the lesson types is not installed; the message says how to get it."""


def environment(kubeconfig: Path) -> dict[str, str]:
    """The environment of the lesson's commands. Raises MissingToolError."""
    here = str(Path(sys.executable).parent)
    path = f"{here}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    for tool in ("kubectl", "istioctl"):
        if shutil.which(tool, path=path) is None:
            raise MissingToolError(f"{tool} is not on PATH; `make install` puts it into {here}")
    return {**os.environ, "PATH": path, "KUBECONFIG": str(kubeconfig)}


def write_manifests(folder: Path) -> None:
    """Put the lesson's YAML files into a folder."""
    for source in files(lesson).iterdir():
        if source.name.endswith(".yaml"):
            (folder / source.name).write_text(source.read_text(encoding="utf-8"), encoding="utf-8")


def run(command: str, folder: Path, env: Mapping[str, str]) -> Result:
    """Run one command line as a shell would; stdout and stderr come back as one text, as on a terminal."""
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    return Result(done.returncode, done.stdout.replace("\r", ""))


def attempt(step: Step, wanted: Outcome, execute: Callable[[str], Result]) -> Result:
    """Run a step; one whose outcome settles is repeated until it has, for a bounded time."""
    deadline = time.monotonic() + (_SETTLING if step.settles else 0)
    while True:
        result = execute(step.command)
        if result.meets(wanted) or time.monotonic() >= deadline:
            return result
        time.sleep(_PAUSE)


_NOISE = re.compile(r"Unable to use a TTY|\s+% Total|\s+Dload\b|.*--:--:--")


def _visible(output: str) -> str:
    """What a reader wants to see: not curl's progress meter, and not kubectl's remark that this is no terminal."""
    return "\n".join(line for line in output.splitlines() if line.strip() and not _NOISE.match(line))


class Lab:
    """Walks through the lesson in one profile."""

    def __init__(self, profile: str, kubeconfig: Path, *, interactive: bool, console: Console | None = None) -> None:
        self._profile = profile
        self._env = environment(kubeconfig)
        self._interactive = interactive
        self._console = console or Console(highlight=False, soft_wrap=True)

    def walk(self) -> bool:
        """Run the profile's steps; True when each came out as the lesson says. They build on each other: the first that did
        not is the last.
        """
        with tempfile.TemporaryDirectory(prefix="tulle-lab-") as folder:
            write_manifests(Path(folder))
            for part in lesson.PARTS:
                self._console.print(f"\n[bold]{escape(part.title)}[/bold]")
                for step in part.steps:
                    if self._profile in step.outcome and not self._step(
                        step, step.outcome[self._profile], Path(folder)
                    ):
                        self._tell_events(Path(folder))
                        return False
        self._console.print("\n[green]✔ Every step came out as the lesson says.[/green]")
        return True

    def _step(self, step: Step, wanted: Outcome, folder: Path) -> bool:
        self._console.print(f"[cyan]$ {escape(step.command)}[/cyan]")
        if self._interactive:
            self._console.input("[dim](Enter runs it)[/dim]")
        result = attempt(step, wanted, lambda command: run(command, folder, self._env))
        shown = _visible(result.output)
        if shown:
            self._console.print(escape(shown))
        if step.why:
            self._console.print(f"[dim]  {escape(step.why)}[/dim]")
        if result.meets(wanted):
            return True
        expected = f"exit code {wanted.code}" + (f" and {wanted.contains!r}" if wanted.contains else "")
        self._console.print(
            f"[red]  ✗ expected {escape(expected)}, got exit code {result.code}: the lesson ends here[/red]"
        )
        return False

    def _tell_events(self, folder: Path) -> None:
        """Why it may have come out so: what the cluster warned of."""
        warnings = run("kubectl get events -A --field-selector type=Warning", folder, self._env)
        self._console.print(f"\nWarnings of the cluster:\n{escape(_visible(warnings.output))}")

    def clean(self) -> None:
        """Take away what the lesson made, so that it can be walked again."""
        with tempfile.TemporaryDirectory(prefix="tulle-lab-") as folder:
            write_manifests(Path(folder))
            run("kubectl delete -f global-pa.yaml --ignore-not-found", Path(folder), self._env)
            for namespace in NAMESPACES:
                # `sleep` as first process of a pod does not heed SIGTERM: without this its namespace takes 30 s to go.
                run(f"kubectl delete pod --all --now -n {namespace}", Path(folder), self._env)
            run(f"kubectl delete namespace {' '.join(NAMESPACES)} --ignore-not-found", Path(folder), self._env)
