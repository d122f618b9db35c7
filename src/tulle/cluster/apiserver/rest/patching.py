"""PATCH: finds the patch's kind by its content type and turns it into a change of the object."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.kinds import Kind
from tulle.cluster.apiserver.patch.json_patch import JsonPatchError, apply_json_patch
from tulle.cluster.apiserver.patch.merge_patch import apply_merge_patch
from tulle.cluster.apiserver.patch.strategic import StrategicPatchError, apply_strategic_patch
from tulle.cluster.apiserver.rest.body import parse_json

Object = dict[str, Any]
JSON = "application/json-patch+json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
APPLY = "application/apply-patch+yaml"
APPLY_CBOR = "application/apply-patch+cbor"


def accepted(kind: Kind) -> list[str]:
    """Patch content types of a kind."""
    return [JSON, MERGE, APPLY] if kind.custom else [JSON, MERGE, STRATEGIC, APPLY]


def patcher(kind: Kind, schema: str | None, media: str, data: bytes) -> Callable[[Object], Object]:
    """The change that a patch of content type `media` makes; `schema` is the definition for strategic patches.

    Raises StatusError 400 or 415; the returned function raises StatusError 422 when the patch does not fit.
    """
    if media not in accepted(kind) or media == APPLY or (media == STRATEGIC and schema is None):
        raise errors.unsupported_media_type(media, accepted(kind))
    if media == JSON:
        return _json_patcher(kind, data)
    patch = parse_json(data)
    if media == MERGE:
        return lambda obj: _as_object(apply_merge_patch(obj, patch))
    return _strategic_patcher(kind, schema or "", patch)


def _as_object(value: Any) -> Object:
    if not isinstance(value, dict):
        raise errors.bad_request("the patch does not leave an object")
    return value


def _json_patcher(kind: Kind, data: bytes) -> Callable[[Object], Object]:
    try:
        operations = msgspec.json.decode(data, type=list)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise errors.bad_request(f"the JSON patch is not a list of operations: {error}") from None

    def change(obj: Object) -> Object:
        try:
            return _as_object(apply_json_patch(obj, operations))
        except JsonPatchError as error:
            message = f"the server rejected our request due to an error in our request: {error}"
            raise errors.StatusError(422, "Invalid", message) from None

    return change


def _strategic_patcher(kind: Kind, schema: str, patch: Object) -> Callable[[Object], Object]:
    def change(obj: Object) -> Object:
        try:
            return apply_strategic_patch(obj, patch, schema)
        except StrategicPatchError as error:
            raise errors.bad_request(f"{kind.kind} {obj['metadata'].get('name')}: {error}") from None

    return change
