"""The programs that load a path, and what they say: wrk (HTTP/1), h2load (HTTP/2), iperf3 (bytes)."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}
_GRACE = 30.0


class LoadError(Exception):
    """A program did not measure what it should; the message has its output."""


@dataclass(frozen=True)
class Load:
    """What one run measured. `done`: requests, connections or bytes; `rate`: of them per second; latencies in ms."""

    done: float
    rate: float
    p50: float = 0.0
    p99: float = 0.0


Wrap = Callable[..., list[str]]
"""Turns a command into one that runs where the client is."""


def requests(where: Wrap, url: str, seconds: float, connections: int = 32) -> Load:
    """Requests on kept connections. Raises LoadError, also when a request failed."""
    return parse_wrk(_wrk(where, url, seconds, connections))


def connections(where: Wrap, url: str, seconds: float, connections: int = 32) -> Load:
    """Requests that each take a connection of their own. Raises LoadError."""
    return parse_wrk(_wrk(where, url, seconds, connections, "-H", "Connection: close"))


def http2(where: Wrap, url: str, seconds: float, connections: int = 4, streams: int = 16) -> Load:
    """Requests over HTTP/2 with prior knowledge, several streams to a connection. Raises LoadError."""
    duration = max(1, round(seconds))
    return parse_h2load(_run(where("h2load", "-D", str(duration), "-c", str(connections), "-m", str(streams), url)))


def transfer(where: Wrap, address: str, port: int, seconds: float) -> Load:
    """Bytes in one direction on one connection. Raises LoadError."""
    out = _run(where("iperf3", "-c", address, "-p", str(port), "-t", str(max(1, round(seconds))), "-J"))
    return parse_iperf(out)


def _wrk(where: Wrap, url: str, seconds: float, connections: int, *more: str) -> str:
    duration = max(1, round(seconds))
    return _run(where("wrk", "-t1", f"-c{connections}", f"-d{duration}s", "--latency", *more, url))


def parse_wrk(out: str) -> Load:
    """Raises LoadError when requests failed or the output is something else."""
    # A server that closes each connection shows as read errors; a broken path as connect errors, and a refusal as a status.
    failed = re.search(r"Non-2xx or 3xx responses: \d+", out) or re.search(r"connect [1-9]\d*", out)
    total = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)", out)
    latencies = {share: _milliseconds(out, rf"\s{share}%\s+") for share in (50, 99)}
    if total is None or failed:
        raise LoadError(f"wrk: {failed[0] if failed else out.strip()}")
    seconds = float(total[2]) * _UNITS[total[3]] / 1e3
    return Load(int(total[1]), int(total[1]) / seconds, latencies[50], latencies[99])


def _milliseconds(out: str, label: str) -> float:
    found = re.search(rf"{label}([\d.]+)(us|ms|s|m)\b", out)
    return float(found[1]) * _UNITS[found[2]] if found else 0.0


def parse_h2load(out: str) -> Load:
    """Raises LoadError when requests failed or the output is something else."""
    rate = re.search(r"finished in [\d.]+m?s, ([\d.]+) req/s", out)
    counts = re.search(r"(\d+) succeeded, (\d+) failed", out)
    if rate is None or counts is None or int(counts[2]) > 0 or int(counts[1]) == 0:
        raise LoadError(f"h2load: {out.strip()}")
    return Load(int(counts[1]), float(rate[1]))


def parse_iperf(out: str) -> Load:
    """Raises LoadError when nothing was carried."""
    document = json.loads(out)
    if "error" in document:
        raise LoadError(f"iperf3: {document['error']}")
    received = document["end"]["sum_received"]
    return Load(received["bytes"], received["bits_per_second"])


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_GRACE + 60)
    if done.returncode and not done.stdout:
        raise LoadError(f"`{' '.join(command)}` ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout
