"""Validation of custom resources against their OpenAPI v3 schema, with the messages and field paths of the API."""

from __future__ import annotations

import datetime
import ipaddress
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from tulle.cluster.apiserver.errors import (
    FieldError,
    duplicate,
    invalid_value,
    not_supported,
    required,
    too_long,
    too_many,
    type_invalid,
)
from tulle.cluster.apiserver.schema.custom import EMBEDDED, INT_OR_STRING

Schema = Mapping[str, Any]
_ROOT_META = ("apiVersion", "kind", "metadata")


def validate(obj: Mapping[str, Any], schema: Schema) -> list[FieldError]:
    """What is wrong with a custom resource; its metadata is checked elsewhere."""
    body = {key: value for key, value in obj.items() if key not in _ROOT_META}
    root = {**schema, "required": [name for name in schema.get("required") or () if name not in _ROOT_META]}
    return list(_check(body, root, ""))


def _json_type(value: Any) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")


def _type_fits(value: Any, wanted: str) -> bool:
    found = _json_type(value)
    if wanted == "integer" and isinstance(value, float):
        return value.is_integer()
    return found == wanted or (wanted == "number" and found == "integer")


def _check(value: Any, schema: Schema, path: str) -> Iterator[FieldError]:
    if value is None and schema.get("nullable"):
        return
    if schema.get(INT_OR_STRING):
        if isinstance(value, bool) or not isinstance(value, int | str):
            yield _wrong_type(path, value, "integer,string")
            return
    elif schema.get("type") and not _type_fits(value, schema["type"]):
        yield _wrong_type(path, value, schema["type"])
        return
    if "enum" in schema and value not in schema["enum"]:
        yield not_supported(path, value, schema["enum"])
    if isinstance(value, str):
        yield from _check_string(value, schema, path)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield from _check_number(value, schema, path)
    elif isinstance(value, list):
        yield from _check_list(value, schema, path)
    elif isinstance(value, dict):
        yield from _check_object(value, schema, path)
    yield from _check_combined(value, schema, path)


def _wrong_type(path: str, value: Any, wanted: str) -> FieldError:
    found = _json_type(value)
    return type_invalid(path or "<nil>", found, f'{path} in body must be of type {wanted}: "{found}"')


def _in_body(path: str, value: Any, rule: str) -> FieldError:
    return invalid_value(path, value, f"{path} in body {rule}")


@lru_cache(maxsize=1024)
def _pattern(text: str) -> re.Pattern[str]:
    # RE2 writes Unicode classes and end of text differently from Python.
    return re.compile(text.replace(r"\z", r"\Z"))


def _check_string(value: str, schema: Schema, path: str) -> Iterator[FieldError]:
    if "minLength" in schema and len(value) < schema["minLength"]:
        yield _in_body(path, value, f"should be at least {schema['minLength']} chars long")
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        yield too_long(path, schema["maxLength"])
    if "pattern" in schema and not _pattern(schema["pattern"]).search(value):
        yield _in_body(path, value, f"should match '{schema['pattern']}'")
    check = _FORMATS.get(schema.get("format", ""))
    if check is not None and not check(value):
        yield _in_body(path, value, f'must be of type {schema["format"]}: "{value}"')


def _parses(parse: Callable[[str], Any]) -> Callable[[str], bool]:
    def check(value: str) -> bool:
        try:
            parse(value)
        except ValueError:
            return False
        return True

    return check


_FORMATS: Mapping[str, Callable[[str], bool]] = {
    "date-time": _parses(lambda text: datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))),
    "date": _parses(datetime.date.fromisoformat),
    "ipv4": _parses(ipaddress.IPv4Address),
    "ipv6": _parses(ipaddress.IPv6Address),
    "cidr": _parses(lambda text: ipaddress.ip_network(text, strict=False)),
    "uuid": _parses(uuid.UUID),
    "uri": lambda text: bool(urlsplit(text).scheme),
    "duration": lambda text: bool(re.fullmatch(r"-?((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))+|0", text)),
}


