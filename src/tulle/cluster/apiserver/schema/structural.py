"""Whether a CustomResourceDefinition is acceptable: names, versions, and a structural schema for each version."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from tulle.cluster.apiserver.errors import FieldError, forbidden_field, invalid_value, not_supported, required
from tulle.cluster.apiserver.kinds import BUILTIN
from tulle.cluster.apiserver.schema.custom import INT_OR_STRING, PRESERVE

Object = Mapping[str, Any]
_TYPES = ("array", "boolean", "integer", "number", "object", "string")
_DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?\Z")
_OWN = {(kind.group, kind.plural) for kind in BUILTIN}
_COLUMN_TYPES = ("boolean", "date", "integer", "number", "string")


def validate_definition(definition: Object) -> list[FieldError]:
    """What is wrong with a CustomResourceDefinition."""
    return list(_check(definition))


def _check(definition: Object) -> Iterator[FieldError]:
    spec = definition.get("spec") or {}
    names = spec.get("names") or {}
    if not spec.get("group"):
        yield required("spec.group")
    if spec.get("scope") not in ("Cluster", "Namespaced"):
        yield not_supported("spec.scope", spec.get("scope", ""), ["Cluster", "Namespaced"])
    for field in ("plural", "singular", "kind", "listKind"):
        if not names.get(field):
            yield required(f"spec.names.{field}")
        elif field in ("plural", "singular") and not _DNS_LABEL.match(names[field]):
            yield invalid_value(f"spec.names.{field}", names[field], "a DNS-1035 label is expected")
    if (spec.get("group"), names.get("plural")) in _OWN:
        # Its objects would be stored as, and be taken for, the built-in ones; with it they would all be deleted.
        yield forbidden_field("spec.names.plural", "is the name of a built-in resource of this group")
    wanted = f"{names.get('plural')}.{spec.get('group')}"
    name = (definition.get("metadata") or {}).get("name", "")
    if name != wanted:
        yield invalid_value("metadata.name", name, 'must be spec.names.plural+"."+spec.group')
    strategy = (spec.get("conversion") or {}).get("strategy", "None")
    if strategy != "None":
        yield not_supported("spec.conversion.strategy", strategy, ["None"])
    yield from _check_versions(spec.get("versions") or [])


def _check_versions(versions: list[Object]) -> Iterator[FieldError]:
    if not versions:
        yield required("spec.versions", "must have at least one version")
        return
    stored = [version for version in versions if version.get("storage")]
    if len(stored) != 1:
        yield invalid_value(
            "spec.versions",
            [v.get("name") for v in versions],
            "must have exactly one version marked as storage version",
        )
    names = [version.get("name", "") for version in versions]
    for index, version in enumerate(versions):
        path = f"spec.versions[{index}]"
        if not version.get("name") or not _DNS_LABEL.match(version["name"]):
            yield invalid_value(f"{path}.name", version.get("name", ""), "a DNS-1035 label is expected")
        if names.index(version.get("name", "")) != index:
            yield invalid_value(f"{path}.name", version.get("name", ""), "must be unique")
        schema = (version.get("schema") or {}).get("openAPIV3Schema")
        if schema is None:
            yield required(f"{path}.schema.openAPIV3Schema", "schemas are required")
        else:
            yield from _check_schema(schema, f"{path}.schema.openAPIV3Schema", root=True)
        yield from _check_paths(version, path)


def _check_paths(version: Object, path: str) -> Iterator[FieldError]:
    """Columns and selectable fields."""
    for number, column in enumerate(version.get("additionalPrinterColumns") or ()):
        at = f"{path}.additionalPrinterColumns[{number}]"
        if column.get("type") not in _COLUMN_TYPES:
            yield not_supported(f"{at}.type", column.get("type", ""), _COLUMN_TYPES)
        for field in ("name", "jsonPath"):
            if not column.get(field):
                yield required(f"{at}.{field}")
    for number, selectable in enumerate(version.get("selectableFields") or ()):
        if not selectable.get("jsonPath"):
            yield required(f"{path}.selectableFields[{number}].jsonPath")


def _check_schema(schema: Object, path: str, *, root: bool = False) -> Iterator[FieldError]:
    kind = schema.get("type")
    if kind is None and not schema.get(INT_OR_STRING) and not schema.get(PRESERVE):
        yield required(
            f"{path}.type",
            "must not be empty for specified object fields" if not root else "must not be empty at the root",
        )
    elif kind is not None and kind not in _TYPES:
        yield not_supported(f"{path}.type", kind, _TYPES)
    elif root and kind not in (None, "object"):
        yield invalid_value(f"{path}.type", kind, "must be object at the root")
    if schema.get("properties") and isinstance(schema.get("additionalProperties"), Mapping):
        yield forbidden_field(
            f"{path}.additionalProperties", "additionalProperties and properties are mutual exclusive"
        )
    if schema.get("$ref"):
        yield forbidden_field(f"{path}.$ref", "$ref is not supported")
    if kind == "array" and not isinstance(schema.get("items"), Mapping):
        yield required(f"{path}.items", "must be specified")
    pattern = schema.get("pattern")
    if pattern is not None:
        try:
            re.compile(pattern)
        except re.error as error:
            yield invalid_value(f"{path}.pattern", pattern, f"must be a valid regular expression, but isn't: {error}")
    for name, child in (schema.get("properties") or {}).items():
        yield from _check_schema(child, f"{path}.properties[{name}]")
    for name in ("items", "additionalProperties"):
        if isinstance(schema.get(name), Mapping):
            yield from _check_schema(schema[name], f"{path}.{name}")
    for name in ("allOf", "anyOf", "oneOf"):
        for index, part in enumerate(schema.get(name) or ()):
            for field in ("description", "default", "additionalProperties", "nullable"):
                if field in part:
                    yield forbidden_field(f"{path}.{name}[{index}].{field}", "must be undefined to be structural")
