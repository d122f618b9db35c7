"""Strategic merge patch: a merge patch whose lists merge by key where the schema says so.

Directives: `$patch` (replace, delete, merge), `$setElementOrder/<list>`, `$deleteFromPrimitiveList/<list>` and
`$retainKeys`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tulle.cluster.apiserver.schema.definitions import Schema, definition, resolve

_PATCH = "$patch"
_ORDER = "$setElementOrder/"
_DELETE = "$deleteFromPrimitiveList/"
_RETAIN = "$retainKeys"
Object = dict[str, Any]


class StrategicPatchError(Exception):
    """The patch does not fit the schema."""


def apply_strategic_patch(document: Object, patch: Object, schema: str) -> Object:
    """The patched document; the arguments are not changed. Raises StrategicPatchError."""
    return _merge(document, patch, definition(schema))


def _child(schema: Schema, key: str) -> Schema:
    properties = schema.get("properties")
    if properties is not None:
        found: Schema = properties.get(key) or {}
        return found
    extra = schema.get("additionalProperties")
    return extra if isinstance(extra, dict) else {}


def _merge(document: Object, patch: Object, schema: Schema) -> Object:
    directive = patch.get(_PATCH)
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != _PATCH}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise StrategicPatchError(f"unrecognized patch type: {directive!r}; supported are replace, delete, merge")
    _check_directives(patch)
    result = dict(document)
    if _RETAIN in patch:
        result = {key: value for key, value in result.items() if key in patch[_RETAIN]}
    for key, value in patch.items():
        if key.startswith(("$", _ORDER, _DELETE)):
            continue
        if value is None:
            result.pop(key, None)
            continue
        result[key] = _merged_value(result.get(key), value, _child(schema, key), patch.get(_ORDER + key))
    _list_directives(result, patch, schema)
    return result


def _check_directives(patch: Object) -> None:
    for key, value in patch.items():
        if (key == _RETAIN or key.startswith((_ORDER, _DELETE))) and not isinstance(value, list):
            raise StrategicPatchError(f"{key}: found a {type(value).__name__}, want a list")


def _merged_value(old: Any, value: Any, child: Schema, order: Any) -> Any:
    target = resolve(child)
    if isinstance(value, dict):
        return _merge(old if isinstance(old, dict) else {}, value, target)
    if isinstance(value, list) and "merge" in child.get("x-kubernetes-patch-strategy", "").split(","):
        return _merge_list(old if isinstance(old, list) else [], value, child, order)
    return value


def _list_directives(result: Object, patch: Object, schema: Schema) -> None:
    """Deletions from primitive lists, and orders for lists that the patch does not touch otherwise."""
    for key, value in patch.items():
        if key.startswith(_DELETE):
            name = key.removeprefix(_DELETE)
            result[name] = [item for item in result.get(name) or () if item not in value]
        elif key.startswith(_ORDER) and key.removeprefix(_ORDER) not in patch:
            name = key.removeprefix(_ORDER)
            if isinstance(result.get(name), list):
                child = _child(schema, name)
                result[name] = _ordered(result[name], result[name], value, child.get("x-kubernetes-patch-merge-key"))


def _merge_list(old: list[Any], patch: list[Any], child: Schema, order: Any) -> list[Any]:
    key = child.get("x-kubernetes-patch-merge-key")
    if key is None:
        merged = [*old, *(item for item in patch if item not in old)]
        return _ordered(merged, old, order, None) if order is not None else merged
    if any(isinstance(item, dict) and item.get(_PATCH) == "replace" and len(item) == 1 for item in patch):
        return [item for item in patch if not (isinstance(item, dict) and item.get(_PATCH) == "replace")]
    merged = list(old)
    items = resolve(child.get("items") or {})
    for item in patch:
        if not isinstance(item, dict) or key not in item:
            raise StrategicPatchError(f"map: {item!r} does not contain declared merge key: {key}")
        merged = _merge_item(merged, item, key, items)
    return _ordered(merged, old, order, key) if order is not None else merged


def _merge_item(merged: list[Any], item: Object, key: str, schema: Schema) -> list[Any]:
    index = next((i for i, entry in enumerate(merged) if isinstance(entry, dict) and entry.get(key) == item[key]), -1)
    if item.get(_PATCH) == "delete":
        return [entry for entry in merged if not (isinstance(entry, dict) and entry.get(key) == item[key])]
    if index < 0:
        return [*merged, _merge({}, {k: v for k, v in item.items() if k != _PATCH}, schema)]
    merged[index] = _merge(merged[index], item, schema)
    return merged


def _identity(item: Any, key: str | None) -> Any:
    return item.get(key) if key is not None and isinstance(item, Mapping) else item


def _ordered(merged: Sequence[Any], old: Sequence[Any], order: Any, key: str | None) -> list[Any]:
    """Items named by the order in that order; the server's own items keep their place among them."""
    names = [_identity(item, key) for item in order]
    before = [_identity(item, key) for item in old]
    named = sorted((i for i in merged if _identity(i, key) in names), key=lambda i: names.index(_identity(i, key)))
    others = [item for item in merged if _identity(item, key) not in names]
    result: list[Any] = []
    while named and others:
        left = _identity(named[0], key)
        take_named = left not in before or before.index(left) < before.index(_identity(others[0], key))
        result.append(named.pop(0) if take_named else others.pop(0))
    return [*result, *named, *others]
