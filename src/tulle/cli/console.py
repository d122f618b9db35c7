"""How commands speak: plain columns on stdout, one clear sentence on stderr when they fail."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import typer
import yaml

from tulle.kube.client import Client
from tulle.kube.config import ConfigError
from tulle.kube.errors import ApiError

T = TypeVar("T")


_GAP = 5
"""Spaces between columns, as istioctl prints them."""


class CommandError(Exception):
    """A command cannot do what it was asked; the message says why and what to do."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]], gap: int = _GAP) -> str:
    """Columns as wide as their widest cell and `gap` spaces more; the last one is not padded."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "".join(cell.ljust(widths[i] + gap) for i, cell in enumerate(line[:-1])) + line[-1] for line in lines
    )


def say(text: str) -> None:
    """Print it. Half a character, which JSON and arguments may hold, is printed as its escape."""
    sys.stdout.write(text.encode(errors="backslashreplace").decode() + "\n")
    sys.stdout.flush()


def structured(document: Any, output: str) -> str:
    """A document as JSON (indented as istioctl does) or YAML."""
    if output == "json":
        return json.dumps(document, indent=4)
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return text.rstrip()


def one_of(option: str, value: str, accepted: Sequence[str]) -> None:
    """End the command unless the option's value is one of those accepted."""
    if value not in accepted:
        fail(f"{option} {value!r} is not known; accepted are {', '.join(accepted)}")


def read(file: str) -> bytes:
    """A file's content; `-` is stdin. Ends the command when it cannot be read."""
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        fail(f"--file {file}: {error.strerror}")


def warn(text: str) -> None:
    sys.stderr.write(f"Warning: {text}\n")
    sys.stderr.flush()


def fail(text: str, code: int = 1) -> NoReturn:
    """End the command with this sentence and exit code."""
    sys.stderr.write(f"Error: {text}\n")
    raise typer.Exit(code)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a command's work; what the API or the kubeconfig refuses becomes the command's error."""
    try:
        return asyncio.run(coroutine)
    except (ApiError, ConfigError, CommandError) as error:
        fail(str(error))


def client(kubeconfig: str | None, context: str | None) -> Client:
    """The cluster that kubectl would talk to."""
    try:
        return Client.load(kubeconfig, context, component="istioctl")
    except ConfigError as error:
        fail(str(error))
