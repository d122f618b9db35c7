"""What is logged, changed while the proxy runs: the text of `/logging`, and what its levels mean for the parts that log.

A filter is a level for all, with levels of its own for some: `access=debug,info`.  `access` is the access log, `envoy` Envoy's own
log, `ztunnel` this process's; names inside it (`ztunnel::proxy`) are taken for the whole.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

#: Levels by how much they let through, as numbers of Python's logging.
NUMBERS: Final = {"trace": 0, "debug": 10, "info": 20, "warn": 30, "error": 40, "off": 50}
DEFAULT: Final = "info"
SCOPES: Final = ("access", "envoy", "ztunnel")
HELP: Final = """
usage: POST /logging\t\t\t\t\t(the levels now)
usage: POST /logging?level=<level>\t\t\t(the level of all)
usage: POST /logging?level=<scope>=<level>,<level>\t(the level of one, and of all others)
usage: POST /logging?reset\t\t\t\t(the levels of the start)

scopes: access, envoy, ztunnel
levels: error, warn, info, debug, trace, off
"""


class LevelError(ValueError):
    """A level that cannot be set; the message names it and what can."""


@dataclass(frozen=True)
class Levels:
    """The level of all, and of those scopes that have one of their own."""

    default: str = DEFAULT
    scopes: Mapping[str, str] = field(default_factory=dict)

    def of(self, scope: str) -> str:
        return self.scopes.get(scope, self.default)

    def __str__(self) -> str:
        return ",".join([*(f"{scope}={level}" for scope, level in sorted(self.scopes.items())), self.default])

    def changed(self, text: str) -> Levels:
        """These levels with those of `text` put in; a level for all leaves scopes with one of their own alone.

        Raises LevelError.
        """
        default, scopes = self.default, dict(self.scopes)
        for part in text.split(","):
            name, separator, level = part.rpartition("=")
            if level not in NUMBERS:
                raise LevelError(f"level {part!r}: accepted is [scope=]level with one of {', '.join(NUMBERS)}")
            scope = name.partition("::")[0]
            if not separator:
                default = level
            elif scope in SCOPES:
                scopes[scope] = level
            else:
                raise LevelError(f"scope {name!r}: accepted is one of {', '.join(SCOPES)}")
        return Levels(default, scopes)


class LogLevels:
    """The levels in force; `apply` is told of every change."""

    def __init__(self, start: Levels, apply: Callable[[Levels], Awaitable[None]]) -> None:
        self._start = start
        self._apply = apply
        self.now = start

    async def change(self, text: str, *, reset: bool) -> None:
        """Set levels beside those in force, or with `reset` beside those of the start.  Raises LevelError."""
        base = self._start if reset else self.now
        if text:
            base = base.changed(text)
        self.now = base
        await self._apply(base)
