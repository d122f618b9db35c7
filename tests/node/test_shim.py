"""The shim keeps every container of the node: a full disk, a missing program or a noisy descendant must not end or hold it up."""

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import tulle
from tulle.cluster.node.runtime import cgroups, records
from tulle.cluster.node.runtime.records import Exit, Record, Status
from tulle.cluster.node.runtime.shim import protocol
from tulle.cluster.node.runtime.shim.client import ShimClient, ShimError
from tulle.cluster.node.runtime.shim.container import Container
from tulle.cluster.node.runtime.shim.logfile import LogFile
from tulle.cluster.node.runtime.shim.server import Shim
from tulle.cluster.node.server.logreader import Log, LogOptions

RECORD = Record("c1", "container", "u1", "ns", "p", "c", 0)


class Attached:
    """Somebody who is attached."""

    def __init__(self) -> None:
        self.heard = b""
        self.over = False

    def output(self, _stream: str, data: bytes) -> None:
        self.heard += data

    def finished(self) -> None:
        self.over = True


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(reading, False)
    yield reading, writing
    for fd in (reading, writing):
        try:
            os.close(fd)
        except OSError:
            continue


def full(directory: Path) -> Path:
    """A log on a disk that has no room."""
    path = directory / "0.log"
    path.symlink_to("/dev/full")
    return path


def test_output_that_finds_no_room_is_lost_and_nothing_else(tmp_path: Path, pipe: tuple[int, int]) -> None:
    container = Container(tmp_path, RECORD._replace(log_path=str(full(tmp_path))))
    container.outputs[pipe[0]] = "stdout"
    attached = Attached()
    container.attached.append(attached)
    os.write(pipe[1], b"one\n")
    assert container.read(pipe[0]) == 4
    container.ended(Exit(exit_code=0, finished_at=1.0))
    assert (attached.heard, attached.over) == (b"one\n", True)


def test_a_log_goes_on_when_there_is_room_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "0.log", os.write
    log = LogFile(path)
    log.write("stdout", b"before\n")

    def no_room(fd: int, data: bytes) -> int:
        if bytes(data).startswith(b"2"):
            return write(fd, data[:9])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", no_room)
    log.write("stdout", b"lost\n")
    monkeypatch.setattr(os, "write", write)
    log.write("stdout", b"after\n")
    log.close()
    with contextlib.closing(Log(path)) as opened:
        said = b"".join(opened.history(LogOptions())).decode().splitlines()
    assert (said[0], said[2]) == ("before", "after")
    assert "No space left on device" in said[1]
    assert len(said) == 3


def test_an_end_that_cannot_be_noted_is_reported_all_the_same(tmp_path: Path) -> None:
    container = Container(tmp_path / "gone", RECORD)
    container.ended(Exit(exit_code=3, finished_at=1.0))
    assert container.status().exit == Exit(exit_code=3, finished_at=1.0)


def test_a_descendant_that_goes_on_writing_holds_up_no_end(
    tmp_path: Path, pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[str] = []
    monkeypatch.setattr(cgroups, "kill", lambda path, *_: killed.append(path))
    (tmp_path / "c1").mkdir()
    shim = Shim(tmp_path / "s", tmp_path, tmp_path)
    log = str(tmp_path / "0.log")
    container = Container(tmp_path / "c1", RECORD._replace(cgroup="/kubepods/podu1/c1", log_path=log))
    container.outputs[pipe[0]] = "stdout"
    shim._by_pid[7] = container
    writer = subprocess.Popen(["yes"], stdout=pipe[1])
    ending = threading.Thread(target=shim._child_ended, args=(7, 0), daemon=True)
    ending.start()
    ending.join(10)
    over = not ending.is_alive()
    writer.kill()
    writer.wait()
    shim._listener.close()
    shim._selector.close()
    assert over
    assert killed == ["/kubepods/podu1/c1"]


async def test_a_request_that_cannot_be_served_is_answered_and_costs_no_container(tmp_path: Path) -> None:
    containers = tmp_path / "containers"
    (containers / "c1").mkdir(parents=True)
    files = [tmp_path / "shim.sock", containers, tmp_path / "crun", tmp_path / "shim.json"]
    command = [sys.executable, "-S", "-m", "tulle.cluster.node.runtime.shim", *map(str, files)]
    environment = {"PYTHONPATH": str(Path(tulle.__file__).parent.parent), "PATH": "/nowhere"}
    process = await asyncio.create_subprocess_exec(*command, env=environment)
    client = ShimClient(files[0], lambda _: None, lambda: None)
    try:
        async with asyncio.timeout(20):
            while not files[3].exists():
                await asyncio.sleep(0.01)
            await client.connect()
            records.write(containers / "c1", records.RECORD_FILE, RECORD)
            for _ in range(2):
                with pytest.raises(ShimError, match="crun is not in PATH"):
                    await client.call("create", "c1")
            assert await client.call("watch") == []
    finally:
        await client.close()
        process.kill()
        await process.wait()


async def test_news_that_nobody_can_digest_does_not_deafen_the_node(tmp_path: Path) -> None:
    lost, told = asyncio.Event(), []

    def digest(status: Status) -> None:
        told.append(status.record.cid)
        raise KeyError("a fault")

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(protocol.answer_line(protocol.Answer(1)))
        for cid in ("c1", "c2"):
            writer.write(protocol.event_line(protocol.Event(Status(RECORD._replace(cid=cid), "exited"))))
        writer.write(b"not a message\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, tmp_path / "shim.sock")
    client = ShimClient(tmp_path / "shim.sock", digest, lost.set)
    async with asyncio.timeout(10):
        await client.connect()
        await lost.wait()
    assert told == ["c1", "c2"]
    with pytest.raises(ShimError):
        await client.call("watch")
    await client.close()
    server.close()
