"""SPDY/3.1 framing, as far as port-forwarding needs it (sans-IO): bytes in, frames out.

kubectl speaks it inside a websocket (`SPDY/3.1+portforward.k8s.io`). Headers are compressed with zlib and a
dictionary that the protocol fixes; each direction keeps one compression state for the whole connection. Source: SPDY
protocol draft 3.1.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

VERSION = 3
INITIAL_WINDOW = 64 * 1024
MAX_FRAME = 1 << 20
DICTIONARY_CHECKSUM = 0xE3C6A7C2

Kind = Literal["SYN_STREAM", "SYN_REPLY", "RST_STREAM", "SETTINGS", "PING", "GOAWAY", "HEADERS", "WINDOW_UPDATE"]

_NUMBERS: Mapping[int, Kind] = {
    1: "SYN_STREAM",
    2: "SYN_REPLY",
    3: "RST_STREAM",
    4: "SETTINGS",
    6: "PING",
    7: "GOAWAY",
    8: "HEADERS",
    9: "WINDOW_UPDATE",
}
_BY_KIND = {kind: number for number, kind in _NUMBERS.items()}

FIN = 1
PROTOCOL_ERROR, INVALID_STREAM, REFUSED_STREAM, CANCEL = 1, 2, 3, 5


class SpdyError(Exception):
    """The peer broke the protocol; the connection has to end."""


@dataclass(frozen=True)
class Data:
    """A data frame; `fin` half-closes the stream."""

    stream: int
    payload: bytes
    fin: bool


@dataclass(frozen=True)
class Control:
    """A control frame; `stream` is 0 where the frame has none, `value` is the status, ping ID or window delta."""

    kind: Kind
    stream: int = 0
    fin: bool = False
    headers: Mapping[str, str] | None = None
    value: int = 0


Frame = Data | Control


class Framer:
    """One connection's two directions."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)
        self._deflate = zlib.compressobj(zdict=DICTIONARY)

    def receive(self, data: bytes) -> Iterator[Frame]:
        """Every whole frame of what came so far. Raises SpdyError."""
        self._received += data
        while len(self._received) >= 8:
            word, flags_length = struct.unpack_from(">II", self._received)
            length = flags_length & 0xFFFFFF
            if length > MAX_FRAME:
                raise SpdyError(f"a frame of {length} bytes is larger than {MAX_FRAME}")
            if len(self._received) < 8 + length:
                return
            payload = bytes(self._received[8 : 8 + length])
            del self._received[: 8 + length]
            frame = self._parse(word, flags_length >> 24, payload)
            if frame is not None:
                yield frame

    def _parse(self, word: int, flags: int, payload: bytes) -> Frame | None:
        if not word >> 31:
            return Data(word, payload, bool(flags & FIN))
        version, number = (word >> 16) & 0x7FFF, word & 0xFFFF
        if version != VERSION:
            raise SpdyError(f"version {version} is not {VERSION}")
        kind = _NUMBERS.get(number)
        if kind is None or kind == "SETTINGS":
            return None
        try:
            return self._control(kind, flags, payload)
        except (struct.error, zlib.error, IndexError) as error:
            raise SpdyError(f"broken {kind} frame: {error}") from error

    def _control(self, kind: Kind, flags: int, payload: bytes) -> Control:
        first = struct.unpack_from(">I", payload)[0]
        if kind == "PING":
            return Control(kind, value=first)
        stream = first & 0x7FFFFFFF
        if kind == "SYN_STREAM":
            return Control(kind, stream, bool(flags & FIN), self._headers(payload[10:]))
        if kind in {"SYN_REPLY", "HEADERS"}:
            return Control(kind, stream, bool(flags & FIN), self._headers(payload[4:]))
        value = struct.unpack_from(">I", payload, 4)[0]
        return Control(kind, stream, value=value)

    def _headers(self, block: bytes) -> dict[str, str]:
        text = self._inflate.decompress(block, MAX_FRAME)
        (count,) = struct.unpack_from(">I", text)
        position, found = 4, {}
        for _ in range(count):
            name, position = _string(text, position)
            value, position = _string(text, position)
            found[name] = value
        return found

    def syn_reply(self, stream: int) -> bytes:
        block = self._deflate.compress(struct.pack(">I", 0)) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return _control_bytes("SYN_REPLY", struct.pack(">I", stream) + block)


def _string(text: bytes, position: int) -> tuple[str, int]:
    (length,) = struct.unpack_from(">I", text, position)
    end = position + 4 + length
    if end > len(text):
        raise IndexError("a header is longer than its block")
    return text[position + 4 : end].decode("latin-1"), end


def _control_bytes(kind: Kind, payload: bytes, flags: int = 0) -> bytes:
    return struct.pack(">HHI", 0x8000 | VERSION, _BY_KIND[kind], flags << 24 | len(payload)) + payload


def data_frame(stream: int, payload: bytes, *, fin: bool = False) -> bytes:
    return struct.pack(">II", stream, (FIN if fin else 0) << 24 | len(payload)) + payload


def rst_stream(stream: int, status: int) -> bytes:
    return _control_bytes("RST_STREAM", struct.pack(">II", stream, status))


def ping(identifier: int) -> bytes:
    return _control_bytes("PING", struct.pack(">I", identifier))


def window_update(stream: int, delta: int) -> bytes:
    return _control_bytes("WINDOW_UPDATE", struct.pack(">II", stream, delta))


def goaway(last_stream: int) -> bytes:
    return _control_bytes("GOAWAY", struct.pack(">II", last_stream, 0))


_WORDS = """
options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow
authorization cache-control connection content-base content-encoding content-language content-length content-location
content-md5 content-range content-type date etag expect expires from host if-match if-modified-since if-none-match
if-range if-unmodified-since last-modified location max-forwards pragma proxy-authenticate proxy-authorization range
referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get
status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin
"""

_CODES = """
100 101 201 202 205 206 300 302 303 304 305 306 307 402 405 406 407 408 409 410 411 412 413 414 415 416 417 502 504 505
"""

_PHRASES = (
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden"
    "404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug "
    "Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,"
    "application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch"
    "charset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _dictionary() -> bytes:
    """The draft's dictionary: names with their lengths, then codes and phrases run together."""
    words = (word.replace("_", " ").encode() for word in _WORDS.split())
    named = b"".join(struct.pack(">I", len(word)) + word for word in words)
    return named + "".join(_CODES.split()).encode() + _PHRASES.encode()


DICTIONARY = _dictionary()
