"""How commands speak: plain columns on stdout, one clear sentence on stderr when they fail."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, NoReturn, TypeVar

import typer

from tulle.kube.client import Client
from tulle.kube.config import ConfigError
from tulle.kube.errors import ApiError

T = TypeVar("T")
_GAP = 5
"""Spaces between columns, as istioctl prints them."""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the last one is not padded."""
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    return "\n".join(
        "".join(cell.ljust(widths[i] + _GAP) for i, cell in enumerate(line[:-1])) + line[-1] for line in lines
    )


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


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
    except (ApiError, ConfigError) as error:
        fail(str(error))


def client(kubeconfig: str | None, context: str | None) -> Client:
    """The cluster that kubectl would talk to."""
    try:
        return Client.load(kubeconfig, context, component="istioctl")
    except ConfigError as error:
        fail(str(error))
