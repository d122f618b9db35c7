"""JSON Patch (RFC 6902) over JSON Pointers (RFC 6901)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

_DIGITS = 9  # of an index: no list is longer


class JsonPatchError(Exception):
    """The patch does not fit the document; the message says which operation and why."""


def apply_json_patch(document: Any, operations: Sequence[Any]) -> Any:
    """The patched document; the argument is not changed. Raises JsonPatchError."""
    result = copy.deepcopy(document)
    for operation in operations:
        if not isinstance(operation, dict) or "op" not in operation or "path" not in operation:
            raise JsonPatchError(f"operation {operation!r}: want an object with op and path")
        result = _apply(result, operation)
    return result


def _tokens(pointer: Any) -> list[str]:
    if pointer == "":
        return []
    if not isinstance(pointer, str) or not pointer.startswith("/"):
        raise JsonPatchError(f"path {pointer!r}: want a JSON pointer that starts with /")
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer[1:].split("/")]


def _apply(document: Any, operation: dict[str, Any]) -> Any:
    path = operation["path"]
    match operation["op"]:
        case "add":
            return _add(document, path, _value(operation))
        case "remove":
            return _remove(document, path)[0]
        case "replace":
            _find(document, path)
            return _replace(document, path, _value(operation))
        case "move":
            rest, moved = _remove(document, operation.get("from"))
            return _add(rest, path, moved)
        case "copy":
            return _add(document, path, copy.deepcopy(_find(document, operation.get("from"))))
        case "test":
            if _find(document, path) != _value(operation):
                raise JsonPatchError(f"testing value {path} failed")
            return document
    raise JsonPatchError(f"operation {operation['op']!r}: supported are add, remove, replace, move, copy, test")


def _value(operation: dict[str, Any]) -> Any:
    if "value" not in operation:
        raise JsonPatchError(f"{operation['op']} {operation['path']}: value is missing")
    return operation["value"]


def _index(items: list[Any], token: str, path: str, *, end: int) -> int:
    if not token.isdecimal() or len(token) > _DIGITS or int(token) > end:
        raise JsonPatchError(f"path {path!r}: index {token!r} is outside a list of {len(items)} items")
    return int(token)


def _step(container: Any, token: str, path: Any) -> Any:
    if isinstance(container, dict) and token in container:
        return container[token]
    if isinstance(container, list):
        return container[_index(container, token, path, end=len(container) - 1)]
    raise JsonPatchError(f"path {path!r}: there is nothing at {token!r}")


def _find(document: Any, path: Any) -> Any:
    for token in _tokens(path):
        document = _step(document, token, path)
    return document


def _parent(document: Any, path: Any) -> tuple[Any, str]:
    *parents, last = _tokens(path)
    for token in parents:
        document = _step(document, token, path)
    return document, last


def _add(document: Any, path: Any, value: Any) -> Any:
    if path == "":
        return value
    parent, last = _parent(document, path)
    if isinstance(parent, dict):
        parent[last] = value
    elif isinstance(parent, list):
        position = len(parent) if last == "-" else _index(parent, last, path, end=len(parent))
        parent.insert(position, value)
    else:
        raise JsonPatchError(f"path {path!r}: its parent is neither an object nor a list")
    return document


def _replace(document: Any, path: Any, value: Any) -> Any:
    if path == "":
        return value
    parent, last = _parent(document, path)
    if isinstance(parent, list):
        parent[int(last)] = value
    else:
        parent[last] = value
    return document


def _remove(document: Any, path: Any) -> tuple[Any, Any]:
    removed = _find(document, path)
    if path == "":
        return None, removed
    parent, last = _parent(document, path)
    if isinstance(parent, list):
        parent.pop(int(last))
    else:
        del parent[last]
    return document, removed
