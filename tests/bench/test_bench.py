"""The benchmarks' own machinery: what programs print is read rightly, pages are rewritten, and the quick forms run."""

from __future__ import annotations

import json
import os
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import (
    certificates,
    curves_report,
    dataplane,
    dataplane_report,
    envoy_config,
    load,
    processes,
    quick,
    report,
    soak_report,
    steady,
    topology,
)

WRK = """Running 2s test @ http://10.96.0.1:8080/ok
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   310.11us  402.21us  11.63ms   93.21%
    Req/Sec   102.13k     9.50k  117.60k    75.00%
  Latency Distribution
     50%  211.00us
     75%  340.00us
     90%    0.61ms
     99%    1.90ms
  203345 requests in 2.01s, 15.90MB read
{errors}Requests/sec: 101166.67
Transfer/sec:      7.91MB
"""
H2LOAD = """finished in 1.00s, 192624.00 req/s, 7.35MB/s
requests: 192624 total, 192688 started, 192624 done, {ok} succeeded, {bad} failed, 0 errored, 0 timeout
"""


def test_wrk_is_read() -> None:
    found = load.parse_wrk(WRK.format(errors=""))
    assert (found.done, round(found.rate), found.p50, found.p99) == (203345, 101167, 0.211, 1.9)
    ends = "  Socket errors: connect 0, read 203345, write 0, timeout 0\n"
    assert load.parse_wrk(WRK.format(errors=ends)).done == 203345


@pytest.mark.parametrize(
    "errors",
    [
        "  Socket errors: connect 7, read 0, write 0, timeout 0\n",
        "  Non-2xx or 3xx responses: 12\n",
        "  Socket errors: connect 0, read 3, write 0, timeout 0\n  Non-2xx or 3xx responses: 12\n",
    ],
)
def test_a_path_that_refuses_is_no_measurement(errors: str) -> None:
    with pytest.raises(load.LoadError, match=r"connect 7|Non-2xx"):
        load.parse_wrk(WRK.format(errors=errors))
    with pytest.raises(load.LoadError, match="unable to connect"):
        load.parse_wrk("unable to connect to 10.96.0.1:8080 Connection refused")


def test_h2load_is_read() -> None:
    found = load.parse_h2load(H2LOAD.format(ok=192624, bad=0))
    assert (found.done, found.rate) == (192624, 192624.0)
    for ok, bad in ((100, 1), (0, 0)):
        with pytest.raises(load.LoadError):
            load.parse_h2load(H2LOAD.format(ok=ok, bad=bad))


def test_iperf3_is_read() -> None:
    done = {"end": {"sum_received": {"bytes": 1000, "bits_per_second": 8000.0}}}
    assert load.parse_iperf(json.dumps(done)).rate == 8000.0
    with pytest.raises(load.LoadError, match="unable to connect"):
        load.parse_iperf('{"error": "unable to connect to server"}')


def test_a_region_of_the_page_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench a -->\nold\n<!-- /bench a -->\nbetween\n<!-- bench b --><!-- /bench b -->\n")
    report.write("a", "new", page)
    text = page.read_text()
    assert text.startswith("before\n<!-- bench a -->\nnew\n")
    assert text.endswith("<!-- /bench a -->\nbetween\n<!-- bench b --><!-- /bench b -->\n")
    assert "old" not in text
    with pytest.raises(report.NoRegionError, match="no region c"):
        report.write("c", "new", page)


def test_every_bench_has_its_region() -> None:
    text = report.PAGE.read_text()
    makefile = (report.ROOT / "Makefile").read_text()
    parts = next(line for line in makefile.splitlines() if line.startswith("BENCH :=")).split()[2:]
    for part in parts:
        assert (report.ROOT / "bench" / f"{part}.py").exists()
        assert f"<!-- bench {part} -->" in text


@given(st.lists(st.floats(min_value=0, max_value=1e6), min_size=1), st.floats(min_value=0, max_value=1))
def test_a_percentile_is_one_of_the_values_and_not_below_its_share(values: list[float], share: float) -> None:
    found = report.percentile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values)


