"""The shape of a field for ownership: scalar, struct, map, list map, set or atomic, read off its schema.

One accessor serves both the built-in definitions (with references) and custom resources' schemas; where a schema says
nothing (preserved unknown fields), maps are granular and lists atomic.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tulle.cluster.apiserver.kinds import Kind
from tulle.cluster.apiserver.schema.definitions import definition, definitions

Schema = Mapping[str, Any]
LIST_MAP, SET, ATOMIC, GRANULAR = "map", "set", "atomic", "granular"
_OPAQUE: Schema = {}
_ATOMIC_DEFINITIONS = {
    "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
    "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON",
}


def root(kind: Kind) -> Schema:
    """The schema of a kind's objects."""
    if isinstance(kind.schema, str):
        return definition(kind.schema)
    metadata = {"$ref": "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}
    return {**kind.schema, "properties": {**(kind.schema.get("properties") or {}), "metadata": metadata}}


def _target(schema: Schema) -> Schema:
    reference = schema.get("$ref")
    return definitions()[reference] if reference else schema


def child(schema: Schema, key: str) -> Schema:
    """The schema of a field of an object."""
    target = _target(schema)
    properties = target.get("properties") or {}
    if key in properties:
        found: Schema = properties[key]
        return found
    extra = target.get("additionalProperties")
    return extra if isinstance(extra, Mapping) else _OPAQUE


def items(schema: Schema) -> Schema:
    """The schema of a list's items."""
    found = _target(schema).get("items")
    return found if isinstance(found, Mapping) else _OPAQUE


def is_atomic_map(schema: Schema) -> bool:
    """Whether an object is owned as a whole."""
    if schema.get("$ref") in _ATOMIC_DEFINITIONS:
        return True
    return "atomic" in (schema.get("x-kubernetes-map-type"), _target(schema).get("x-kubernetes-map-type"))


def list_type(schema: Schema) -> str:
    """map, set or atomic."""
    return str(schema.get("x-kubernetes-list-type") or _target(schema).get("x-kubernetes-list-type") or ATOMIC)


def list_keys(schema: Schema) -> tuple[str, ...]:
    """Key fields of a list map."""
    return tuple(schema.get("x-kubernetes-list-map-keys") or _target(schema).get("x-kubernetes-list-map-keys") or ())


def key_default(schema: Schema, key: str) -> Any:
    """The default of a list map's key field (a port's protocol is TCP when it is not written)."""
    found = child(items(schema), key).get("default")
    return "TCP" if found is None and key == "protocol" else found
