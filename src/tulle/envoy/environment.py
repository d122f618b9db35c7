"""Reading a proxy's environment: what a variable may be is said once, and a wrong value is named, not guessed at."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

_UNITS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
#: Where a proxy finds istiod when it is not told.
ISTIOD: Final = "https://istiod.istio-system.svc:15012"


class InvalidEnvironmentError(ValueError):
    """A variable is missing or has a value that cannot be used; the message names it and what is accepted."""


class Environment:
    """Variables by name and kind.  `set_by` says in messages who should have set a missing one.

    Every method that reads a value raises InvalidEnvironmentError for one it cannot use.
    """

    def __init__(self, variables: Mapping[str, str] | None = None, *, set_by: str) -> None:
        self._variables = os.environ if variables is None else variables
        self._set_by = set_by

    def text(self, name: str, default: str = "") -> str:
        return self._variables.get(name, default)

    def path(self, name: str, default: str) -> Path:
        return Path(self._variables.get(name, default))

    def required(self, name: str) -> str:
        """A text that is not empty."""
        value = self._variables.get(name, "")
        if not value:
            raise InvalidEnvironmentError(f"environment variable {name} is not set: {self._set_by} sets it")
        return value

    def server(self, name: str, default: str = ISTIOD) -> str:
        """`host:port` of a TLS server given as `https://host:port` or `host:port`."""
        value = self._variables.get(name, default)
        parts = urlsplit(value if "//" in value else f"//{value}")
        try:
            port = parts.port
        except ValueError:
            port = None
        if parts.scheme not in ("", "https") or not parts.hostname or port is None:
            raise InvalidEnvironmentError(f"{name}={value!r}: accepted is https://HOST:PORT")
        return f"{parts.hostname}:{port}"

    def flag(self, name: str, *, default: bool) -> bool:
        """`true` or `false`."""
        value = self._variables.get(name, str(default).lower())
        if value not in ("true", "false"):
            raise InvalidEnvironmentError(f"{name}={value!r}: accepted is true or false")
        return value == "true"

    def number(self, name: str, default: int) -> int:
        """A whole number of at least 0."""
        value = self._variables.get(name, str(default))
        if not (value.isascii() and value.isdecimal()):
            raise InvalidEnvironmentError(f"{name}={value!r}: accepted is a number of at least 0")
        return int(value)

    def duration(self, name: str, default: str) -> float:
        """Seconds, written as a whole number with a unit."""
        value = self._variables.get(name, default)
        for unit, factor in _UNITS.items():
            number = value.removesuffix(unit)
            if number != value and number.isascii() and number.isdecimal():
                return float(number) * factor
        raise InvalidEnvironmentError(f"{name}={value!r}: accepted is a number with ms, s, m or h, such as {default}")
