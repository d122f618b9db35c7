"""The packets, read by another library."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from dnslib import EDNS0, QTYPE, DNSRecord
from hypothesis import given, settings
from hypothesis import strategies as st

from tulle.ztunnel.dns import message
from tulle.ztunnel.policy.terms import Address

label = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,20}[A-Za-z0-9])?", fullmatch=True)
hostnames = st.lists(label, min_size=1, max_size=6).map(".".join)


def query(name: str, kind: str = "A", *, edns: int = 0, number: int = 77) -> bytes:
    record = DNSRecord.question(name, kind)
    record.header.id = number
    if edns:
        record.add_ar(EDNS0(udp_len=edns))
    return bytes(record.pack())


def read(packet: bytes) -> message.Question:
    found = message.read(packet)
    assert found is not None
    return found


@settings(max_examples=30, deadline=None)
@given(hostnames, st.sampled_from(["A", "AAAA", "SRV", "TXT"]), st.sampled_from([0, 400, 1000, 4096]))
def test_a_question_is_read_as_it_was_written(name: str, kind: str, edns: int) -> None:
    found = read(query(name, kind, edns=edns))
    assert (found.name, found.kind, found.number) == (name.lower(), getattr(QTYPE, kind), 77)
    assert found.limit == {0: 512, 400: 512, 1000: 1000, 4096: 1232}[edns]


def test_a_name_longer_than_names_may_be_is_the_resolvers_business() -> None:
    """Looking one up takes time that grows with the square of its length, in which nothing else is done."""

    def packet(labels: int) -> bytes:
        return query("x")[:12] + b"\1a" * labels + b"\0" + query("x")[-4:]

    assert read(packet(127)).name.count("a") == 127
    assert message.is_query(packet(128))
    assert message.read(packet(128)) is None
    assert message.read(packet(16_000)) is None


@settings(max_examples=30, deadline=None)
@given(hostnames, st.lists(st.ip_addresses(v=4), max_size=20), st.booleans(), st.sampled_from([0, 4096]))
def test_an_answer_is_understood(name: str, addresses: list[Address], stream: bool, edns: int) -> None:
    asked = f"{name}.shop.svc.cluster.local"
    packet = query(asked, edns=edns)
    answer = DNSRecord.parse(message.answer(read(packet), addresses, name.lower(), stream=stream))
    assert message.answers(packet, message.answer(read(packet), addresses, name.lower(), stream=stream))
    assert (answer.header.qr, answer.header.aa, answer.header.ra, answer.header.rd, answer.header.id) == (
        1,
        1,
        1,
        1,
        77,
    )
    assert str(answer.q.qname) == f"{asked}.", "in the letters of the question"
    assert bool(answer.ar) == bool(edns)
    if answer.header.tc:
        assert not stream
        assert not answer.rr
        return
    cname, *rest = answer.rr
    assert (str(cname.rname), str(cname.rdata)) == (f"{asked}.", f"{name.lower()}.")
    assert [(str(one.rname), str(one.rdata)) for one in rest] == [(f"{name.lower()}.", str(one)) for one in addresses]


def test_addresses_of_both_versions() -> None:
    four = DNSRecord.parse(message.answer(read(query("a.b")), [ip_address("10.0.0.1")], "", stream=False))
    six = DNSRecord.parse(message.answer(read(query("a.b", "AAAA")), [ip_address("fd00::1")], "", stream=False))
    assert [str(one.rdata) for one in four.rr] == ["10.0.0.1"]
    assert [str(one.rdata) for one in six.rr] == ["fd00::1"]
    assert four.rr[0].ttl == 30


def test_what_does_not_fit_is_cut_and_marked_so() -> None:
    many = [ip_address(f"10.0.{high}.{low}") for high in range(2) for low in range(40)]
    assert DNSRecord.parse(message.answer(read(query("a.b")), many, "", stream=False)).header.tc
    assert len(DNSRecord.parse(message.answer(read(query("a.b")), many, "", stream=True)).rr) == 80


def _changed(at: int, value: int) -> bytes:
    packet = bytearray(query("a.b"))
    packet[at] = value
    return bytes(packet)


@pytest.mark.parametrize(
    "packet",
    [
        _changed(2, 0x29),  # another operation than a query
        _changed(5, 2),  # two questions
        _changed(12, 0xC0),  # a name that points elsewhere
        _changed(12, 60),  # a name that ends beyond the packet
        _changed(13, 0x2E),  # a dot within a label
        _changed(13, 0xFF),  # no letter
        _changed(20, 3),  # another class than the internet
        query("a.b")[:-3],
        query("."),
    ],
)
def test_what_is_not_one_ordinary_question_is_left_to_the_resolver(packet: bytes) -> None:
    assert message.is_query(packet)
    assert message.read(packet) is None
    failed = message.failure(packet)
    assert failed[:2] == packet[:2]
    assert failed[3] & 15 == 2


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=80))
def test_no_bytes_can_do_harm(packet: bytes) -> None:
    if message.is_query(packet):
        message.read(packet)
        assert message.answers(packet, message.failure(packet))


@settings(max_examples=30, deadline=None)
@given(hostnames, hostnames)
def test_an_answer_belongs_to_one_question(one: str, other: str) -> None:
    packet = query(one)
    reply = DNSRecord.parse(packet).reply()
    assert message.answers(packet, bytes(reply.pack()))
    assert not message.answers(packet, packet), "a question is no answer"
    assert not message.answers(message.renumbered(packet, 78), bytes(reply.pack()))
    if one.lower() != other.lower():
        assert not message.answers(query(other), bytes(reply.pack()))


def test_a_failure_repeats_the_question() -> None:
    failed = DNSRecord.parse(message.failure(query("a.b")))
    assert (str(failed.q.qname), failed.header.rcode) == ("a.b.", 2)
