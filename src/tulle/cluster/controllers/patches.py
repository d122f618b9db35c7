"""Merge patches that say exactly what changed between two states of an object's part."""

from typing import Any

import msgspec


def merge_diff(old: Any, new: Any) -> dict[str, Any]:
    """The merge patch (RFC 7386) that turns ``old`` into ``new``, structs or dictionaries. Lists are replaced whole."""
    return _diff(_builtins(old), _builtins(new))


def _builtins(value: Any) -> dict[str, Any]:
    plain = msgspec.to_builtins(value)
    if not isinstance(plain, dict):
        raise TypeError(f"a merge patch is between objects, found {type(value).__name__}")
    return plain


def _diff(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            inner = _diff(before, value)
            if inner:
                patch[key] = inner
        elif key not in old or before != value:
            patch[key] = value
    return patch
