"""Container logs: what is written is what is read, through rotation and from any point."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any, cast

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from tests.node.pods import pod
from tulle.cluster.node.pods import terminal_message
from tulle.cluster.node.pods.runs import Run
from tulle.cluster.node.runtime.shim.logfile import MAX_LINE, LogFile, timestamp
from tulle.cluster.node.server import logs
from tulle.cluster.node.server.logreader import Log, LogOptions

ALL = LogOptions()


def read(path: Path, options: LogOptions = ALL) -> bytes:
    with contextlib.closing(Log(path)) as log:
        return b"".join(log.history(options))


def test_times_have_nanoseconds() -> None:
    assert timestamp(1_700_000_000_000_000_007) == "2023-11-14T22:13:20.000000007Z"


_chunks = st.lists(st.one_of(st.binary(max_size=20), st.just(b"\n"), st.just(b"x" * (MAX_LINE + 3))), max_size=8)


@given(_chunks)
def test_output_comes_back_as_it_went_in(tmp_path_factory: pytest.TempPathFactory, chunks: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("log") / "0.log"
    log = LogFile(path)
    for chunk in chunks:
        log.write("stdout", chunk)
    log.close()
    assert read(path) == b"".join(chunks)


@given(st.lists(st.text("ab", min_size=1, max_size=4), max_size=12), st.integers(0, 6), st.booleans())
def test_the_tail_is_the_tail(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], count: int, small: bool
) -> None:
    path = tmp_path_factory.mktemp("log") / "0.log"
    log = LogFile(path, max_file=120 if small else 10_000, max_files=50)
    for line in lines:
        log.write("stdout", line.encode() + b"\n")
    log.close()
    expected = lines[-count:] if count else []
    assert read(path, LogOptions(tail=count)).decode().split() == expected


def test_a_carriage_return_ends_no_line(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "0.log")
    log.write("stdout", b"10% of it\r90% of it\rall of it done\n")
    log.close()
    assert read(tmp_path / "0.log", LogOptions(tail=1)) == b"10% of it\r90% of it\rall of it done\n"


def test_rotation_keeps_a_limited_number_of_files(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "0.log", max_file=200, max_files=3)
    for number in range(50):
        log.write("stderr", f"line {number}\n".encode())
    log.close()
    assert len(list(tmp_path.iterdir())) == 3
    assert read(tmp_path / "0.log").endswith(b"line 49\n")


@pytest.mark.parametrize("tail", [None, 5])
def test_what_is_written_meanwhile_is_left_to_those_who_follow(tmp_path: Path, tail: int | None) -> None:
    log = LogFile(tmp_path / "0.log")
    log.write("stdout", b"one\n")
    with contextlib.closing(Log(tmp_path / "0.log")) as opened:
        log.write("stdout", b"two\n")
        assert b"".join(opened.history(LogOptions(tail=tail))) == b"one\n"
        assert b"two\n" in next(opened.follow())
    log.close()


class Spun:
    """A log that rotates every few lines, each line a number, and what a reader has heard of it."""

    def __init__(self, directory: Path, max_files: int = 50) -> None:
        self.path = directory / "0.log"
        self.heard = b""
        self.full = False
        self.count = 0
        self._log = LogFile(self.path, max_file=200, max_files=max_files)

    def say(self, lines: int) -> None:
        for _ in range(lines):
            self._log.write("stdout", b"%d\n" % self.count)
            self.count += 1

    def close(self) -> None:
        self._log.close()

    async def write(self, data: bytes) -> None:
        self.heard += data

    @property
    def numbers(self) -> list[int]:
        return [int(word) for word in self.heard.split()]


@pytest.mark.parametrize("tail", [None, 3])
async def test_a_follower_hears_every_line_once_whenever_the_log_rotates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tail: int | None
) -> None:
    spun, run = Spun(tmp_path), Run("c", 0, "running", "cid")
    spun.say(3)
    newer, bursts = Log._newer, [4, 1, 20, 30]

    def after_a_burst(log: Log, file: Any) -> Any:
        if bursts:
            spun.say(bursts.pop())  # after the last read of the old file, before the look for a newer one
        return newer(log, file)

    monkeypatch.setattr(Log, "_newer", after_a_burst)
    monkeypatch.setattr(logs, "POLL", 0.01)
    options, writer = LogOptions(tail=tail), cast(Any, spun)
    with contextlib.closing(Log(spun.path)) as log:
        spun.say(7)
        await logs._history(log, options, writer)
        following = asyncio.create_task(logs._follow(log, options, run, writer))
        await asyncio.sleep(0.2)
        spun.say(9)
        spun.close()
        run.state = "exited"
        await following
    assert spun.numbers == list(range(spun.count))


def test_a_log_that_rotates_while_it_is_opened_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spun, opened = Spun(tmp_path), Path.open
    spun.say(12)

    def after_a_rotation(path: Path, *rest: Any) -> Any:
        if path.name == "0.log.1":
            spun.say(4)
        return opened(path, *rest)

    monkeypatch.setattr(Path, "open", after_a_rotation)
    spun.heard = read(spun.path)
    spun.close()
    assert spun.numbers == list(range(len(spun.numbers)))
    assert len(spun.numbers) >= 12


def test_a_reader_that_is_overtaken_goes_on_with_the_oldest_there_is(tmp_path: Path) -> None:
    spun = Spun(tmp_path, max_files=3)
    spun.say(2)
    with contextlib.closing(Log(spun.path)) as log:
        following = log.follow()
        assert next(following) == b""
        spun.say(60)
        heard = b"".join(iter(lambda: next(following), b""))
    spun.close()
    numbers = [int(line.split()[-1]) for line in heard.splitlines()]
    rest = numbers[next(i for i, n in enumerate(numbers) if i and n != numbers[i - 1] + 1) :]
    assert rest == list(range(rest[0], spun.count))


def test_streams_do_not_mix_their_lines(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "0.log")
    log.write("stdout", b"out ")
    log.write("stderr", b"err\n")
    log.write("stdout", b"put\n")
    log.close()
    assert read(tmp_path / "0.log") == b"err\nout put\n"


def test_times_can_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "0.log"
    path.write_bytes(b"2023-11-14T22:13:20.000000007Z stdout F old\n2023-11-14T22:13:30.000000000Z stdout F new\n")
    assert read(path, LogOptions(timestamps=True, tail=1)) == b"2023-11-14T22:13:30.000000000Z new\n"
    assert read(path, LogOptions(since=1_700_000_005.0)) == b"new\n"


def test_parameters() -> None:
    wanted = logs.options({"follow": "true", "tailLines": "3", "limitBytes": "9", "timestamps": "1"})
    assert (wanted.follow, wanted.tail, wanted.limit, wanted.timestamps, wanted.previous) == (True, 3, 9, True, False)
    with pytest.raises(web.HTTPBadRequest, match="Bad Request"):
        logs.options({"tailLines": "x"})


def test_last_words(tmp_path: Path) -> None:
    file, log = tmp_path / "words", tmp_path / "0.log"
    log.write_text("2023-11-14T22:13:20.000000007Z stdout F one\n2023-11-14T22:13:20.000000007Z stderr F two\n")
    plain = pod({"name": "c"}).spec.containers[0]
    fallback = pod({"name": "c", "terminationMessagePolicy": "FallbackToLogsOnError"}).spec.containers[0]
    assert terminal_message.read(plain, file, log, 1) == ""
    assert terminal_message.read(fallback, file, log, 0) == ""
    assert terminal_message.read(fallback, file, log, 1) == "one\ntwo\n"
    file.write_text("x" * 5000)
    assert terminal_message.read(fallback, file, log, 1) == "x" * 4096
