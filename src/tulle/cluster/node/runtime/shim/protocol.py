"""What kubelet and shim say to each other on the shim's unix socket.

Control connections carry one JSON object per line, requests with an `id` that the answer repeats, and events without
one. A connection whose first request is `attach` becomes a stream of frames: one byte for the channel, four for the
length, then the bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from tulle.cluster.node.runtime.records import Status, status

STDIN, STDOUT, STDERR, RESIZE, CLOSE_STDIN = 0, 1, 2, 4, 5
"""Channels of an attach stream; RESIZE carries two big-endian 16-bit numbers, rows and columns."""

_HEADER = struct.Struct(">BI")

Operation = Literal["create", "start", "signal", "kill", "delete", "watch", "attach", "shutdown"]


class Request(NamedTuple):
    """One request; `signal` is a signal number, the channel flags are those of `attach`."""

    id: int
    op: Operation
    cid: str = ""
    signal: int = 0
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False


class Answer(NamedTuple):
    """The answer to request `id`; an `error` says why nothing was done."""

    id: int
    error: str = ""
    statuses: Sequence[Status] = ()


class Event(NamedTuple):
    """A container ended."""

    status: Status


def request_line(request: Request) -> bytes:
    return _line(request._asdict())


def parse_request(line: bytes) -> Request:
    return Request(**json.loads(line))


def answer_line(answer: Answer) -> bytes:
    return _line({**answer._asdict(), "statuses": [s.document() for s in answer.statuses]})


def event_line(event: Event) -> bytes:
    return _line({"event": event.status.document()})


def parse_message(line: bytes) -> Answer | Event:
    """What the shim sent: the answer to a request, or an event."""
    document: Mapping[str, Any] = json.loads(line)
    if "event" in document:
        return Event(status(document["event"]))
    return Answer(document["id"], document["error"], [status(s) for s in document["statuses"]])


def _line(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document).encode() + b"\n"


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
