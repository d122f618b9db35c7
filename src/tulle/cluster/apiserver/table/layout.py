"""The shape of a kind's table: its columns, and the function that makes a row."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tulle.cluster.apiserver.kinds import PrinterColumn

Row = Callable[[dict[str, Any], datetime.datetime], Sequence[Any]]
_INTEGERS = {"Desired", "Current", "Up-to-date", "Available", "Data", "Secrets", "Count", "Webhooks"}


@dataclass(frozen=True, slots=True)
class Layout:
    """Columns and the row that fills them."""

    columns: Sequence[PrinterColumn]
    row: Row


def columns(*names: str, wide: Sequence[str] = (), integers: Sequence[str] = ()) -> tuple[PrinterColumn, ...]:
    """Column definitions by name; those in `wide` are shown by `-o wide` only."""
    whole = _INTEGERS | set(integers)
    shown = [PrinterColumn(name, "integer" if name in whole else "string") for name in names]
    return (*shown, *(PrinterColumn(name, "integer" if name in whole else "string", priority=1) for name in wide))
