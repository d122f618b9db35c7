"""A supervised process that dies comes back; the pause grows; stopping goes in reverse order; nobody stays behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.cluster import supervisor
from tulle.cluster.supervisor import Backoff, ProcessSpec

PATIENCE = 60.0
CHILD = """
import signal, sys, time
log, name = open(sys.argv[1], "a", buffering=1), sys.argv[2]
def end(*_):
    print(name, "ended", file=log)
    sys.exit()
signal.signal(signal.SIGTERM, end)
print(name, "started", file=log)
while True:
    time.sleep(60)
"""


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def recorder(log: Path, name: str) -> ProcessSpec:
    return ProcessSpec(name, (sys.executable, "-c", CHILD, str(log), name), {})


@contextmanager
def supervised(state: Path, processes: Sequence[ProcessSpec]) -> Iterator[subprocess.Popen[bytes]]:
    supervisor.write(state, processes)
    process = subprocess.Popen(
        [sys.executable, "-m", "tulle.cluster.supervisor", "--state-dir", str(state)], stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        process.terminate()
        assert process.wait(PATIENCE) in (0, -signal.SIGKILL)


def events(log: Path) -> list[str]:
    return log.read_text().splitlines() if log.exists() else []


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    specs = (ProcessSpec("a", ("x", "y"), {"K": "v"}), ProcessSpec("b", ("z",), {}))
    supervisor.write(tmp_path, specs)
    assert supervisor.read(tmp_path) == specs


def test_a_process_that_dies_comes_back_and_the_others_stay(tmp_path: Path) -> None:
    log = tmp_path / "events"
    with supervised(tmp_path, [recorder(log, "one"), recorder(log, "two")]):
        until(lambda: len(events(log)) == 2, "both start")
        before = supervisor.pids(tmp_path)
        os.kill(before["one"], signal.SIGKILL)

        def back() -> bool:
            return supervisor.pids(tmp_path).get("one", before["one"]) != before["one"]

        until(back, "it is started again")
        until(lambda: events(log).count("one started") == 2, "it says so")
        after = supervisor.pids(tmp_path)
        assert after["two"] == before["two"]
        assert after["supervisor"] == before["supervisor"]
    assert supervisor.pids(tmp_path) == {}


def test_stopping_goes_in_reverse_order(tmp_path: Path) -> None:
    log = tmp_path / "events"
    names = ["control-plane", "node1", "node2"]
    with supervised(tmp_path, [recorder(log, name) for name in names]):
        until(lambda: len(events(log)) == 3, "all start")
        assert supervisor.running(tmp_path)
    assert events(log)[3:] == [f"{name} ended" for name in reversed(names)]
    assert not supervisor.running(tmp_path)


def test_children_end_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "events"
    with supervised(tmp_path, [recorder(log, "one")]) as process:
        until(lambda: len(events(log)) == 1, "it starts")
        child = supervisor.pids(tmp_path)["one"]
        process.kill()
        process.wait()
        until(lambda: not alive(child), "the child ends too")
    assert not supervisor.running(tmp_path)


def test_one_state_directory_has_one_supervisor(tmp_path: Path) -> None:
    log = tmp_path / "events"
    with supervised(tmp_path, [recorder(log, "one")]):
        until(lambda: len(events(log)) == 1, "it starts")
        second = subprocess.run(
            [sys.executable, "-m", "tulle.cluster.supervisor", "--state-dir", str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (second.returncode, "another supervisor is running" in second.stderr) == (3, True)
        assert events(log) == ["one started"]


def test_environment_and_output_of_a_process(tmp_path: Path) -> None:
    script = "import os, time; print(os.environ['WORD'], flush=True); time.sleep(60)"
    with supervised(tmp_path, [ProcessSpec("one", (sys.executable, "-c", script), {"WORD": "heard"})]):
        until(lambda: "heard" in events(tmp_path / "logs/one.log"), "its output is in its log")


def test_nothing_runs_where_nothing_was_started(tmp_path: Path) -> None:
    assert not supervisor.running(tmp_path)
    found: Mapping[str, int] = supervisor.pids(tmp_path)
    assert found == {}
    (tmp_path / supervisor.RECORD).write_text(json.dumps({"supervisor": 1}))
    assert not supervisor.running(tmp_path)


def test_the_pause_grows_and_starts_over_after_a_good_run() -> None:
    backoff = Backoff()
    assert [backoff.ended(0.1) for _ in range(7)] == [0.1, 0.5, 1.0, 2.0, 5.0, 5.0, 5.0]
    assert backoff.ended(31.0) == 0.1
    assert backoff.ended(0.1) == 0.5


@given(st.lists(st.floats(min_value=0, max_value=100)))
def test_the_pause_is_bounded_and_short_only_after_a_good_run(runs: list[float]) -> None:
    backoff, previous = Backoff(), 0.0
    for number, ran in enumerate(runs):
        pause = backoff.ended(ran)
        assert 0.1 <= pause <= 5.0
        if number and ran <= 30.0:
            assert pause >= previous
        previous = pause


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_either_signal_stops_it(tmp_path: Path, number: signal.Signals) -> None:
    log = tmp_path / "events"
    with supervised(tmp_path, [recorder(log, "one")]) as process:
        until(lambda: len(events(log)) == 1, "it starts")
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
    assert events(log) == ["one started", "one ended"]


def test_one_that_cannot_be_started_is_tried_again_and_the_others_run(tmp_path: Path) -> None:
    log, later = tmp_path / "events", tmp_path / "later"
    with supervised(tmp_path, [ProcessSpec("missing", (str(later),), {}), recorder(log, "one")]) as process:
        until(lambda: events(log) == ["one started"], "the other one starts")
        later.write_text(f"#!/bin/sh\necho later started >> {log}\nexec sleep 60\n")
        later.chmod(0o755)
        until(lambda: "later started" in events(log), "it is started once it can be")
        assert process.poll() is None
    assert events(log).count("one started") == 1


def test_a_full_disk_ends_nothing(tmp_path: Path) -> None:
    log = tmp_path / "events"
    (tmp_path / f"{supervisor.RECORD}.new").mkdir()  # what cannot be written, whatever the reason
    with supervised(tmp_path, [recorder(log, "one")]) as process:
        until(lambda: events(log) == ["one started"], "it starts")
        time.sleep(0.3)
        assert process.poll() is None
        (tmp_path / f"{supervisor.RECORD}.new").rmdir()
        until(
            lambda: supervisor.pids(tmp_path).get("supervisor") == process.pid, "the record is written once it can be"
        )
