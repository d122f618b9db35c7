"""Reading a container's log file back: from the end, from a time, with or without time stamps, through rotations."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

CHUNK = 64 * 1024
BLOCK = 256 * 1024


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


class Log:
    """A container's log, to be closed after use. Its files are held open: a rotation renames them under the reader, and takes
    the oldest away, but what was opened stays what it was. Raises FileNotFoundError if there is none.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files = [path.open("rb"), *_newest_first(path, 1)]
        self._ends = [os.fstat(file.fileno()).st_size for file in self._files]

    def close(self) -> None:
        for file in self._files:
            file.close()

    def history(self, options: LogOptions) -> Iterator[bytes]:
        """The lines that were there when it was opened, as the client gets them."""
        lines = self._all() if options.tail is None else self._tail(options.tail)
        return (text for line in lines if (text := render(line, options)))

    def _all(self) -> Iterator[bytes]:
        for file, end in reversed(self._once()):
            file.seek(0)
            left = end
            while left > 0 and (line := file.readline(left)):
                left -= len(line)
                yield line

    def _tail(self, count: int) -> Iterator[bytes]:
        """The last `count` lines, pieces of a line counted together; read from the end, so a long log costs nothing."""
        found: list[bytes] = []
        whole = 0
        for file, end in self._once() if count else ():
            for line in _backwards(file, end):
                if _whole(line):
                    if whole == count:
                        return reversed(found)
                    whole += 1
                elif not found:
                    whole += 1  # an unfinished line at the very end counts as one
                found.append(line)
        return reversed(found)

    def _once(self) -> list[tuple[BinaryIO, int]]:
        """Each file with its end, the newest first. A rotation while they were opened may have shown one of them twice."""
        ends: dict[int, tuple[BinaryIO, int]] = {}
        for file, end in zip(self._files, self._ends, strict=True):
            ends.setdefault(os.fstat(file.fileno()).st_ino, (file, end))
        return list(ends.values())

    def follow(self) -> Iterator[bytes]:
        """What was written after the history, piece by piece and across rotations; an empty piece when there is nothing now."""
        file, *older = self._files
        for one in older:  # the disk gets their room back only when nobody holds them
            one.close()
        self._files = [file]
        file.seek(self._ends[0])
        while True:
            if data := file.read(BLOCK):
                yield data
            elif (newer := self._newer(file)) is None:
                yield b""
            else:
                # Nothing more comes into the old one; what came between the last look and the rotation is still to be read.
                while data := file.read(BLOCK):
                    yield data
                file.close()
                file = self._files[0] = newer

    def _newer(self, file: BinaryIO) -> BinaryIO | None:
        """The file that was begun after this one, or the oldest if so many were that this one is gone; None if it is the newest."""
        newer = None
        for candidate in _newest_first(self._path):
            if os.path.samestat(os.fstat(candidate.fileno()), os.fstat(file.fileno())):
                candidate.close()
                break
            if newer is not None:
                newer.close()
            newer = candidate
        return newer


def _newest_first(path: Path, first: int = 0) -> Iterator[BinaryIO]:
    """The files of a log from the `first`, opened one after the other: in this order a rotation hides none of them."""
    for number in itertools.count(first):
        try:
            yield (path.with_name(f"{path.name}.{number}") if number else path).open("rb")
        except FileNotFoundError:
            return


def _whole(line: bytes) -> bool:
    return line.split(b" ", 3)[2:3] == [b"F"]


def _backwards(opened: BinaryIO, position: int) -> Iterator[bytes]:
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
