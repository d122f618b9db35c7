"""The OpenAPI definitions of Kubernetes 1.36, from the `kubernetes-validate` package.

The package's files are JSON Schema, where an optional field's type is a list (`["string", "null"]`) and references start
with `#/$defs/`; here they are turned back into the OpenAPI form that clients and the rest of this server work with.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

Schema = dict[str, Any]

VERSION = "v1.36.0"
_PREFIX = "#/$defs/"
META = "io.k8s.apimachinery.pkg.apis.meta.v1."
INT_OR_STRING = "io.k8s.apimachinery.pkg.util.intstr.IntOrString"
QUANTITY = "io.k8s.apimachinery.pkg.api.resource.Quantity"
OBJECT_META = META + "ObjectMeta"
_UNIONS: dict[str, Schema] = {
    INT_OR_STRING: {"type": "string", "format": "int-or-string"},
    QUANTITY: {"type": "string", "format": "quantity"},
}


@cache
def definitions() -> dict[str, Schema]:
    """Every definition by its full name, references as plain names under `$ref`."""
    raw = msgspec.json.decode(_file().read_bytes())["$defs"]
    return {name: _UNIONS.get(name) or _clean(schema) for name, schema in raw.items()}


def _file() -> Path:
    # Found, not imported: the package's own code would bring a second JSON Schema library into this process.
    spec = find_spec("kubernetes_validate")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("the package kubernetes-validate is not installed: run `make install`")
    return Path(spec.origin).parent / "kubernetes-json-schema" / f"{VERSION}-local" / "_definitions.json"


def _clean(schema: Schema) -> Schema:
    cleaned: Schema = {}
    for key, value in schema.items():
        if key == "type" and isinstance(value, list):
            cleaned[key] = next(t for t in value if t != "null")
        elif key == "$ref":
            cleaned[key] = value.removeprefix(_PREFIX)
        elif key == "properties":
            cleaned[key] = {name: _clean(child) for name, child in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, dict):
            cleaned[key] = _clean(value)
        elif key == "enum" and set(schema.get("type", ())) == {"string", "null"}:
            continue  # the package pins apiVersion and kind by enum; the served documents do not
        else:
            cleaned[key] = value
    return cleaned


def definition(name: str) -> Schema:
    """One definition. Raises KeyError."""
    return definitions()[name]


def resolve(schema: Schema) -> Schema:
    """The schema that a reference stands for, with the attributes written beside the reference (list map keys ...)."""
    reference = schema.get("$ref")
    return definitions()[reference] if reference else schema
