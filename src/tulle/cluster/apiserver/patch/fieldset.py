"""Sets of fields, and the operations on objects that field ownership needs.

A path is a tuple of elements written as in FieldsV1: `f:name` a field, `k:{...}` an item of a list map by its keys,
`v:...` an item of a set by its value. A set holds the paths that are owned; an item of a list map is itself a path.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from tulle.cluster.apiserver.patch import shapes
from tulle.cluster.apiserver.patch.shapes import Schema

Path = tuple[str, ...]
Paths = frozenset[Path]
_ABSENT = object()


def item_element(schema: Schema, item: Any) -> str:
    """The element of an item of an associative list."""
    if shapes.list_type(schema) == shapes.LIST_MAP and isinstance(item, Mapping):
        keys = {k: item.get(k, shapes.key_default(schema, k)) for k in sorted(shapes.list_keys(schema))}
        return "k:" + msgspec.json.encode({k: v for k, v in keys.items() if v is not None}).decode()
    return "v:" + msgspec.json.encode(item).decode()


def _associative(schema: Schema, value: Any) -> bool:
    if not isinstance(value, list):
        return False
    kind = shapes.list_type(schema)
    return kind == shapes.SET or (kind == shapes.LIST_MAP and all(isinstance(item, Mapping) for item in value))


def _granular(schema: Schema, value: Any) -> bool:
    return isinstance(value, Mapping) and not shapes.is_atomic_map(schema)


def owned_paths(value: Any, schema: Schema) -> Paths:
    """Every path that a document sets."""
    found: set[Path] = set()
    _collect(value, schema, (), found)
    return frozenset(found)


def _collect(value: Any, schema: Schema, path: Path, found: set[Path]) -> None:
    if _granular(schema, value):
        if not value and path:
            found.add(path)
        for key, item in value.items():
            _collect(item, shapes.child(schema, key), (*path, f"f:{key}"), found)
    elif _associative(schema, value):
        if not value:
            found.add(path)
        for item in value:
            at = (*path, item_element(schema, item))
            found.add(at)
            if isinstance(item, Mapping):
                _collect(item, shapes.items(schema), at, found)
    else:
        found.add(path)


class _Difference(NamedTuple):
    changed: set[Path]
    removed: set[Path]


def compare(old: Any, new: Any, schema: Schema) -> tuple[Paths, Paths]:
    """(paths added or modified, paths removed) from one document to another."""
    found = _Difference(set(), set())
    _compare(old, new, schema, (), found)
    return frozenset(found.changed), frozenset(found.removed)


def _compare(old: Any, new: Any, schema: Schema, path: Path, found: _Difference) -> None:
    changed, removed = found.changed, found.removed
    if old is new or (old == new and type(old) is type(new)):
        return
    if new is _ABSENT:
        _collect(old, schema, path, removed)
        removed.add(path)
    elif old is _ABSENT:
        _collect(new, schema, path, changed)
        if path and _granular(schema, new):
            changed.add(path)
    elif _granular(schema, old) and _granular(schema, new):
        for key in [*old, *(k for k in new if k not in old)]:
            at = (*path, f"f:{key}")
            _compare(old.get(key, _ABSENT), new.get(key, _ABSENT), shapes.child(schema, key), at, found)
        if not new and old:
            changed.add(path)
    elif _associative(schema, old) and _associative(schema, new):
        before = {item_element(schema, item): item for item in old}
        after = {item_element(schema, item): item for item in new}
        for element in [*before, *(e for e in after if e not in before)]:
            _compare_item(before.get(element, _ABSENT), after.get(element, _ABSENT), schema, (*path, element), found)
    else:
        changed.add(path)


def _compare_item(old: Any, new: Any, schema: Schema, path: Path, found: _Difference) -> None:
    if old is _ABSENT:
        found.changed.add(path)
        if not isinstance(new, Mapping):
            return
    _compare(old, new, shapes.items(schema), path, found)


def merge(live: Any, applied: Any, schema: Schema) -> Any:
    """The applied document laid over the live one."""
    if _granular(schema, applied):
        result = dict(live) if isinstance(live, Mapping) else {}
        for key, value in applied.items():
            result[key] = merge(result.get(key), value, shapes.child(schema, key))
        return result
    if _associative(schema, applied) and isinstance(live, list) and _associative(schema, live):
        merged = {item_element(schema, item): item for item in live}
        order = [item_element(schema, item) for item in applied]
        for element, item in zip(order, applied, strict=True):
            merged[element] = merge(merged.get(element), item, shapes.items(schema))
        return list(merged.values())
    return copy.deepcopy(applied)


def remove(value: Any, schema: Schema, gone: Paths, path: Path = ()) -> Any:
    """The document without the paths in `gone`."""
    if _granular(schema, value):
        result = {}
        for key, item in value.items():
            at = (*path, f"f:{key}")
            if at not in gone:
                result[key] = remove(item, shapes.child(schema, key), gone, at)
        return result
    if _associative(schema, value):
        kept = [(item, (*path, item_element(schema, item))) for item in value]
        return [remove(item, shapes.items(schema), gone, at) for item, at in kept if at not in gone]
    return value


def is_prefix(short: Path, long: Path) -> bool:
    """Whether `long` lies at or below `short`."""
    return long[: len(short)] == short


def without_below(paths: Iterable[Path], gone: Iterable[Path]) -> Paths:
    """Paths that are neither in `gone` nor below something in it."""
    tops = set(gone)
    return frozenset(p for p in paths if not any(p[:depth] in tops for depth in range(1, len(p) + 1)))


def to_fields_v1(paths: Iterable[Path]) -> dict[str, Any]:
    """The FieldsV1 trie."""
    owned = set(paths)
    trie: dict[str, Any] = {}
    for path in sorted(owned):
        node = trie
        for element in path:
            node = node.setdefault(element, {})
    return _dotted(trie, (), owned)


def _dotted(trie: dict[str, Any], path: Path, owned: set[Path]) -> dict[str, Any]:
    """Mark inner nodes that are owned themselves (`.`), dots first."""
    children = {e: _dotted(node, (*path, e), owned) for e, node in trie.items()}
    return ({".": {}} if children and path in owned else {}) | children


def is_field_set(trie: Any) -> bool:
    """Whether something is a FieldsV1 trie."""
    if not isinstance(trie, Mapping):
        return False
    return all(_is_element(element) and is_field_set(inner) for element, inner in trie.items())


def _is_element(element: str) -> bool:
    kind, _, value = element.partition(":")
    if kind in ("f", ".", "i"):
        return True
    try:
        said = msgspec.json.decode(value)
    except msgspec.DecodeError:
        return False
    return kind == "v" or (kind == "k" and isinstance(said, dict))


def from_fields_v1(trie: Mapping[str, Any]) -> Paths:
    """The set a FieldsV1 trie stands for."""
    found: set[Path] = set()

    def walk(node: Mapping[str, Any], path: Path) -> None:
        if not [e for e in node if e != "."] and path:
            found.add(path)
        for element, inner in node.items():
            if element == ".":
                found.add(path)
            else:
                walk(inner or {}, (*path, element))

    walk(trie, ())
    return frozenset(p for p in found if p)


def text(path: Path) -> str:
    """A path as conflict messages write it (`.spec.ports[port=80,protocol="TCP"].name`)."""
    shown = ""
    for element in path:
        kind, _, value = element.partition(":")
        if kind == "f":
            shown += f".{value}"
        elif kind == "k":
            keys = msgspec.json.decode(value)
            shown += "[" + ",".join(f"{k}={msgspec.json.encode(v).decode()}" for k, v in keys.items()) + "]"
        else:
            shown += f"[={value}]"
    return shown
