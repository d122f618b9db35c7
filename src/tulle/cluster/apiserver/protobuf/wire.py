"""The protobuf wire format: a message's bytes as a sequence of (field number, wire type, value)."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


class ProtobufError(Exception):
    """The bytes are not a message of the expected shape."""


def _varint(data: bytes, position: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        if position >= len(data) or shift > 63:
            raise ProtobufError("protobuf: unexpected end of a varint")
        byte = data[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7


def fields(data: bytes) -> Iterator[tuple[int, int, int | bytes]]:
    """The fields of a message in order; varints unsigned, fixed-width fields as their bytes. Raises ProtobufError."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, wire_type = tag >> 3, tag & 7
        if wire_type == VARINT:
            value, position = _varint(data, position)
            yield number, wire_type, value
            continue
        if wire_type == BYTES:
            size, position = _varint(data, position)
        elif wire_type in (FIXED64, FIXED32):
            size = 8 if wire_type == FIXED64 else 4
        else:
            raise ProtobufError(f"protobuf: field {number} has the unsupported wire type {wire_type}")
        if position + size > len(data):
            raise ProtobufError(f"protobuf: field {number} is longer than its message")
        yield number, wire_type, data[position : position + size]
        position += size


def signed(value: int) -> int:
    """A varint as the two's complement int64 it stands for."""
    return value - (1 << 64) if value >= 1 << 63 else value
