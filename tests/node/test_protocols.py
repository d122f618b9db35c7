"""Wire formats: the shim's socket, remote command channels, SPDY."""

import asyncio
import socket
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from aiohttp import WSMsgType
from hypothesis import given
from hypothesis import strategies as st

from tulle.cluster.node.runtime.records import Exit, Record, Status, status
from tulle.cluster.node.runtime.shim import protocol
from tulle.cluster.node.runtime.shim.client import ShimClient, ShimError
from tulle.cluster.node.server import channels, spdy
from tulle.cluster.node.server.tunnel import Tunnel


@given(st.lists(st.tuples(st.integers(0, 5), st.binary(max_size=50))), st.integers(1, 7))
def test_frames_survive_any_cut(frames: list[tuple[int, bytes]], size: int) -> None:
    stream = b"".join(protocol.frame(*frame) for frame in frames)
    buffer, found = bytearray(), []
    for start in range(0, len(stream), size):
        buffer += stream[start : start + size]
        found += protocol.parse_frames(buffer)
    assert found == frames
    assert not buffer


RECORD = Record("c1", "container", "u", "ns", "p", "c", 0)


@pytest.mark.parametrize("ended", [None, Exit(exit_code=137, finished_at=2.5, signal=9)])
def test_messages_survive_the_wire(ended: Exit | None) -> None:
    one = Status(RECORD, "exited" if ended else "running", 7, 1.5, ended)
    assert status(one.document()) == one
    assert protocol.parse_message(protocol.event_line(protocol.Event(one))) == protocol.Event(one)
    answer = protocol.Answer(3, "why", [one])
    assert protocol.parse_message(protocol.answer_line(answer)) == answer
    request = protocol.Request(id=1, op="attach", cid="c1", stdin=True)
    assert protocol.parse_request(protocol.request_line(request)) == request


async def test_a_shim_that_dies_with_a_request_unread_is_lost(tmp_path: Path) -> None:
    lost = asyncio.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "shim.sock"))
        listener.listen()
        client = ShimClient(tmp_path / "shim.sock", lambda _: None, lost.set)
        asked = asyncio.create_task(client.connect())
        connection, _ = await asyncio.to_thread(listener.accept)
        await asyncio.to_thread(connection.recv, 1, socket.MSG_PEEK)
        connection.close()
        async with asyncio.timeout(10):
            with pytest.raises(ShimError, match="the container shim ended"):
                await asked
            await lost.wait()
    await client.close()


def test_the_last_message_says_how_the_command_ended() -> None:
    def document(message: bytes) -> dict[str, object]:
        assert message[0] == channels.ERROR
        return msgspec.json.decode(message[1:], type=dict[str, object])

    assert document(channels.exit_code(0))["status"] == "Success"
    failed = document(channels.exit_code(56))
    assert (failed["reason"], failed["details"]) == (
        "NonZeroExitCode",
        {"causes": [{"reason": "ExitCode", "message": "56"}]},
    )
    assert document(channels.failure("why"))["message"] == "why"


@pytest.mark.parametrize(
    ("data", "size"),
    [(b'{"Width":80,"Height":24}', (24, 80)), (b"{}", None), (b"x", None), (b'{"Width":0,"Height":1}', None)],
)
def test_resize(data: bytes, size: tuple[int, int] | None) -> None:
    assert channels.size(data) == size


def test_the_dictionary_is_the_protocols() -> None:
    assert zlib.adler32(spdy.DICTIONARY) == spdy.DICTIONARY_CHECKSUM


class Client:
    """The client's half of the header compression."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=spdy.DICTIONARY)

    def syn_stream(self, stream: int, headers: dict[str, str]) -> bytes:
        block = struct.pack(">I", len(headers))
        for name, value in headers.items():
            block += struct.pack(">I", len(name)) + name.encode() + struct.pack(">I", len(value)) + value.encode()
        packed = self._deflate.compress(block) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        payload = struct.pack(">IIH", stream, 0, 0) + packed
        return struct.pack(">HHI", 0x8003, 1, len(payload)) + payload


_headers = st.dictionaries(st.text("abc", min_size=1, max_size=8), st.text("xyz", max_size=8), max_size=4)


@given(st.lists(st.one_of(_headers, st.binary(max_size=40)), max_size=8), st.integers(1, 64))
def test_spdy_frames_survive_any_cut(sent: list[dict[str, str] | bytes], size: int) -> None:
    client, framer = Client(), spdy.Framer()
    stream = b"".join(
        client.syn_stream(index, item) if isinstance(item, dict) else spdy.data_frame(index, item, fin=True)
        for index, item in enumerate(sent, 1)
    )
    found: list[spdy.Frame] = []
    for start in range(0, len(stream), size):
        found += framer.receive(stream[start : start + size])
    expected: list[spdy.Frame] = [
        spdy.Control("SYN_STREAM", index, headers=item) if isinstance(item, dict) else spdy.Data(index, item, True)
        for index, item in enumerate(sent, 1)
    ]
    assert found == expected


def test_control_frames() -> None:
    framer = spdy.Framer()
    stream = spdy.ping(7) + spdy.window_update(3, 99) + spdy.rst_stream(3, spdy.CANCEL) + spdy.goaway(3)
    kinds = [(f.kind, f.stream, f.value) for f in framer.receive(stream) if isinstance(f, spdy.Control)]
    assert kinds == [("PING", 0, 7), ("WINDOW_UPDATE", 3, 99), ("RST_STREAM", 3, spdy.CANCEL), ("GOAWAY", 3, 0)]


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">HHI", 0x8002, 6, 4) + bytes(4),
        struct.pack(">II", 1, spdy.MAX_FRAME + 1),
        struct.pack(">HHI", 0x8003, 1, 12) + struct.pack(">IIH", 1, 0, 0) + b"xx",
        struct.pack(">HHI", 0x8003, 6, 0),
    ],
)
def test_a_broken_peer_is_refused(data: bytes) -> None:
    with pytest.raises(spdy.SpdyError):
        list(spdy.Framer().receive(data))


class ForwardingClient:
    """kubectl's websocket: what it sends, and the frames that it gets."""

    def __init__(self, *sent: bytes) -> None:
        self._sent = [SimpleNamespace(type=WSMsgType.BINARY, data=data) for data in sent]
        self._framer = spdy.Framer()
        self.got: asyncio.Queue[spdy.Frame] = asyncio.Queue()

    async def __aiter__(self) -> AsyncIterator[object]:
        for message in self._sent:
            yield message
        await asyncio.Event().wait()

    async def send_bytes(self, data: bytes) -> None:
        for frame in self._framer.receive(data):
            self.got.put_nowait(frame)

    async def close(self) -> None: ...


async def test_a_connection_that_the_pod_resets_ends_at_the_client_too() -> None:
    client = Client()
    asked = [client.syn_stream(n, {"streamtype": kind, "port": "80"}) for n, kind in ((1, "error"), (3, "data"))]
    kubectl: Any = ForwardingClient(*asked)
    ours, pods = socket.socketpair()
    ours.setblocking(False)
    ours.send(b"unread, so that closing the other end is a reset")
    pods.close()

    async def connect(_port: int) -> socket.socket:
        return ours

    running = asyncio.create_task(Tunnel(kubectl, connect).run())
    async with asyncio.timeout(10):
        while (frame := await kubectl.got.get()) != spdy.Control("RST_STREAM", 3, value=spdy.CANCEL):
            assert isinstance(frame, spdy.Control) or frame.stream == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
