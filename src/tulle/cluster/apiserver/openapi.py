"""OpenAPI v3 documents: one per group version, each with the schemas that its kinds reach.

Clients validate and explain with them, and find out here that built-in kinds take strategic merge patches. Documents carry
a hash in their address, so that a client keeps them until they change.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.kinds import Kind
from tulle.cluster.apiserver.registry import Registry
from tulle.cluster.apiserver.rest.patching import accepted
from tulle.cluster.apiserver.schema.definitions import META, OBJECT_META, definitions

Object = dict[str, Any]
_PREFIX = "#/components/schemas/"
_GVK = "x-kubernetes-group-version-kind"
_LIST_META = META + "ListMeta"
_DELETE_OPTIONS = META + "DeleteOptions"
_UNIONS = {
    "int-or-string": ({"type": "integer"}, {"type": "string"}),
    "quantity": ({"type": "string"}, {"type": "number"}),
}


class OpenApi:
    """Builds documents on demand and keeps them until discovery changes."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._generation = -1
        self._documents: dict[str, tuple[bytes, str]] = {}

    def index(self) -> Object:
        """The /openapi/v3 document: group versions and the addresses of their documents."""
        paths: Object = {}
        for path in self._paths():
            _, digest = self.document(path)
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
        return {"paths": paths}

    def _paths(self) -> Iterable[str]:
        for group, versions in self._registry.groups().items():
            for version in versions:
                yield f"apis/{group}/{version}" if group else f"api/{version}"

    def document(self, path: str) -> tuple[bytes, str]:
        """(document, hash) of `api/v1` or `apis/<group>/<version>`. Raises StatusError 404."""
        if self._generation != self._registry.generation:
            self._documents.clear()
            self._generation = self._registry.generation
        if path not in self._documents:
            if path not in set(self._paths()):
                raise errors.no_such_path()
            parts = path.split("/")
            group, version = ("", parts[1]) if parts[0] == "api" else (parts[1], parts[2])
            body = msgspec.json.encode(_document(self._registry.resources(group, version)))
            self._documents[path] = (body, hashlib.sha256(body).hexdigest().upper())
        return self._documents[path]


def _document(kinds: list[Kind]) -> Object:
    schemas: dict[str, Object] = {}
    paths: Object = {}
    for kind in kinds:
        name = _schema_name(kind)
        if isinstance(kind.schema, str):
            _reach(name, schemas)
        else:
            _reach(OBJECT_META, schemas)
            schemas[name] = _custom_schema(kind)
        list_name = _list_schema_name(kind, name)
        if isinstance(kind.schema, str) and list_name in definitions():
            _reach(list_name, schemas)
        elif "list" in kind.verbs:
            _reach(_LIST_META, schemas)
            schemas[list_name] = _list_schema(kind, name)
        _reach(_DELETE_OPTIONS, schemas)
        paths |= _operations(kind, name)
    schemas[_DELETE_OPTIONS] = {**schemas[_DELETE_OPTIONS], _GVK: _gvks(kinds, "DeleteOptions")}
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.4"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _gvks(kinds: list[Kind], name: str) -> list[Object]:
    versions = dict.fromkeys((k.group, k.version) for k in kinds)
    return [{"group": group, "version": version, "kind": name} for group, version in versions]


def _schema_name(kind: Kind) -> str:
    if isinstance(kind.schema, str):
        return kind.schema
    return f"{'.'.join(reversed(kind.group.split('.')))}.{kind.version}.{kind.kind}"


def _list_schema_name(kind: Kind, name: str) -> str:
    return f"{name.rpartition('.')[0]}.{kind.list_name}"


def _reach(name: str, schemas: dict[str, Object]) -> None:
    """Put a built-in definition and all that it refers to among the schemas."""
    if name in schemas:
        return
    schemas[name] = {}
    schemas[name] = _published(definitions()[name], schemas)


