"""Reading a container's log file back: from the end, from a time, with or without time stamps (pure, over lines)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path

CHUNK = 64 * 1024


@dataclass(frozen=True)
class LogOptions:
    """`tail` is a number of lines or None, `since` seconds since 1970 or None, `limit` bytes or None."""

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail: int | None = None
    since: float | None = None
    limit: int | None = None


def render(line: bytes, options: LogOptions) -> bytes:
    """One line of the file as the client gets it; nothing if it is too old. A piece of a line gets no newline."""
    stamp, _, rest = line.partition(b" ")
    _, _, rest = rest.partition(b" ")
    tag, _, text = rest.partition(b" ")
    if options.since is not None and _moment(stamp) < options.since:
        return b""
    text = text.removesuffix(b"\n")
    ending = b"" if tag == b"P" else b"\n"
    return (stamp + b" " if options.timestamps else b"") + text + ending


def _moment(stamp: bytes) -> float:
    """The time of a log line; Python knows microseconds only, so the last three digits go."""
    text = stamp.decode("ascii", "replace")
    try:
        return datetime.fromisoformat(text[:26] + "+00:00").timestamp()
    except ValueError:
        return 0.0


def files(path: Path) -> list[Path]:
    """The rotated files of a log, oldest first, the current one last."""
    rotated = sorted(path.parent.glob(f"{path.name}.*"), key=lambda p: int(p.suffix[1:]), reverse=True)
    return [*(p for p in rotated if p.suffix[1:].isdigit()), path]


def history(path: Path, options: LogOptions) -> tuple[Iterator[bytes], int]:
    """The lines that are there, as the client gets them, and the offset in the current file where they end."""
    end = path.stat().st_size
    lines = _tail(path, options.tail, end) if options.tail is not None else _all(path, end)
    return (text for line in lines if (text := render(line, options))), end


def _all(path: Path, end: int) -> Iterator[bytes]:
    """All lines; of the current file up to `end` only, for what is written meanwhile comes to those who follow it."""
    for file in files(path):
        left = end if file == path else file.stat().st_size
        with file.open("rb") as opened:
            while left > 0 and (line := opened.readline(left)):
                left -= len(line)
                yield line


def _tail(path: Path, count: int, end: int) -> Iterator[bytes]:
    """The last `count` lines, pieces of a line counted together; read from the end, so a long log costs nothing."""
    if count == 0:
        return iter(())
    found: list[bytes] = []
    whole = 0
    for file in reversed(files(path)):
        for line in _backwards(file, end if file == path else file.stat().st_size):
            if _whole(line):
                if whole == count:
                    return iter(reversed(found))
                whole += 1
            elif not found:
                whole += 1  # an unfinished line at the very end counts as one
            found.append(line)
    return iter(reversed(found))


def _whole(line: bytes) -> bool:
    return line.split(b" ", 3)[2:3] == [b"F"]


def _backwards(file: Path, position: int) -> Iterator[bytes]:
    with file.open("rb") as opened:
        rest = b""
        while position > 0:
            size = min(CHUNK, position)
            position -= size
            opened.seek(position)
            block = opened.read(size) + rest
            first, *lines = BytesIO(block)  # a carriage return is text, which `splitlines` would not have it be
            rest = first
            yield from reversed(lines)
        if rest:
            yield rest
