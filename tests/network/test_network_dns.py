"""The zone by the Kubernetes DNS specification, and the packets around it."""

import asyncio
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from dnslib import QTYPE, RCODE, RR, A, DNSHeader, DNSQuestion, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from network import objects as o
from tulle.cluster.node.network.catalogue import Catalogue
from tulle.cluster.node.network.dns.message import Question, read
from tulle.cluster.node.network.dns.server import DnsServer
from tulle.cluster.node.network.dns.upstream import Upstream, parse_resolv_conf
from tulle.cluster.node.network.dns.zone import Zone
from tulle.kube.informer import Change

D = "cluster.local"


@pytest.fixture
def zone() -> Zone:
    return make_zone()


def make_zone() -> Zone:
    catalogue = Catalogue()
    for service in (
        o.service("shop/web", "10.96.1.1", o.port(80)),
        o.service("shop/db", "None", o.port(5432, "sql")),
        o.service("shop/ext", "", type="ExternalName", external_name="API.example.org."),
        o.service("shop/alias", "", type="ExternalName", external_name=f"web.shop.svc.{D}"),
        o.service("shop/loop", "", type="ExternalName", external_name=f"loop.shop.svc.{D}"),
        o.service("shop/empty", "None", o.port(1)),
    ):
        key = (service.metadata.namespace, service.metadata.name)
        catalogue.service_changed(Change(key, None, service))
    for number, (ip, host) in enumerate((("10.244.0.5", "db-0"), ("10.244.1.6", ""))):
        part = o.slice_of("shop/db", [ip], 5432, "sql", hostname=host)
        catalogue.slice_changed(Change(("shop", f"db-{number}"), None, part))
    ranges = (IPv4Network("10.96.0.0/16"), IPv4Network("10.244.0.0/16"))
    return Zone(D, catalogue, frozenset({"shop", "quiet"}), ranges)


SVC = f"shop.svc.{D}"


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        (f"web.{SVC}", "A", ["10.96.1.1"]),
        (f"WEB.Shop.SVC.{D}", "A", ["10.96.1.1"]),
        (f"web.{SVC}", "AAAA", []),
        (f"web.{SVC}", "SRV", [(0, 100, 80, f"web.{SVC}")]),
        (f"_http._tcp.web.{SVC}", "SRV", [(0, 100, 80, f"web.{SVC}")]),
        (f"_http._tcp.web.{SVC}", "A", []),
        (f"_tcp.web.{SVC}", "A", []),
        (f"_http._udp.web.{SVC}", "SRV", None),
        (f"_nope._tcp.web.{SVC}", "SRV", None),
        (f"db.{SVC}", "A", ["10.244.0.5", "10.244.1.6"]),
        (f"db-0.db.{SVC}", "A", ["10.244.0.5"]),
        (f"10-244-1-6.db.{SVC}", "A", ["10.244.1.6"]),
        (f"10-244-0-5.db.{SVC}", "A", None),
        (f"db-1.db.{SVC}", "A", None),
        (f"x.web.{SVC}", "A", None),
        (f"_sql._tcp.db.{SVC}", "SRV", [(0, 50, 5432, f"db-0.db.{SVC}"), (0, 50, 5432, f"10-244-1-6.db.{SVC}")]),
        (f"empty.{SVC}", "A", []),
        (f"ext.{SVC}", "A", ["api.example.org"]),
        (f"ext.{SVC}", "CNAME", ["api.example.org"]),
        (f"x.ext.{SVC}", "A", None),
        (f"10-1-2-3.shop.pod.{D}", "A", ["10.1.2.3"]),
        (f"10-1-2-3.nowhere.pod.{D}", "A", None),
        (f"10-1-2.shop.pod.{D}", "A", None),
        (f"10-1-2-300.shop.pod.{D}", "A", None),
        (f"no.{SVC}", "A", None),
        (f"web.no.svc.{D}", "A", None),
        (SVC, "A", []),
        (f"quiet.svc.{D}", "A", []),
        (f"no.svc.{D}", "A", None),
        (f"svc.{D}", "A", []),
        (D, "A", []),
        (f"example.org.{D}", "A", None),
        (f"dns-version.{D}", "TXT", ["1.1.0"]),
        ("1.1.96.10.in-addr.arpa", "PTR", [f"web.{SVC}"]),
        ("5.0.244.10.in-addr.arpa", "PTR", [f"db-0.db.{SVC}"]),
        ("9.9.96.10.in-addr.arpa", "PTR", None),
    ],
)
def test_zone(zone: Zone, name: str, kind: str, expected: list[object] | None) -> None:
    found = zone.lookup(name, kind)
    assert found.ours
    assert ([r.data for r in found.records] if found.exists else None) == expected


@pytest.mark.parametrize(
    "name", ["example.org", "notcluster.local", "local", "", "8.8.8.8.in-addr.arpa", "x.in-addr.arpa"]
)
def test_the_outside(zone: Zone, name: str) -> None:
    assert not zone.lookup(name, "A").ours


@given(st.lists(st.text(st.characters(codec="ascii"), max_size=6), max_size=7).map(".".join))
def test_any_name_below_the_domain_has_an_answer(prefix: str) -> None:
    found = make_zone().lookup(f"{prefix}.{D}", "A")
    assert found.ours
    assert found.exists or not found.records


def server(upstream: tuple[str, ...] = (), port: int = 53) -> DnsServer:
    return DnsServer(make_zone(), Upstream(upstream, port=port, timeout=0.5), "127.0.0.1", 0)


async def asked(name: str, kind: str = "A", *, udp: bool = True, of: DnsServer | None = None) -> DNSRecord:
    answer = await (of or server()).answer(bytes(DNSRecord.question(name, kind).pack()), udp=udp)
    assert answer is not None
    return DNSRecord.parse(answer)


async def test_answers_are_authoritative_and_negative_ones_carry_soa() -> None:
    found = await asked(f"Web.{SVC}")
    assert (found.header.aa, found.header.ra, found.header.rcode) == (1, 1, RCODE.NOERROR)
    assert str(found.rr[0].rname) == f"Web.{SVC}.", "in the letters of the question"
    assert 5 <= found.rr[0].ttl <= 30
    for name, kind, rcode in ((f"web.{SVC}", "AAAA", RCODE.NOERROR), (f"no.{SVC}", "A", RCODE.NXDOMAIN)):
        negative = await asked(name, kind)
        assert (negative.header.rcode, negative.rr, negative.auth[0].rtype) == (rcode, [], QTYPE.SOA)


async def test_srv_of_a_headless_service_brings_the_addresses() -> None:
    answer = await asked(f"_sql._tcp.db.{SVC}", "SRV")
    assert sorted(str(rr.rdata) for rr in answer.ar) == ["10.244.0.5", "10.244.1.6"]


async def test_what_does_not_fit_is_cut_and_comes_whole_over_tcp() -> None:
    big = server()
    part = o.slice_of("shop/empty", [f"10.244.9.{n}" for n in range(1, 100)], 1)
    big.zone.catalogue.slice_changed(Change(("shop", "empty-1"), None, part))
    cut = await asked(f"empty.{SVC}", of=big)
    assert (cut.header.tc, cut.rr) == (1, [])
    assert len((await asked(f"empty.{SVC}", udp=False, of=big)).rr) == 99


async def test_external_names_chain_and_never_loop() -> None:
    answer = await asked(f"alias.{SVC}")
    assert [(QTYPE[rr.rtype], str(rr.rdata)) for rr in answer.rr] == [("CNAME", f"web.{SVC}."), ("A", "10.96.1.1")]
    assert (await asked(f"loop.{SVC}")).header.rcode == RCODE.SERVFAIL
    assert (await asked(f"ext.{SVC}")).header.rcode == RCODE.SERVFAIL, "nobody to ask"


