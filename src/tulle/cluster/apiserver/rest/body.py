"""Reading what a client sent: JSON, YAML or the Kubernetes protobuf envelope, always as a plain document."""

from __future__ import annotations

from typing import Any

import msgspec
import yaml
from aiohttp import web

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.protobuf.decode import decode_envelope
from tulle.cluster.apiserver.protobuf.wire import ProtobufError

Object = dict[str, Any]
PROTOBUF = "application/vnd.kubernetes.protobuf"
_ACCEPTED = ("application/json", "application/yaml", PROTOBUF)
_YAML = ("application/yaml", "application/x-yaml", "text/yaml", "application/apply-patch+yaml")
LIMIT = 3 * 1024 * 1024


async def read(request: web.BaseRequest) -> bytes:
    """The raw body. Raises StatusError 413."""
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        raise errors.request_too_large(LIMIT) from None


async def read_object(request: web.BaseRequest, *, optional: bool = False) -> Object:
    """The body as an object; an empty one is allowed when `optional`. Raises StatusError 400, 413 or 415."""
    data = await read(request)
    if not data:
        if optional:
            return {}
        raise errors.bad_request("the request has no body: want an object")
    media = (request.headers.get("Content-Type") or "application/json").partition(";")[0].strip().lower()
    if media == PROTOBUF:
        try:
            return decode_envelope(data)
        except ProtobufError as error:
            raise errors.bad_request(str(error)) from None
    if media in _YAML:
        return parse_yaml(data)
    if media in ("application/json", "", "text/plain", "application/octet-stream"):
        return parse_json(data)
    raise errors.unsupported_media_type(media, _ACCEPTED)


def parse_json(data: bytes) -> Object:
    """A JSON object. Raises StatusError 400."""
    try:
        value = msgspec.json.decode(data)
    except msgspec.DecodeError as error:
        raise errors.bad_request(f"the body is not valid JSON: {error}") from None
    return _as_object(value)


def parse_yaml(data: bytes) -> Object:
    """A YAML (or JSON) object. Raises StatusError 400."""
    if data[:1] == b"{":
        return parse_json(data)
    try:
        value = yaml.load(data, Loader=_Loader)  # noqa: S506 - the loader is a safe one without dates
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        # The others are what the library raises for a value that its tag, or its look, does not fit.
        raise errors.bad_request(f"the body is not valid YAML: {error}") from None
    # An alias is one reference here but a copy in each answer: a few lines can stand for more than any memory holds.
    if _written_out(value, {}) > LIMIT:
        raise errors.bad_request("the body is not valid YAML: it has too many aliases")
    try:
        return _as_object(msgspec.json.decode(msgspec.json.encode(_with_text_keys(value))))
    except (TypeError, ValueError, OverflowError) as error:
        raise errors.bad_request(f"the body is YAML that JSON cannot say: {error}") from None


def _with_text_keys(value: Any) -> Any:
    """Numbers and booleans as keys of maps are written as text, as by every client that sends JSON."""
    if isinstance(value, list):
        return [_with_text_keys(item) for item in value]
    if not isinstance(value, dict):
        return value
    for key in value:
        if not isinstance(key, str | int | float):
            raise TypeError(f"found the key {key!r}, want text, a number or a boolean")
    return {_key(key): _with_text_keys(item) for key, item in value.items()}


def _key(key: str | float) -> str:
    return key if isinstance(key, str) else msgspec.json.encode(key).decode()


def _written_out(value: Any, known: dict[int, int]) -> int:
    """About how many characters a document has without aliases; more than LIMIT if it contains itself."""
    if not isinstance(value, dict | list):
        return 1 + (len(value) if isinstance(value, str) else 0)
    if id(value) not in known:
        known[id(value)] = LIMIT + 1
        items = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_written_out(item, known) for item in items)
    return known[id(value)]


def _as_object(value: Any) -> Object:
    if not isinstance(value, dict):
        raise errors.bad_request(f"the body is a {type(value).__name__}: want an object")
    return value


class _Loader(yaml.SafeLoader):
    """YAML as JSON would have it: time stamps stay text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
