"""Puts a Table object together: column definitions, and per object its cells and as much of the object as was asked for."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tulle.cluster.apiserver.kinds import Kind, PrinterColumn
from tulle.cluster.apiserver.table.columns import NAME_AND_AGE, ROWS
from tulle.cluster.apiserver.table.custom import custom_columns, custom_row

Object = dict[str, Any]


def _definition(column: PrinterColumn) -> Object:
    return {
        "name": column.name,
        "type": column.type,
        "format": column.format or ("name" if column.name == "Name" else ""),
        "description": column.description,
        "priority": column.priority,
    }


def _row_of(kind: Kind) -> tuple[Sequence[PrinterColumn], Callable[[Object, datetime.datetime], Sequence[Any]]]:
    if kind.custom:
        columns = custom_columns(kind)
        return columns, lambda obj, now: custom_row(columns, obj, now)
    columns_and_row = ROWS.get((kind.group, kind.kind), NAME_AND_AGE)
    return columns_and_row.columns, columns_and_row.row


def table(
    kind: Kind, objects: Sequence[Object], metadata: Mapping[str, Any], include: str, *, columns: bool = True
) -> Object:
    """The Table of some objects; `columns=False` leaves the definitions out (later events of a watch)."""
    definitions, row = _row_of(kind)
    now = datetime.datetime.now(datetime.UTC)
    rows = [_row(row(obj, now), obj, include) for obj in objects]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": dict(metadata),
        "columnDefinitions": [_definition(column) for column in definitions] if columns else None,
        "rows": rows,
    }


def _row(cells: Sequence[Any], obj: Object, include: str) -> Object:
    row: Object = {"cells": list(cells)}
    if include == "Object":
        row["object"] = obj
    elif include == "Metadata":
        metadata = obj.get("metadata") or {}
        row["object"] = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
    return row


def bookmark(obj: Object) -> Object:
    """A bookmark in table form: one row without cells that carries the object's metadata."""
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": obj["metadata"]["resourceVersion"]},
        "columnDefinitions": None,
        "rows": [{"cells": [], "object": {**obj, "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}}],
    }
