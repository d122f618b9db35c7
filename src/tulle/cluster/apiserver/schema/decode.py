"""Decoding of built-in kinds: types as the API's decoder enforces them, unknown fields found, nulls dropped.

This is not validation: a wrong type is a malformed request (400), an unknown field is reported, pruned or ignored as the
client asked for (`fieldValidation`), and a null is the same as an absent field.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import re
from dataclasses import dataclass, field
from typing import Any

from tulle.cluster.apiserver.schema.definitions import INT_OR_STRING, QUANTITY, Schema, definition, definitions

_GO_TYPES = {"string": "string", "boolean": "bool", "array": "slice", "object": "struct"}
_RAW = {
    "io.k8s.apimachinery.pkg.runtime.RawExtension",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
}
_SCHEMA = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps"
_SCHEMA_OR = {f"{_SCHEMA}OrBool": bool, f"{_SCHEMA}OrArray": list, f"{_SCHEMA}OrStringArray": list}
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})")
_LIMITS = {"int32": 1 << 31, "int64": 1 << 63}


class DecodeError(Exception):
    """A value of the wrong type; the message is the decoder's."""


@dataclass(slots=True)
class Decoded:
    """The object without unknown fields and nulls, and the paths of the unknown ones."""

    value: dict[str, Any]
    unknown: list[str] = field(default_factory=list)


def decode(obj: dict[str, Any], schema: str) -> Decoded:
    """Check `obj` against the built-in definition. Raises DecodeError."""
    unknown: list[str] = []
    kind = schema.rpartition(".")[2]
    value = _object(obj, definition(schema), "", kind, unknown)
    return Decoded(value, unknown)


def _mismatch(found: Any, path: str, owner: str, wanted: str) -> DecodeError:
    names = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}
    field_path = path.lstrip(".")
    return DecodeError(
        f"json: cannot unmarshal {names.get(type(found), 'null')} into Go struct field {owner}.{field_path} of type {wanted}"
    )


def _object(obj: dict[str, Any], schema: Schema, path: str, owner: str, unknown: list[str]) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    result: dict[str, Any] = {}
    for key, value in obj.items():
        child = properties.get(key)
        if child is None:
            unknown.append(f"{path}.{key}".lstrip("."))
        elif value is not None:
            result[key] = _value(value, child, f"{path}.{key}", owner, unknown)
    return result


def _value(value: Any, schema: Schema, path: str, owner: str, unknown: list[str]) -> Any:
    reference = schema.get("$ref")
    if reference is not None:
        if reference in _RAW:
            return value
        if reference in _SCHEMA_OR:
            if isinstance(value, _SCHEMA_OR[reference]):
                return value
            reference = _SCHEMA
        if reference == INT_OR_STRING:
            if isinstance(value, bool) or not isinstance(value, int | str):
                raise _mismatch(value, path, owner, "intstr.IntOrString")
            return value
        if reference == QUANTITY:
            return _quantity(value, path, owner)
        schema, owner = definitions()[reference], reference.rpartition(".")[2]
    match schema.get("type"):
        case "object":
            return _map_or_object(value, schema, path, owner, unknown)
        case "array":
            if not isinstance(value, list):
                raise _mismatch(value, path, owner, "[]" + _go_type(schema.get("items", {})))
            items = schema["items"]
            return [_value(v, items, f"{path}[{i}]", owner, unknown) for i, v in enumerate(value) if v is not None]
        case "string":
            return _string(value, schema, path, owner)
        case "boolean":
            if not isinstance(value, bool):
                raise _mismatch(value, path, owner, "bool")
        case "integer":
            return _integer(value, schema, path, owner)
        case "number":
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise _mismatch(value, path, owner, "float64")
    return value


def _map_or_object(value: Any, schema: Schema, path: str, owner: str, unknown: list[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        extra = schema.get("additionalProperties")
        raise _mismatch(value, path, owner, f"map[string]{_go_type(extra)}" if extra else f"v1.{owner}")
    if "properties" in schema:
        return _object(value, schema, path, owner, unknown)
    items = schema.get("additionalProperties")
    if not isinstance(items, dict):
        return value
    if items.get("type") == "string" and not items.get("format"):
        for key, item in value.items():
            if not isinstance(item, str) and item is not None:
                raise _mismatch(item, f"{path}.{key}", owner, "string")
        return {key: item or "" for key, item in value.items()}
    return {k: _value(v, items, f"{path}.{k}", owner, unknown) for k, v in value.items() if v is not None}


def _string(value: Any, schema: Schema, path: str, owner: str) -> str:
    if not isinstance(value, str):
        wanted = {"date-time": "v1.Time", "byte": "[]uint8"}.get(schema.get("format", ""), "string")
        raise _mismatch(value, path, owner, wanted)
    if schema.get("format") == "byte":
        try:
            base64.b64decode(value.replace("\n", "").replace("\r", ""), validate=True)
        except (binascii.Error, ValueError):
            raise DecodeError(f"illegal base64 data at {path.lstrip('.')}") from None
    if schema.get("format") == "date-time" and not _is_time(value):
        layout = "2006-01-02T15:04:05Z07:00"
        raise DecodeError(f'parsing time "{value}" as "{layout}": cannot parse what {owner}.{path.lstrip(".")} says')
    return value


def _is_time(text: str) -> bool:
    """RFC 3339 as Go reads it: with a zone, which Python's parser does not insist on."""
    if not _TIME.fullmatch(text):
        return False
    try:
        datetime.datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _integer(value: Any, schema: Schema, path: str, owner: str) -> int:
    wanted = schema.get("format", "int64")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise _mismatch(value, path, owner, wanted)
    limit = _LIMITS.get(wanted, 1 << 63)
    if not -limit <= value < limit:
        raise DecodeError(
            f"json: cannot unmarshal number {value} into Go struct field {owner}.{path.lstrip('.')} of type {wanted}"
        )
    return value


def _quantity(value: Any, path: str, owner: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise _mismatch(value, path, owner, "resource.Quantity")
    return value if isinstance(value, str) else str(value)


def _go_type(schema: Any) -> str:
    if not isinstance(schema, dict):
        return "interface {}"
    if "$ref" in schema:
        return f"v1.{schema['$ref'].rpartition('.')[2]}"
    if schema.get("type") == "integer":
        return str(schema.get("format", "int64"))
    return _GO_TYPES.get(schema.get("type", ""), "interface {}")
