"""What kubelet and shim say to each other on the shim's unix socket.

Control connections carry one JSON object per line, requests with an `id` that the answer repeats, and events without one. A connection
whose first request is `attach` becomes a stream of frames: one byte for the channel, four for the length, then the bytes.
"""

from __future__ import annotations

import struct
from typing import Any, Literal

import msgspec

from tulle.cluster.node.runtime.records import Status

STDIN, STDOUT, STDERR, RESIZE, CLOSE_STDIN = 0, 1, 2, 4, 5
"""Channels of an attach stream; RESIZE carries two big-endian 16-bit numbers, rows and columns."""

_HEADER = struct.Struct(">BI")

Operation = Literal["create", "start", "signal", "kill", "delete", "list", "watch", "attach", "shutdown"]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One request; `signal` is a signal number, the channel flags are those of `attach`."""

    id: int
    op: Operation
    cid: str = ""
    signal: int = 0
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to request `id`; an `error` says why nothing was done."""

    id: int
    error: str = ""
    statuses: list[Status] = []


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """A container changed its state."""

    event: Status


def frame(channel: int, data: bytes) -> bytes:
    return _HEADER.pack(channel, len(data)) + data


def parse_frames(buffer: bytearray) -> list[tuple[int, bytes]]:
    """Take every whole frame off the front of `buffer`."""
    frames = []
    while len(buffer) >= _HEADER.size:
        channel, length = _HEADER.unpack_from(buffer)
        end = _HEADER.size + length
        if len(buffer) < end:
            break
        frames.append((channel, bytes(buffer[_HEADER.size : end])))
        del buffer[:end]
    return frames


def line(message: Any) -> bytes:
    return msgspec.json.encode(message) + b"\n"