def test_results_are_kept_with_their_machine(tmp_path: Path) -> None:
    assert report.load("x", tmp_path) is None
    report.save("x", {"rate": 1}, tmp_path)
    kept = report.load("x", tmp_path)
    assert kept is not None
    assert kept["rate"] == 1
    assert kept["machine"]["cores"] == os.cpu_count()


def test_tables_of_the_data_plane() -> None:
    row = {"rate": 100.0, "p50": 1.0, "p99": 2.0, "done": 100, "cpu_us": {"client": 1.0, "ztunnel": 4.0}}
    half = {**row, "rate": 50.0}
    paths = {
        name: {"about": name, **{m: [rate] * 3 for m in dataplane.MEASURES}}
        for name, rate in (("direct", row), ("direct2", row), ("l4", half), ("l4-2", half))
    }
    text = dataplane_report.tables({"paths": paths, "memory": {"idle": {"ztunnel": 1e6}, "loaded": {"ztunnel": 2e6}}})
    assert "| l4 | 50 (0.50) | 1.00 / 2.00 |" in text
    assert "| ztunnel | 1 | 2 |" in text


def test_what_a_process_costs_is_read() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time\nprint(flush=True)\ntime.sleep(60)"], stdout=-1)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        (found,) = [p for p in processes.descendants(os.getpid()) if p.pid == child.pid]
        assert found.parent == os.getpid()
        assert processes.cpu_seconds((child.pid,)) >= 0
        memory = processes.memory(child.pid)
        assert memory is not None
        assert 0 < memory.uss <= memory.pss <= memory.rss
        assert processes.started(child.pid) <= time.clock_gettime(time.CLOCK_BOOTTIME)
    finally:
        child.kill()
        child.communicate()
    assert processes.memory(child.pid) is None
    assert processes.cpu_seconds((child.pid,)) == 0


class OneAnswer(socketserver.StreamRequestHandler):
    """Answers two requests on a connection and ends the third without an answer."""

    def handle(self) -> None:
        for status in (b"200 OK", b"503 Service Unavailable"):
            while self.rfile.readline() not in {b"\r\n", b""}:
                pass
            body = b"Hello version: v1, instance: pod-1"
            self.wfile.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


async def test_a_steady_load_counts_what_failed_and_on_whose_connection(capsys: pytest.CaptureFixture[str]) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), OneAnswer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            load = steady.Load("127.0.0.1", server.server_address[1], "/", rate=100, clients=1, requests=50)
            await load.run(0.055)
        finally:
            server.shutdown()
            thread.join()
    totals = load.totals.document(1.0)
    assert (totals["done"], totals["connections"]) == (3, 3)
    failures = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [failure["pod"] for failure in failures] == ["pod-1"] * 3
    assert failures[0]["how"].startswith("503 ")
    assert sum(count for _, count in totals["latencies"]) == 3


def test_a_slope_is_that_of_the_line_with_its_error() -> None:
    assert soak_report.slope([(0, 1), (1, 3), (2, 5), (3, 7)]) == (2, 0)
    found, error = soak_report.slope([(0, 0), (1, 1), (2, 0), (3, 1)])
    assert (round(found, 6), round(error, 4)) == (0.2, 0.2828)
    assert soak_report.percentiles([(1, 98), (5, 1), (70, 1)]) == [0.1, 0.1, 0.5, 7.0, 7.0]


def _grown(process: Mapping[str, float], samples: int) -> Mapping[str, float]:
    """What a process is that jumps by 5 MB while it warms up, and gains 20 KB in each sample after that."""
    warm = 2
    return {**process, "given_out": 5e6, "rss": process["rss"] - (5e6 if samples < warm else -20e3 * (samples - warm))}


