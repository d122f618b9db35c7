"""Between bytes and typed objects, tolerant where Kubernetes is: a Go server writes ``null`` for an empty list.

Decoding takes the fast path (msgspec straight into structs) and only an object that fails it is decoded again
with its nulls dropped, so tolerance costs nothing in the usual case.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar, cast

import msgspec

from tulle.kube.errors import Undecodable
from tulle.kube.objects.meta import KubeObject
from tulle.kube.resources import Resource

T = TypeVar("T")
Body = Mapping[str, Any] | msgspec.Struct


@dataclass(frozen=True)
class ListResult(Generic[T]):
    """All items of a list, and the resource version to watch from."""

    items: tuple[T, ...]
    resource_version: str


class ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""
    continue_: str | None = msgspec.field(default=None, name="continue")


class ListBody(msgspec.Struct, frozen=True):
    """A list's envelope; items stay raw so that one odd object costs only itself the slow path."""

    metadata: ListMeta = ListMeta()
    items: list[msgspec.Raw] | None = None


class RawEvent(msgspec.Struct, frozen=True):
    """One line of a watch."""

    type: str
    object: msgspec.Raw


_LIST = msgspec.json.Decoder(ListBody)
_EVENT = msgspec.json.Decoder(RawEvent)


@lru_cache(maxsize=256)
def _decoder(kind: Hashable) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(cast(Any, kind))


def decode(data: bytes | msgspec.Raw, kind: type[T], where: str) -> T:
    """``data`` as ``kind``. Raises Undecodable, naming ``where``."""
    try:
        return cast(T, _decoder(cast(Hashable, kind)).decode(data))
    except msgspec.ValidationError:
        return _decode_without_nulls(data, kind, where)
    except msgspec.DecodeError as error:
        raise Undecodable(0, "Undecodable", f"{where}: the answer is not JSON: {error}") from error


def _decode_without_nulls(data: bytes | msgspec.Raw, kind: type[T], where: str) -> T:
    try:
        return msgspec.convert(_drop_nulls(msgspec.json.decode(data)), kind)
    except msgspec.ValidationError as error:
        raise Undecodable(0, "Undecodable", f"{where}: {error}") from error


def _drop_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _drop_nulls(v) for k, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_drop_nulls(v) for v in value if v is not None]
    return value


def decode_list(data: bytes, res: Resource[T]) -> tuple[ListMeta, list[T]]:
    """One page of a list. Raises Undecodable, naming the item."""
    where = f"list of {res.plural}"
    try:
        body = _LIST.decode(data)
    except msgspec.DecodeError as error:
        raise Undecodable(0, "Undecodable", f"{where}: {error}") from error
    return body.metadata, [decode(raw, res.type, f"{where}[{i}]") for i, raw in enumerate(body.items or ())]


def decode_event(line: bytes, where: str) -> RawEvent:
    """One line of a watch. Raises Undecodable."""
    try:
        return _EVENT.decode(line)
    except msgspec.DecodeError as error:
        raise Undecodable(0, "Undecodable", f"{where}: a watch event is not readable: {error}") from error


def encode(res: Resource[Any], obj: Body, *, identify: bool = True) -> bytes:
    """``obj`` as JSON; with ``identify`` its apiVersion and kind are filled in from the resource when absent."""
    if not identify:
        return msgspec.json.encode(obj)
    if isinstance(obj, KubeObject):
        if not obj.kind:
            obj = msgspec.structs.replace(obj, api_version=res.api_version, kind=res.kind)
        return msgspec.json.encode(obj)
    if isinstance(obj, Mapping):
        return msgspec.json.encode({"apiVersion": res.api_version, "kind": res.kind, **obj})
    return msgspec.json.encode(obj)


@dataclass(frozen=True)
class Identity:
    """The part of an object's metadata that clients work with, for typed and plain objects alike."""

    namespace: str
    name: str
    uid: str
    resource_version: str


def identity(obj: Any) -> Identity:
    """Who ``obj`` is. A missing field reads as ""."""
    if isinstance(obj, KubeObject):
        meta = obj.metadata
        return Identity(meta.namespace, meta.name, meta.uid, meta.resource_version)
    meta_dict = obj.get("metadata") or {} if isinstance(obj, Mapping) else {}
    return Identity(
        meta_dict.get("namespace") or "",
        meta_dict.get("name") or "",
        meta_dict.get("uid") or "",
        meta_dict.get("resourceVersion") or "",
    )
