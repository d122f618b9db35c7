"""Columns that a CustomResourceDefinition declares (additionalPrinterColumns), by their JSONPaths."""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence
from typing import Any

from tulle.cluster.apiserver.kinds import Kind, PrinterColumn
from tulle.cluster.apiserver.table.cells import since

Object = dict[str, Any]
_NAME = PrinterColumn("Name", "string", "Name must be unique within a namespace.", format="name")
_AGE = PrinterColumn(
    "Age",
    "date",
    "CreationTimestamp is a timestamp of when the object was created.",
    path=".metadata.creationTimestamp",
)
_STEP = re.compile(
    r"\.(?P<name>(?:[^.\[\\]|\\.)+)|\['(?P<quoted>[^']*)'\]|\[\"(?P<double>[^\"]*)\"\]|\[(?P<index>-?\d+)\]|\[(?P<all>\*)\]"
    r"|\[\?\(@\.(?P<key>[\w.]+)\s*==\s*[\"'](?P<value>[^\"']*)[\"']\)\]"
)


def custom_columns(kind: Kind) -> Sequence[PrinterColumn]:
    """Name, then the declared columns; only Age if none are declared."""
    return (_NAME, *(kind.columns or (_AGE,)))


def json_path(obj: Any, path: str) -> list[Any]:
    """The values at a simple JSONPath (fields, indexes, `*`, equality filters)."""
    found = [obj]
    for step in _STEP.finditer(path):
        found = [value for item in found for value in _take(item, step)]
    return found


def _take(item: Any, step: re.Match[str]) -> list[Any]:
    name = step["quoted"] or step["double"] or (step["name"] or "").replace("\\", "")
    if name:
        return [item[name]] if isinstance(item, dict) and name in item else []
    if not isinstance(item, list):
        return list(item.values()) if step["all"] and isinstance(item, dict) else []
    if step["index"]:
        index = int(step["index"])
        return [item[index]] if -len(item) <= index < len(item) else []
    if step["all"]:
        return item
    return [entry for entry in item if step["value"] in [str(v) for v in json_path(entry, f".{step['key']}")]]


def custom_row(columns: Sequence[PrinterColumn], obj: Object, now: datetime.datetime) -> list[Any]:
    """Cells of one custom resource."""
    return [obj["metadata"].get("name", ""), *(_cell(column, obj, now) for column in columns[1:])]


def _cell(column: PrinterColumn, obj: Object, now: datetime.datetime) -> Any:
    values = json_path(obj, column.path)
    if not values or values[0] is None:
        return None
    value = values[0]
    if column.type == "date":
        return since(str(value), now)
    if column.type == "integer":
        return value if isinstance(value, int) and not isinstance(value, bool) else None
    if column.type == "string":
        texts = [v if isinstance(v, str) else _text(v) for v in values]
        return texts[0] if len(texts) == 1 else ",".join(texts)
    return value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else repr(value)