def test_a_failure_counts_unless_its_connection_was_to_a_deleted_pod() -> None:
    failures = [{"at": at, "pod": pod, "how": "503"} for at, pod in ((5, "a"), (15, "a"), (15, "b"), (15, ""))]
    found = {"done": 10, "seconds": 20, "connections": 3, "failures": failures, "latencies": [(10, 10)]}
    process = {"rss": 1e7, "uss": 1e7, "files": 7}
    samples = [
        {"at": 5.0 * n, "processes": {"istiod 7": process, f"sample server {n}": process, "leak 8": _grown(process, n)}}
        for n in range(6)
    ]
    result = {
        "seconds": 20,
        "warm_up": 10,
        "most": {"x": 1.0},
        "paths": {"x": found},
        "deleted": {"a": 10},
        "skipped": 1,
        "samples": samples,
    }
    summary = soak_report.summary(result, {"x": "a path"})
    assert summary["paths"]["a path"]["failed"] == {"503": 3}
    assert list(summary["processes"]) == ["istiod 7", "leak 8"]
    text = soak_report.tables(summary)
    assert "| a path | 1 | 0 | 10 | 1 | 3 503 |" in text
    assert "| istiod | 10.0 | 10.0 | +0.0 ± 0.0 | +0.00% | no |  | +0.00 |" in text
    assert "| leak | 10.0 | 10.1 | +240.0 ± 0.0 | +0.60% | yes | +0.0 ± 0.0 | +0.00 |" in text


def test_what_is_new_in_a_dump_of_envoy_is_found() -> None:
    old, new = ({"last_updated": f"2026-01-01T00:00:{second}.000Z", "name": second} for second in ("01", "09"))
    listeners = [{"active_state": old}, {"active_state": new}, {"draining_state": new}]
    dump = {"configs": [{"dynamic_listeners": listeners}, {"dynamic_route_configs": [old]}, {"bootstrap": {}}]}
    assert envoy_config.sizes(dump)["listeners"] == 2
    since = datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC).timestamp()
    assert envoy_config.renewed(dump, since)["resources"] == 1


def test_cost_curves_say_what_one_more_adds() -> None:
    def step(number: int) -> dict[str, Any]:
        change = {"ms": [1.0, 3.0], "cpu_ms": {"istiod": 2.0}, "renewed": {"resources": 5, "bytes": 26000}}
        memory = {"istiod": {"rss": 90e6, "pss": 50e6 + number * 2e3}}
        config = {"listeners": 3 * number, "bytes": 1000 * number, "listener_bytes": 1}
        changes = dict.fromkeys(("pod", "policy", "label"), change)
        return {"number": number, "memory": memory, "config": config, "load": 1.0, **changes}

    text = curves_report.tables({"pods": [step(5), step(15)], "spread": [], "stacked": []})
    assert "| 5 to 15 | 1.00 | 2.0 |" in text
    assert "| one more pod | 15 | 2 / 3 | 5 (26.0) | 2.0 |" in text


def test_another_ztunnel_must_be_a_program(tmp_path: Path) -> None:
    file = tmp_path / "ztunnel"
    with pytest.raises(SystemExit, match="not an executable file"):
        dataplane.check_program(file)
    file.write_text("#!/bin/sh\n")
    with pytest.raises(SystemExit, match="not an executable file"):
        dataplane.check_program(file)
    file.chmod(0o755)
    assert dataplane.check_program(file) == file


def test_the_tunnels_certificates_verify_each_other(tmp_path: Path) -> None:
    topology.certificates(tmp_path)
    verified = subprocess.run(
        ["openssl", "verify", "-CAfile", str(tmp_path / "ca.pem"), str(tmp_path / "peer.pem")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stderr


def test_certificates_are_issued(tmp_path: Path) -> None:
    assert certificates.measure(3, tmp_path)["alone"] > 0


def test_the_quick_form_leaves_out_what_the_machine_has_no_programs_for() -> None:
    assert not quick.left_out(lambda name: f"/usr/bin/{name}")
    assert quick.left_out(lambda name: None if name == "wrk" else name)["dataplane"].startswith("wrk not found")


def test_the_quick_form_has_every_part_of_the_suite() -> None:
    makefile = (report.ROOT / "Makefile").read_text()
    parts = next(line for line in makefile.splitlines() if line.startswith("BENCH :=")).split()[2:]
    # Policy is measured on the data plane's paths.
    assert {*quick.ON_A_MESH, *quick.ALONE, "policy"} == set(parts)


@pytest.mark.parametrize("module", ["api", "controlplane"])
def test_the_quick_form_runs_and_leaves_the_page_alone(module: str) -> None:
    before = report.PAGE.read_text()
    done = subprocess.run(
        [sys.executable, "-m", "bench.quick", module],
        cwd=report.ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| ---: |" in done.stdout or "---: | ---:" in done.stdout
    assert report.PAGE.read_text() == before
