"""From protobuf bytes to the JSON form of an object.

The field numbers come from `numbers.py`, the types from the OpenAPI definitions: both describe the same Go types.
"""

from __future__ import annotations

import base64
import datetime
import struct
from typing import Any

import msgspec

from tulle.cluster.apiserver.kinds import BUILTIN, SUBRESOURCE_KINDS
from tulle.cluster.apiserver.protobuf.numbers import Numbered, messages
from tulle.cluster.apiserver.protobuf.wire import BYTES, FIXED64, VARINT, ProtobufError, fields, signed
from tulle.cluster.apiserver.schema.definitions import INT_OR_STRING, META, QUANTITY, Schema, definition, definitions

Object = dict[str, Any]
MAGIC = b"k8s\x00"
_TIMES = (META + "Time", META + "MicroTime")
_RAW_FIELD = {
    META + "FieldsV1": 1,
    "io.k8s.apimachinery.pkg.runtime.RawExtension": 1,
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON": 1,
}
_ZERO: tuple[Any, ...] = ("", 0, False, None)
_SCHEMAS = {(k.api_version, k.kind): k.schema for k in BUILTIN if isinstance(k.schema, str)} | {
    (f"{group}/{version}" if group else version, kind): schema
    for group, version, kind, schema in SUBRESOURCE_KINDS.values()
}


def decode_envelope(data: bytes) -> Object:
    """The object in a `k8s\\0` envelope (runtime.Unknown). Raises ProtobufError."""
    if not data.startswith(MAGIC):
        raise ProtobufError("protobuf: the body does not start with the k8s envelope")
    outer = dict((number, value) for number, _, value in fields(data[4:]))  # noqa: C402 - three-tuples
    type_meta = {number: _text(value) for number, _, value in fields(_bytes(outer.get(1, b"")))}
    api_version, kind = type_meta.get(1, ""), type_meta.get(2, "")
    schema = META + "DeleteOptions" if kind == "DeleteOptions" else _SCHEMAS.get((api_version, kind))
    if schema is None or schema not in messages():
        raise ProtobufError(
            f"protobuf: {kind or '(no kind)'} in version {api_version!r} is not known here; send it as JSON"
        )
    obj = _message(_bytes(outer.get(2, b"")), schema, messages()[schema], definition(schema))
    return {"apiVersion": api_version, "kind": kind, **obj}


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ProtobufError("protobuf: found a number where a message or text was expected")
    return value


def _text(value: int | bytes) -> str:
    try:
        return _bytes(value).decode()
    except UnicodeDecodeError as error:
        raise ProtobufError(f"protobuf: text that is not UTF-8: {error}") from None


def _message(data: bytes, name: str, numbered: Any, schema: Schema) -> Object:
    result: Object = {}
    properties = schema.get("properties") or {}
    for number, wire_type, value in fields(data):
        field = numbered.get(number)
        if field is None:
            if (wire_type == VARINT and value == 0) or value == b"":
                continue
            raise ProtobufError(f"protobuf: {name.rpartition('.')[2]} has the unknown field number {number}")
        if field.inlined:
            result.update(_message(_bytes(value), field.inlined, messages()[field.inlined], schema))
        else:
            _set(result, field, properties.get(field.name) or {}, wire_type, value)
    return result


def _set(result: Object, field: Numbered, schema: Schema, wire_type: int, value: int | bytes) -> None:
    if schema.get("type") == "array":
        result.setdefault(field.name, []).extend(_items(schema["items"], wire_type, value))
        return
    if "additionalProperties" in schema and "properties" not in schema:
        key, item = _entry(_bytes(value), schema["additionalProperties"])
        result.setdefault(field.name, {})[key] = item
        return
    decoded = _value(schema, wire_type, value)
    if field.keep_zero or decoded not in _ZERO:
        result[field.name] = decoded


def _items(schema: Schema, wire_type: int, value: int | bytes) -> list[Any]:
    if wire_type == BYTES and schema.get("type") == "integer":
        raise ProtobufError("protobuf: packed numbers are not used by the Kubernetes encoding")
    return [_value(schema, wire_type, value)]


def _entry(data: bytes, schema: Schema) -> tuple[str, Any]:
    """One entry of a map: key 1, value 2."""
    key, item = "", _value(schema, BYTES, b"") if schema.get("type") == "string" else None
    for number, wire_type, value in fields(data):
        if number == 1:
            key = _text(value)
        elif number == 2:
            item = _value(schema, wire_type, value)
    return key, item


def _value(schema: Schema, wire_type: int, value: int | bytes) -> Any:
    reference = schema.get("$ref")
    if reference is not None:
        return _referenced(reference, _bytes(value))
    match schema.get("type"):
        case "string" if schema.get("format") == "byte":
            return base64.b64encode(_bytes(value)).decode()
        case "string":
            return _text(value)
        case "boolean":
            return bool(value)
        case "integer" if isinstance(value, int):
            return signed(value)
        case "number" if wire_type == FIXED64:
            return struct.unpack("<d", _bytes(value))[0]
    raise ProtobufError(f"protobuf: wire type {wire_type} does not fit {schema.get('type')!r}")


def _referenced(reference: str, data: bytes) -> Any:
    if reference in _TIMES:
        return _time(data, micro=reference.endswith("MicroTime"))
    if reference == QUANTITY:
        return next((_text(value) for number, _, value in fields(data) if number == 1), "0")
    if reference == INT_OR_STRING:
        parts = {number: value for number, _, value in fields(data)}
        return _text(parts.get(3, b"")) if parts.get(1, 0) == 1 else _small(parts.get(2, 0))
    if reference in _RAW_FIELD:
        raw = next((_bytes(value) for number, _, value in fields(data) if number == _RAW_FIELD[reference]), b"")
        return msgspec.json.decode(raw) if raw else None
    target = definitions()[reference]
    if target.get("type") != "object":
        raise ProtobufError(f"protobuf: {reference} cannot be decoded")
    numbered = messages().get(reference)
    if numbered is None:
        if data:
            raise ProtobufError(f"protobuf: {reference.rpartition('.')[2]} is not known here; send the object as JSON")
        return {}
    return _message(data, reference, numbered, target)


def _small(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ProtobufError("protobuf: found bytes where a number was expected")
    return signed(value)


def _time(data: bytes, *, micro: bool) -> str | None:
    parts = {number: _small(value) for number, _, value in fields(data)}
    seconds, nanos = parts.get(1, 0), parts.get(2, 0)
    if not parts or seconds < 0:  # the zero time is written as an empty message, or as year 1
        return None
    when = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    if micro:
        return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{nanos // 1000:06d}Z"
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
