"""Comparing a table with the one that was recorded; set GOLDEN=1 to record anew, and read the difference."""

from __future__ import annotations

import os
from pathlib import Path

RECORDED = Path(__file__).parent / "recorded"


def read(name: str) -> bytes:
    return (RECORDED / name).read_bytes()


def matches(name: str, text: str) -> None:
    """The text is what was recorded under that name."""
    path = RECORDED / "expected" / f"{name}.txt"
    if os.environ.get("GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text + "\n")
    assert text + "\n" == path.read_text()
