"""Answers in the form the client asked for: the object itself, a table, or its metadata only; JSON or YAML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import yaml
from aiohttp import web

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.kinds import Kind
from tulle.cluster.apiserver.rest.call import Call
from tulle.cluster.apiserver.table import render

Object = dict[str, Any]
_JSON = ("application/json", "application/*", "*/*", "")


@dataclass(frozen=True, slots=True)
class Format:
    """What was negotiated: `shape` is object, table or metadata; `media` json or yaml."""

    shape: str = "object"
    media: str = "json"

    @property
    def content_type(self) -> str:
        """The Content-Type of the answer."""
        return "application/json" if self.media == "json" else "application/yaml"


_SHAPES = {"Table": "table", "PartialObjectMetadata": "metadata", "PartialObjectMetadataList": "metadata"}


def negotiate(accept: str) -> Format:
    """The first acceptable form in an Accept header. Raises StatusError 406."""
    for item in accept.split(","):
        media, *parameters = (part.strip() for part in item.split(";"))
        wanted = dict(p.split("=", 1) for p in parameters if "=" in p)
        if media not in _JSON and media != "application/yaml":
            continue
        form = "yaml" if media == "application/yaml" else "json"
        if "as" not in wanted:
            return Format("object", form)
        if wanted["as"] in _SHAPES and wanted.get("v", "v1") == "v1" and wanted.get("g") == "meta.k8s.io":
            return Format(_SHAPES[wanted["as"]], form)
    raise errors.not_acceptable(accept)


def format_of(call: Call) -> Format:
    """What the request's Accept header asks for."""
    return negotiate(call.request.headers.get("Accept", ""))


def warning_headers(warnings: Iterable[str]) -> list[tuple[str, str]]:
    """One `Warning` header (RFC 7234, code 299) per text."""
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ") for text in dict.fromkeys(warnings))
    return [("Warning", f'299 - "{text}"') for text in quoted]


def encode(body: Any, form: Format) -> bytes:
    """The body's bytes."""
    if form.media == "yaml":
        return yaml.safe_dump(body, sort_keys=False).encode()
    return msgspec.json.encode(body)


def respond(call: Call, body: Mapping[str, Any], status: int = 200, form: Format | None = None) -> web.Response:
    """A body as it is, with the warnings of the call."""
    chosen = form or Format()
    response = web.Response(body=encode(body, chosen), status=status, content_type=chosen.content_type)
    for name, value in warning_headers(call.options.warnings):
        response.headers.add(name, value)
    return response


def respond_object(call: Call, obj: Object, status: int = 200) -> web.Response:
    """One object in the negotiated form."""
    form = format_of(call)
    if form.shape == "table":
        revision = obj.get("metadata", {}).get("resourceVersion", "")
        body = render.table(call.kind, [obj], {"resourceVersion": revision}, include_object(call))
        return respond(call, body, status, form)
    return respond(call, shaped(obj, form), status, form)


def include_object(call: Call) -> str:
    """How much of each object goes into a table's rows: None, Metadata or Object. Raises StatusError 400."""
    wanted = call.query.get("includeObject") or "Metadata"
    if wanted not in ("None", "Metadata", "Object"):
        raise errors.bad_request(f"includeObject: found {wanted!r}, supported values: None, Metadata, Object")
    return wanted


def shaped(obj: Object, form: Format) -> Object:
    """The object, or only its metadata."""
    return partial_metadata(obj) if form.shape == "metadata" else obj


def partial_metadata(obj: Object) -> Object:
    """PartialObjectMetadata of an object."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj.get("metadata") or {}}


def list_head(kind: Kind, form: Format, metadata: Mapping[str, Any]) -> Object:
    """A list object without its items."""
    if form.shape == "metadata":
        return {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": dict(metadata)}
    return {"kind": kind.list_name, "apiVersion": kind.api_version, "metadata": dict(metadata)}


def success(call: Call, obj: Object, *, with_uid: bool = True) -> web.Response:
    """The Status that says a deletion has happened."""
    kind = call.kind
    details = {"name": obj["metadata"].get("name", ""), "group": kind.group, "kind": kind.plural}
    if with_uid:
        details["uid"] = obj["metadata"].get("uid", "")
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {key: value for key, value in details.items() if value},
    }
    return respond(call, body)
