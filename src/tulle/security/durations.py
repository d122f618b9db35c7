"""Durations as the API writes them ("5s", "1m30s", "250ms"), for the few fields that have one."""

from __future__ import annotations

import re

_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ms|us|µs|ns|h|m|s)")


def read_duration(text: str) -> float:
    """The duration in seconds. Raises ValueError for anything but a sequence of numbers with units."""
    total, at = 0.0, 0
    while at < len(text):
        part = _PART.match(text, at)
        if part is None:
            break
        total += float(part[1]) * _SECONDS[part[2]]
        at = part.end()
    if not text or at < len(text):
        raise ValueError(f"{text!r} is no duration: accepted are numbers with a unit, as in 5s, 1m30s or 250ms")
    return total