@pytest.mark.parametrize(
    ("packet", "rcode"),
    [
        (bytes(DNSRecord(DNSHeader(opcode=4), q=DNSQuestion("a.")).pack()), RCODE.NOTIMP),
        (bytes(DNSRecord(DNSHeader()).pack()), RCODE.FORMERR),
        (bytes(DNSRecord(DNSHeader(), q=DNSQuestion("a.", 1, 3)).pack()), RCODE.REFUSED),
        (b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x0c\x00\x01\x00\x01", RCODE.FORMERR),
        (b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x3f", RCODE.FORMERR),
    ],
)
async def test_damaged_questions_are_told_so(packet: bytes, rcode: int) -> None:
    answer = await server().answer(packet, udp=True)
    assert answer is not None
    assert (answer[:2], answer[3] & 0xF, answer[2] & 0x80) == (packet[:2], rcode, 0x80)


async def test_answers_and_scraps_are_never_answered() -> None:
    reply = bytes(DNSRecord(DNSHeader(qr=1), q=DNSQuestion("a.")).pack())
    for packet in (b"", b"\x00" * 11, reply):
        assert await server().answer(packet, udp=True) is None


@given(st.binary(max_size=80))
def test_any_bytes_are_read_without_a_crash(packet: bytes) -> None:
    assert isinstance(read(packet), Question | bytes | None)


@given(st.binary(min_size=4, max_size=60))
def test_any_question_body_is_read_without_a_crash(body: bytes) -> None:
    found = read(b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + body)
    if isinstance(found, Question):
        make_zone().lookup(found.name, found.kind)


class Resolver(asyncio.DatagramProtocol):
    """An upstream that sends a forged answer first, and the right one after it."""

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        question = DNSRecord.parse(data)
        for delta, address in ((1, "6.6.6.6"), (0, "192.0.2.80")):
            answer = question.reply()
            answer.header.id = (question.header.id + delta) % 65536
            answer.add_answer(RR(question.q.qname, QTYPE.A, rdata=A(address), ttl=60))
            self.transport.sendto(bytes(answer.pack()), addr)


async def test_outside_names_are_forwarded_and_forged_answers_ignored() -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Resolver, local_addr=("127.0.0.1", 0))
    port = transport.get_extra_info("sockname")[1]
    forwarding = DnsServer(
        make_zone(), Upstream(("127.0.0.1",), port=port, host_netns=_own_netns(), timeout=2.0), "127.0.0.1", 0
    )
    answer = await asked("example.org", of=forwarding)
    assert [str(rr.rdata) for rr in answer.rr] == ["192.0.2.80"]
    assert answer.header.aa == 0
    aliased = await asked(f"ext.{SVC}", of=forwarding)
    assert [str(rr.rdata) for rr in aliased.rr] == ["api.example.org.", "192.0.2.80"]
    transport.close()
    assert (await asked("example.org")).header.rcode == RCODE.SERVFAIL


def _own_netns() -> Path:
    return Path("/proc/self/ns/net")


def test_resolv_conf_is_read_as_the_c_library_does() -> None:
    text = (
        "# c\nnameserver 10.0.0.1\nnameserver fd00::1\nsearch a.example b.example.\n"
        "search last.example . # x\noptions ndots:2 edns0\nsortlist x\n"
    )
    got = parse_resolv_conf(text)
    assert (got.nameservers, got.search, got.options) == (("10.0.0.1",), ("last.example",), ("ndots:2", "edns0"))


async def test_a_record_that_cannot_be_written_is_an_answer_too(zone: Zone) -> None:
    part = o.slice_of("shop/empty", ["10.244.0.7"], 1, hostname="x" * 70)
    zone.catalogue.slice_changed(Change(("shop", "empty-1"), None, part))
    server = DnsServer(zone, Upstream(()), "127.0.0.1")
    question = DNSRecord.question(f"empty.{SVC}", "SRV")
    answer = await server.answer(bytes(question.pack()), udp=True)
    assert answer is not None
    assert DNSRecord.parse(answer).header.rcode == RCODE.SERVFAIL


@pytest.mark.parametrize("kind", [65, 262, 1000, 65535])
async def test_a_question_of_an_unknown_type_for_an_outside_name_is_answered(zone: Zone, kind: int) -> None:
    server = DnsServer(zone, Upstream(()), "127.0.0.1")
    question = DNSRecord(DNSHeader(id=7), q=DNSQuestion("example.org", kind))
    answer = await server.answer(bytes(question.pack()), udp=True)
    assert answer is not None
    assert DNSRecord.parse(answer).header.rcode == RCODE.SERVFAIL


@pytest.mark.parametrize("label", [b"\xff\xfe", b"a.b", b"a\\b", b"\0"])
async def test_a_question_for_an_odd_name_is_answered(zone: Zone, label: bytes) -> None:
    server = DnsServer(
        zone, Upstream(("127.0.0.1",), port=9, host_netns=Path("/proc/self/ns/net"), timeout=0.2), "127.0.0.1"
    )
    name = bytes([len(label)]) + label + b"\x07example\0"
    packet = bytes.fromhex("0007 0100 0001 0000 0000 0000") + name + bytes.fromhex("0001 0001")
    answer = await server.answer(packet, udp=True)
    assert answer is not None
