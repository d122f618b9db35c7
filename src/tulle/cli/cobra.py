"""The habits of istioctl's own command line that another parser has to be taught.

Three of them are typed all the time: a boolean flag may carry its value (`--remote=false`), options such as `-n` may stand before the
subcommand, and most subcommands have aliases. They live here once; a command says nothing of them and only its group is a `CobraGroup`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import typer
from typer.core import TyperGroup

F = TypeVar("F", bound=Callable[..., Any])

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})
PERSISTENT = frozenset({"-n", "--namespace", "-i", "--istioNamespace", "-c", "--kubeconfig", "--context"})
"""Options with a value that may stand anywhere on the command line."""


@dataclass(frozen=True)
class Flag:
    """A boolean option: its spellings, and those of its opposite if it has one."""

    spellings: tuple[str, ...]
    opposite: tuple[str, ...] = ()


def without_values(arguments: Sequence[str], flags: Iterable[Flag]) -> list[str]:
    """Boolean flags that carry a value, spelt without it; as everywhere the last word on a flag counts. Raises typer.BadParameter."""
    known = {spelling: flag for flag in flags for spelling in flag.spellings}
    result: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            return [*result, argument, *rest]
        name, equals, value = argument.partition("=")
        flag = known.get(name) if equals else None
        if flag is None:
            result.append(argument)
            continue
        if value not in _TRUE | _FALSE:
            raise typer.BadParameter(f"flag {name}: found {value!r}; accepted are true and false")
        result = [one for one in result if one not in (*flag.spellings, *flag.opposite)]
        result += flag.spellings[:1] if value in _TRUE else flag.opposite[:1]
    return result


def persistent_last(arguments: Sequence[str]) -> list[str]:
    """Persistent options that stand before the subcommand, moved to where the subcommand reads them."""
    moved: list[str] = []
    rest = list(arguments)
    while rest and rest[0].partition("=")[0] in PERSISTENT:
        taken = 1 if "=" in rest[0] else 2
        moved += rest[:taken]
        del rest[:taken]
    if not moved or not rest:
        return [*moved, *rest]
    end = rest.index("--") if "--" in rest else len(rest)
    return [*rest[:end], *moved, *rest[end:]]


def _flags(command: Any) -> Iterable[Flag]:
    for option in command.params:
        if getattr(option, "is_bool_flag", False):
            yield Flag(tuple(option.opts), tuple(option.secondary_opts))


class CobraGroup(TyperGroup):
    """A group whose commands take their flags as istioctl's do."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, persistent_last(args))

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if command is None or isinstance(command, TyperGroup):
            return name, command, rest
        return name, command, without_values(rest, _flags(command))


def command(app: typer.Typer, name: str, *aliases: str) -> Callable[[F], F]:
    """Register a command under its name and, not shown in help, under its aliases."""

    def register(function: F) -> F:
        app.command(name)(function)
        for alias in aliases:
            app.command(alias, hidden=True)(function)
        return function

    return register


def group(app: typer.Typer, sub: typer.Typer, name: str, *aliases: str) -> None:
    """Register a group of commands, likewise."""
    app.add_typer(sub, name=name, cls=CobraGroup)
    for alias in aliases:
        app.add_typer(sub, name=alias, cls=CobraGroup, hidden=True)
