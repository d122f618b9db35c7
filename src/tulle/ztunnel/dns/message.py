"""DNS packets, as far as this proxy must understand them: a question for addresses, and the answer to it.  Pure.

Everything that is not exactly one ordinary question goes on to the resolver as it is, so nothing is lost by not knowing
it.  What is answered is answered in the letters of the question, which some resolvers vary to notice forgeries.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tulle.ztunnel.policy.terms import Address

_HEADER: Final = struct.Struct("!HHHHHH")
_KIND: Final = struct.Struct("!HH")
_RECORD: Final = struct.Struct("!HHIH")
_RESPONSE, _OPCODE, _AUTHORITATIVE, _TRUNCATED, _WISHED, _AVAILABLE = 0x8000, 0x7800, 0x0400, 0x0200, 0x0100, 0x0080
_INTERNET: Final = 1
_CNAME, _OPT = 5, 41
#: Where the question's name is, as a pointer.
_ASKED_NAME: Final = struct.pack("!H", 0xC000 | _HEADER.size)
_SERVER_FAILURE: Final = 2
#: Types of addresses, and the IP version that each asks for.
ADDRESS_TYPES: Final = {1: 4, 28: 6}
#: Seconds that an answer may be kept.
TTL: Final = 30
#: Datagrams: without EDNS, and what is never fragmented.
_PLAIN_LIMIT, _EDNS_LIMIT = 512, 1232
_STREAM_LIMIT: Final = 65535
#: Bytes of a name in a packet, the last one included.
_NAME_LIMIT: Final = 255


@dataclass(frozen=True)
class Question:
    """One ordinary question.  `section`: its bytes; `limit`: how large an answer by datagram may be."""

    number: int
    flags: int
    name: str
    kind: int
    section: bytes
    edns: bool
    limit: int


def is_query(packet: bytes) -> bool:
    """Whether the packet asks something; an answer is never answered, so that two servers cannot be set on each other."""
    return len(packet) >= _HEADER.size and not packet[2] & 0x80


def read(packet: bytes) -> Question | None:
    """The question, None for a query that is not an ordinary one."""
    number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(packet)
    if flags & _OPCODE or (questions, answers, authorities) != (1, 0, 0) or additional > 1:
        return None
    try:
        name, end = _name(packet, _HEADER.size)
        kind, of_class = _KIND.unpack_from(packet, end)
        end += _KIND.size
        limit = _limit(packet, end) if additional else None
    except (IndexError, UnicodeDecodeError, struct.error):
        return None
    if of_class != _INTERNET or not name or (additional and limit is None):
        return None
    return Question(number, flags, name, kind, packet[_HEADER.size : end], bool(additional), limit or _PLAIN_LIMIT)


def _name(packet: bytes, start: int) -> tuple[str, int]:
    labels = []
    at = start
    while size := packet[at]:
        label = packet[at + 1 : at + 1 + size]
        if size > 63 or len(label) < size or b"." in label:
            raise IndexError(at)
        labels.append(label.decode("ascii").lower())
        at += 1 + size
        if at - start >= _NAME_LIMIT:
            raise IndexError(at)
    return ".".join(labels), at + 1


def _limit(packet: bytes, at: int) -> int | None:
    """What the client's EDNS record says it can take; None if the record is another."""
    kind, size, _, _ = _RECORD.unpack_from(packet, at + 1)
    return min(max(size, _PLAIN_LIMIT), _EDNS_LIMIT) if packet[at] == 0 and kind == _OPT else None


def answer(question: Question, addresses: Iterable[Address], alias: str, *, stream: bool) -> bytes:
    """The answer with these addresses, under `alias` if it is not empty; cut and marked so if it is too large."""
    records = []
    owner = _ASKED_NAME
    if alias:
        target = b"".join(bytes((len(label),)) + label.encode() for label in alias.split(".")) + b"\0"
        records.append(_record(owner, _CNAME, target))
        at = _HEADER.size + len(question.section) + len(records[0]) - len(target)
        owner = struct.pack("!H", 0xC000 | at)
    records += [_record(owner, question.kind, address.packed) for address in addresses]
    packet = _reply(question, _AUTHORITATIVE, records)
    if len(packet) <= (_STREAM_LIMIT if stream else question.limit):
        return packet
    return _reply(question, _AUTHORITATIVE | _TRUNCATED, [])


def failure(packet: bytes) -> bytes:
    """SERVFAIL to any query: whoever should know could not be asked."""
    question = read(packet)
    if question is not None:
        return _reply(question, _SERVER_FAILURE, [])
    number, flags, *_ = _HEADER.unpack_from(packet)
    return _HEADER.pack(number, _RESPONSE | flags & (_OPCODE | _WISHED) | _SERVER_FAILURE, 0, 0, 0, 0)


def _record(owner: bytes, kind: int, data: bytes) -> bytes:
    return owner + _RECORD.pack(kind, _INTERNET, TTL, len(data)) + data


def _reply(question: Question, flags: int, records: list[bytes]) -> bytes:
    flags |= _RESPONSE | _AVAILABLE | question.flags & _WISHED
    options = [b"\0" + _RECORD.pack(_OPT, _EDNS_LIMIT, 0, 0)] if question.edns else []
    head = _HEADER.pack(question.number, flags, 1, len(records), 0, len(options))
    return b"".join((head, question.section, *records, *options))


def renumbered(packet: bytes, number: int) -> bytes:
    """The same packet under another number."""
    return struct.pack("!H", number) + packet[2:]


def answers(query: bytes, packet: bytes) -> bool:
    """Whether `packet` answers `query`: its number, and its question if it repeats it."""
    if len(packet) < _HEADER.size or not packet[2] & 0x80 or packet[:2] != query[:2]:
        return False
    asked = read(query)
    repeated = packet[4:6] == b"\0\1"
    if asked is None or not repeated:
        return True
    section = packet[_HEADER.size : _HEADER.size + len(asked.section)]
    return section.lower() == asked.section.lower()
