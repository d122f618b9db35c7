"""What crossed a link: a small reader of pcap files, so that a test can speak of packets."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.mesh import NODE_NETNS

_SERVER_HELLO = 2
_SUPPORTED_VERSIONS = 43
TLS13 = 0x0304


@dataclass(frozen=True)
class Segment:
    """One TCP segment."""

    source: tuple[str, int]
    destination: tuple[str, int]
    payload: bytes


@contextlib.contextmanager
def capturing(link: str, file: Path, expression: str) -> Iterator[None]:
    """Record what passes a link of the node meanwhile."""
    command = [
        "ip",
        "netns",
        "exec",
        NODE_NETNS,
        "tcpdump",
        "-i",
        link,
        "-U",
        "--immediate-mode",
        "-s",
        "0",
        "-w",
        str(file),
        expression,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    while "listening on" not in process.stderr.readline():
        assert process.poll() is None
    try:
        yield
    finally:
        process.terminate()
        process.communicate(timeout=10)


def segments(file: Path) -> list[Segment]:
    """The TCP segments over IPv4 of a capture on an Ethernet link, in order."""
    data = file.read_bytes()
    found, at = [], 24
    while at < len(data):
        length = struct.unpack_from("<I", data, at + 8)[0]
        frame = data[at + 16 : at + 16 + length]
        at += 16 + length
        if frame[12:14] == b"\x08\x00" and frame[23] == socket.IPPROTO_TCP:
            found.append(_segment(frame[14:]))
    return found


def _segment(packet: bytes) -> Segment:
    head = (packet[0] & 0x0F) * 4
    total = struct.unpack_from("!H", packet, 2)[0]
    tcp = packet[head:total]
    ports = struct.unpack_from("!HH", tcp)
    source, destination = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
    return Segment((source, ports[0]), (destination, ports[1]), tcp[(tcp[12] >> 4) * 4 :])


def negotiated(payload: bytes) -> int | None:
    """The TLS version that a ServerHello at the start of a segment settles on; None if there is no ServerHello."""
    if len(payload) < 45 or payload[0] != 22 or payload[5] != _SERVER_HELLO:
        return None
    at = 43 + 1 + payload[43]  # record, handshake header, version, random, session id
    at += 3  # cipher suite, compression
    end = at + 2 + struct.unpack_from("!H", payload, at)[0]
    at += 2
    while at < end:
        kind, size = struct.unpack_from("!HH", payload, at)
        if kind == _SUPPORTED_VERSIONS:
            return int(struct.unpack_from("!H", payload, at + 4)[0])
        at += 4 + size
    return int(struct.unpack_from("!H", payload, 9)[0])
