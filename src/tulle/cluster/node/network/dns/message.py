"""DNS packets: reading a question from bytes that anyone may have sent, and writing an answer that fits.

Pure. A packet that is not a question is dropped (never answered, so two servers cannot be made to talk to each other);
a damaged question is told FORMERR; what cannot fit a datagram is cut and marked, so that the client comes back over
TCP.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from dnslib import CLASS, CNAME, EDNS0, OPCODE, PTR, QTYPE, RCODE, RR, SOA, SRV, TXT, A, DNSError, DNSHeader, DNSRecord
from dnslib.buffer import BufferError as DnsBufferError
from dnslib.label import DNSLabelError

from tulle.cluster.node.network.dns.zone import TTL, Lookup, Record

MALFORMED = (DNSError, DnsBufferError, DNSLabelError, ValueError, IndexError, KeyError, TypeError, struct.error)
HEADER_BYTES = 12
PLAIN_UDP = 512
MAX_UDP = 1232  # fits an IPv6-minimum MTU unfragmented, whatever the client says it can take
MAX_TCP = 65535


@dataclass(frozen=True)
class Question:
    """One well-formed question. ``limit`` is the largest answer in bytes that the client takes over UDP."""

    record: DNSRecord
    name: str
    kind: str
    limit: int


def read(packet: bytes) -> Question | bytes | None:
    """A question; or the bytes of a refusal to send back; or None for what must not be answered."""
    if len(packet) < HEADER_BYTES or packet[2] & 0x80:
        return None
    try:
        record = DNSRecord.parse(packet)
        if record.header.opcode != OPCODE.QUERY:
            return _refusal(packet, RCODE.NOTIMP)
        if len(record.questions) != 1:
            return _refusal(packet, RCODE.FORMERR)
        if record.q.qclass != CLASS.IN:
            return _refusal(packet, RCODE.REFUSED)
        options = [rr for rr in record.ar if rr.rtype == QTYPE.OPT]
        if len(options) > 1:
            return _refusal(packet, RCODE.FORMERR)
        limit = min(max(options[0].rclass, PLAIN_UDP), MAX_UDP) if options else PLAIN_UDP
        return Question(record, str(record.q.qname).rstrip("."), _type_name(record.q.qtype), limit)
    except MALFORMED:
        return _refusal(packet, RCODE.FORMERR)


def write(question: Question, found: Lookup, domain: str, *, limit: int = MAX_TCP) -> bytes:
    """The authoritative answer from the cluster's zone, at most ``limit`` bytes (cut and marked TC otherwise)."""
    reply = _reply(question, authoritative=True)
    if not found.exists:
        reply.header.rcode = RCODE.NXDOMAIN
    for record in found.records:
        reply.add_answer(_resource(record, question))
    if not found.records:
        reply.add_auth(RR(domain, QTYPE.SOA, rdata=_soa(domain), ttl=TTL))
    for record in found.additional:
        reply.add_ar(_resource(record, question))
    return _fit(reply, question, limit)


def extend(question: Question, alias: Record, answers: Sequence[RR], rcode: int, *, limit: int = MAX_TCP) -> bytes:
    """An answer that begins with our CNAME and goes on with what its target has."""
    reply = _reply(question, authoritative=True)
    reply.header.rcode = rcode
    reply.add_answer(_resource(alias, question))
    for record in answers:
        reply.add_answer(record)
    return _fit(reply, question, limit)


def failure(question: Question) -> bytes:
    """SERVFAIL: nobody who should know the name could be asked."""
    reply = _reply(question, authoritative=False)
    reply.header.rcode = RCODE.SERVFAIL
    return bytes(reply.pack())


def resources(records: Sequence[Record], question: Question) -> list[RR]:
    return [_resource(record, question) for record in records]


def same_question(sent: DNSRecord, packet: bytes) -> DNSRecord | None:
    """The parsed answer, if it answers this very question; None for forged or damaged packets."""
    try:
        answer = DNSRecord.parse(packet)
        if not answer.header.qr or answer.header.id != sent.header.id or len(answer.questions) != 1:
            return None
        matches = answer.q.qname == sent.q.qname and answer.q.qtype == sent.q.qtype
        return answer if matches else None
    except MALFORMED:
        return None


def query(name: str, kind: int, number: int) -> DNSRecord:
    """A recursive question for ``name`` with EDNS, to send upstream."""
    record = DNSRecord.question(name, QTYPE[kind])
    record.header.id = number
    record.header.rd = 1
    record.add_ar(EDNS0(udp_len=MAX_UDP))
    return record


def _reply(question: Question, *, authoritative: bool) -> DNSRecord:
    asked = question.record
    header = DNSHeader(id=asked.header.id, qr=1, aa=int(authoritative), ra=1, rd=asked.header.rd)
    reply = DNSRecord(header, q=asked.q)
    if any(rr.rtype == QTYPE.OPT for rr in asked.ar):
        reply.add_ar(EDNS0(udp_len=MAX_UDP))
    return reply


def _fit(reply: DNSRecord, question: Question, limit: int) -> bytes:
    packed = bytes(reply.pack())
    if len(packed) <= limit:
        return packed
    cut = _reply(question, authoritative=bool(reply.header.aa))
    cut.header.tc, cut.header.rcode = 1, reply.header.rcode
    return bytes(cut.pack())


def _resource(record: Record, question: Question) -> RR:
    # Answer in the letters of the question: some resolvers vary them to notice forged answers.
    name = question.record.q.qname if record.name == question.name.lower() else record.name
    if isinstance(record.data, tuple):
        return RR(name, QTYPE.SRV, rdata=SRV(*record.data), ttl=record.ttl)
    make = {"A": A, "CNAME": CNAME, "PTR": PTR, "TXT": TXT}[record.type]
    return RR(name, getattr(QTYPE, record.type), rdata=make(record.data), ttl=record.ttl)


def _soa(domain: str) -> SOA:
    return SOA(f"ns.dns.{domain}", f"hostmaster.{domain}", (1, 7200, 1800, 86400, TTL))


def _type_name(number: int) -> str:
    name = QTYPE.forward.get(number)
    return str(name) if name else f"TYPE{number}"


def _refusal(packet: bytes, rcode: int) -> bytes:
    """Header only, so that it cannot fail on whatever made the question unreadable."""
    opcode_and_rd = packet[2] & 0x79
    return packet[:2] + bytes((0x80 | opcode_and_rd, rcode)) + bytes(8)