def _published(schema: Mapping[str, Any], schemas: dict[str, Object]) -> Object:
    union = _UNIONS.get(schema.get("format", ""))
    if union is not None and schema.get("type") == "string":
        kept = {k: v for k, v in schema.items() if k not in ("type", "format")}
        extra = {"format": "int-or-string"} if schema["format"] == "int-or-string" else {}
        return {**kept, "oneOf": list(union), **extra}
    result: Object = {}
    for key, value in schema.items():
        if key == "$ref":
            _reach(value, schemas)
            reference = {"$ref": _PREFIX + value}
            # A reference stands alone in OpenAPI 3.0; what is said beside it goes into allOf.
            if len(schema) == 1:
                return reference
            result["allOf"] = [reference]
            result.setdefault("default", {})
        elif key == "properties":
            result[key] = {name: _published(child, schemas) for name, child in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, Mapping):
            result[key] = _published(value, schemas)
        else:
            result[key] = value
    return result


def _custom_schema(kind: Kind) -> Object:
    schema = dict(kind.schema) if isinstance(kind.schema, Mapping) else {}
    properties = {
        "apiVersion": definitions()["io.k8s.api.core.v1.Pod"]["properties"]["apiVersion"],
        "kind": definitions()["io.k8s.api.core.v1.Pod"]["properties"]["kind"],
        "metadata": {"allOf": [{"$ref": _PREFIX + OBJECT_META}], "description": "Standard object's metadata."},
    }
    schema["properties"] = {**(schema.get("properties") or {}), **properties}
    schema[_GVK] = [{"group": kind.group, "version": kind.version, "kind": kind.kind}]
    schema.setdefault("type", "object")
    return schema


def _list_schema(kind: Kind, name: str) -> Object:
    common = _custom_schema(kind)["properties"]
    items = {"type": "array", "items": {"allOf": [{"$ref": _PREFIX + name}]}}
    metadata = {"allOf": [{"$ref": _PREFIX + _LIST_META}]}
    return {
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": common["apiVersion"],
            "kind": common["kind"],
            "metadata": metadata,
            "items": items,
        },
        _GVK: [{"group": kind.group, "version": kind.version, "kind": kind.list_name}],
    }


_VERB_OF_METHOD = (
    ("get", "get", "get"),
    ("put", "update", "put"),
    ("patch", "patch", "patch"),
    ("delete", "delete", "delete"),
)


def _operation(kind: Kind, action: str, schema: str, content: Iterable[str] = ()) -> Object:
    gvk = {"group": kind.group, "version": kind.version, "kind": kind.kind}
    reference = {"$ref": _PREFIX + schema}
    ok = {"description": "OK", "content": {"application/json": {"schema": reference}}}
    operation: Object = {
        "responses": {"200": ok},
        "x-kubernetes-action": action,
        _GVK: gvk,
        "parameters": _parameters(action),
    }
    if content:
        operation["requestBody"] = {"content": {media: {"schema": reference} for media in content}}
    return operation


def _parameters(action: str) -> list[Object]:
    names = ["pretty"]
    if action in ("post", "put", "patch"):
        names += ["dryRun", "fieldManager", "fieldValidation"]
    if action == "patch":
        names.append("force")
    return [{"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}} for name in names]


def _operations(kind: Kind, schema: str) -> Object:
    prefix = f"/apis/{kind.api_version}" if kind.group else "/api/v1"
    base = f"{prefix}/namespaces/{{namespace}}/{kind.plural}" if kind.namespaced else f"{prefix}/{kind.plural}"
    collection: Object = {}
    if "list" in kind.verbs:
        collection["get"] = _operation(kind, "list", _list_schema_name(kind, schema))
    if "create" in kind.verbs:
        collection["post"] = _operation(kind, "post", schema, ("*/*",))
    item: Object = {}
    for method, verb, action in _VERB_OF_METHOD:
        if verb in kind.verbs:
            content = accepted(kind) if method == "patch" else (("*/*",) if method == "put" else ())
            item[method] = _operation(kind, action, schema, content)
    found = {base: collection}
    if item:
        found[f"{base}/{{name}}"] = item
    if kind.namespaced and "list" in kind.verbs:
        found[f"{prefix}/{kind.plural}"] = {"get": _operation(kind, "list", _list_schema_name(kind, schema))}
    return found
