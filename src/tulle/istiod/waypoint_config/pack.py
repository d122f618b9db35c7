"""The two conversions that every builder here needs: message to Any, and protobuf-JSON to message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from google.protobuf import any_pb2, json_format
from google.protobuf.message import Message

M = TypeVar("M", bound=Message)


def pack(message: Message) -> any_pb2.Any:
    """Wrap a message as Any, serialised deterministically so that equal configuration gives equal bytes."""
    packed = any_pb2.Any()
    packed.Pack(message, deterministic=True)
    return packed


def parse(kind: type[M], body: Mapping[str, Any]) -> M:
    """Read protobuf-JSON; raises `google.protobuf.json_format.ParseError` on a field the message does not have."""
    return json_format.ParseDict(dict(body), kind())
