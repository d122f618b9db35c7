"""Log lines: what happened, in words, and the facts of it.

Every program of the mesh starts by importing this, so it needs nothing but the standard library. A long-running program calls
`log.configure` and writes JSON, one object to a line, for whoever collects lines; before that, and in a command line tool, they are text
for whoever reads them.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TextIO

Level = Literal["debug", "info", "warning", "error"]
LEVELS: Final[Mapping[str, int]] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
"""The numbers are those of the standard library's `logging`."""


@dataclass(frozen=True)
class Output:
    """Where events of at least `level` go, and how: `stream` None is the standard output of the moment."""

    as_json: bool = False
    stream: TextIO | None = None
    level: int = 0
    time_key: str = "timestamp"

    def line(self, level: Level, event: str, fields: Mapping[str, Any]) -> str:
        """The event as it is written."""
        now = time.time()
        at = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1e6):06d}Z"
        if self.as_json:
            return json.dumps({**fields, "event": event, "level": level, self.time_key: at}, default=repr)
        words = [f"{name}={value!r}" for name, value in fields.items() if name != "exception"]
        first = " ".join((at, level, event, *words))
        return f"{first}\n{fields['exception']}" if "exception" in fields else first


class Log:
    """Writes events with their fields; a field `exc_info` is an exception, which is told with its traceback."""

    def __init__(self) -> None:
        self.output = Output()

    def configure(self, *, stream: TextIO | None = None, level: int = 0, time_key: str = "timestamp") -> None:
        """From now on JSON is written, to `stream` or the standard output, of events of at least `level`."""
        self.output = Output(True, stream, level, time_key)

    def set_level(self, level: int) -> None:
        """From now on only events of at least `level` are written; the rest stays as it is."""
        self.output = replace(self.output, level=level)

    def debug(self, event: str, /, **fields: Any) -> None:
        self._write("debug", event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        self._write("info", event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        self._write("warning", event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        self._write("error", event, fields)

    def _write(self, level: Level, event: str, fields: dict[str, Any]) -> None:
        if LEVELS[level] < self.output.level:
            return
        failure = fields.pop("exc_info", None)
        if failure is not None:
            fields["exception"] = "".join(traceback.format_exception(failure)).rstrip()
        print(self.output.line(level, event, fields), file=self.output.stream or sys.stdout, flush=True)


log: Final = Log()
"""The program's log."""
