"""Custom resources against their structural schemas: pruning and defaulting.

The rules are those of apiextensions.k8s.io/v1: what the schema does not name is pruned unless
`x-kubernetes-preserve-unknown-fields` says otherwise, defaults are filled in where a value is absent (or null and not
nullable), and `apiVersion`, `kind` and `metadata` are never touched.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from tulle.cluster.apiserver.errors import bad_request
from tulle.cluster.apiserver.schema.decode import DecodeError, decode
from tulle.cluster.apiserver.schema.definitions import OBJECT_META

Schema = Mapping[str, Any]
_TYPE_META = ("apiVersion", "kind", "metadata")
PRESERVE = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING = "x-kubernetes-int-or-string"
EMBEDDED = "x-kubernetes-embedded-resource"


def prune(obj: dict[str, Any], schema: Schema) -> list[str]:
    """Remove unknown fields of a custom resource, in place; returns their paths. Raises StatusError 400 for bad metadata."""
    unknown: list[str] = []
    try:
        metadata = decode(obj.get("metadata") or {}, OBJECT_META)
    except DecodeError as error:
        raise bad_request(f"metadata: {error}") from None
    obj["metadata"] = metadata.value
    unknown += [f"metadata.{path}" for path in metadata.unknown]
    _prune_object(obj, schema, "", unknown, root=True)
    return unknown


def _prune(value: Any, schema: Schema, path: str, unknown: list[str]) -> None:
    if isinstance(value, dict):
        _prune_object(value, schema, path, unknown, root=bool(schema.get(EMBEDDED)))
    elif isinstance(value, list):
        items = schema.get("items")
        if isinstance(items, Mapping):
            for index, item in enumerate(value):
                _prune(item, items, f"{path}[{index}]", unknown)


def _prune_object(obj: dict[str, Any], schema: Schema, path: str, unknown: list[str], *, root: bool) -> None:
    properties = schema.get("properties") or {}
    extra = schema.get("additionalProperties")
    for key in list(obj):
        if root and key in _TYPE_META:
            continue
        child = f"{path}.{key}" if path else key
        if key in properties:
            _prune(obj[key], properties[key], child, unknown)
        elif isinstance(extra, Mapping):
            _prune(obj[key], extra, child, unknown)
        elif not schema.get(PRESERVE) and extra is not True:
            unknown.append(child)
            del obj[key]


def default(obj: dict[str, Any], schema: Schema) -> None:
    """Fill in the schema's defaults, in place."""
    _default_object(obj, schema, root=True)


def _default(value: Any, schema: Schema) -> None:
    if isinstance(value, dict):
        _default_object(value, schema, root=bool(schema.get(EMBEDDED)))
    elif isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for item in value:
            _default(item, schema["items"])


def _default_object(obj: dict[str, Any], schema: Schema, *, root: bool) -> None:
    properties = schema.get("properties") or {}
    for key, child in properties.items():
        if root and key in _TYPE_META:
            continue
        if key in obj and obj[key] is None and not child.get("nullable") and "default" in child:
            del obj[key]
        if key not in obj and "default" in child:
            obj[key] = copy.deepcopy(child["default"])
        if key in obj:
            _default(obj[key], child)
    extra = schema.get("additionalProperties")
    if isinstance(extra, Mapping):
        for key, value in obj.items():
            if key not in properties:
                _default(value, extra)
    for key in [k for k, v in obj.items() if v is None and k in properties and not properties[k].get("nullable")]:
        if not (root and key in _TYPE_META):
            del obj[key]