def _check_number(value: float, schema: Schema, path: str) -> Iterator[FieldError]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and (value < low or (schema.get("exclusiveMinimum") and value == low)):
        rule = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        yield _in_body(path, value, f"should be {rule} {low}")
    if high is not None and (value > high or (schema.get("exclusiveMaximum") and value == high)):
        rule = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        yield _in_body(path, value, f"should be {rule} {high}")
    if schema.get("multipleOf") and value % schema["multipleOf"]:
        yield _in_body(path, value, f"should be a multiple of {schema['multipleOf']}")
    limit = {"int32": 1 << 31, "int64": 1 << 63}.get(schema.get("format", ""))
    if limit and not -limit <= value < limit:
        yield _in_body(path, value, f"must be a valid {schema['format']}")


def _check_list(value: list[Any], schema: Schema, path: str) -> Iterator[FieldError]:
    if "minItems" in schema and len(value) < schema["minItems"]:
        yield _in_body(path, len(value), f"should have at least {schema['minItems']} items")
    if "maxItems" in schema and len(value) > schema["maxItems"]:
        yield too_many(path, len(value), schema["maxItems"])
    kind = schema.get("x-kubernetes-list-type", "")
    keys = schema.get("x-kubernetes-list-map-keys") or ()
    seen: list[Any] = []
    for index, item in enumerate(value):
        at = f"{path}[{index}]"
        if kind in ("set", "map") or schema.get("uniqueItems"):
            identity = {k: item.get(k) for k in keys} if kind == "map" and isinstance(item, dict) else item
            if identity in seen:
                yield duplicate(at, identity)
            seen.append(identity)
        if isinstance(schema.get("items"), Mapping):
            yield from _check(item, schema["items"], at)


def _check_object(value: dict[str, Any], schema: Schema, path: str) -> Iterator[FieldError]:
    if "minProperties" in schema and len(value) < schema["minProperties"]:
        yield _in_body(path, len(value), f"should have at least {schema['minProperties']} properties")
    if "maxProperties" in schema and len(value) > schema["maxProperties"]:
        yield too_many(path, len(value), schema["maxProperties"])
    for name in schema.get("required") or ():
        if name not in value:
            yield required(f"{path}.{name}" if path else name)
    properties = schema.get("properties") or {}
    extra = schema.get("additionalProperties")
    for key, item in value.items():
        if schema.get(EMBEDDED) and key in _ROOT_META:
            continue
        at = f"{path}.{key}" if path else key
        if key in properties:
            yield from _check(item, properties[key], at)
        elif isinstance(extra, Mapping):
            yield from _check(item, extra, at)


def _check_combined(value: Any, schema: Schema, path: str) -> Iterator[FieldError]:
    where = path or "<nil>"
    for part in schema.get("allOf") or ():
        problems = list(_check(value, part, path))
        yield from problems
        if problems:
            yield FieldError(
                "FieldValueInvalid", where, f'Invalid value: "": "{path}" must validate all the schemas (allOf)'
            )
    if "anyOf" in schema and not any(_valid(value, part, path) for part in schema["anyOf"]):
        yield from _closest(value, schema["anyOf"], path)
        text = f'Invalid value: "": "{path}" must validate at least one schema (anyOf)'
        yield FieldError("FieldValueInvalid", where, text)
    if "oneOf" in schema:
        count = sum(_valid(value, part, path) for part in schema["oneOf"])
        if count != 1:
            found = "Found none valid" if count == 0 else f"Found {count} valid alternatives"
            text = f'Invalid value: "": "{path}" must validate one and only one schema (oneOf). {found}'
            yield FieldError("FieldValueInvalid", where, text)
    if "not" in schema and _valid(value, schema["not"], path):
        yield FieldError("FieldValueInvalid", where, f'Invalid value: "": "{path}" must not validate the schema (not)')


def _valid(value: Any, schema: Schema, path: str) -> bool:
    return next(_check(value, schema, path), None) is None


def _closest(value: Any, schemas: list[Schema], path: str) -> list[FieldError]:
    """The problems of the alternative that has the fewest."""
    return min((list(_check(value, schema, path)) for schema in schemas), key=len, default=[])
