"""What is logged can be read by people, and by programs once it is configured."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest

from tulle.log import LEVELS, Log


def written(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_a_line_of_text_until_the_log_is_configured(capsys: pytest.CaptureFixture[str]) -> None:
    Log().warning("watch interrupted", resource="pods", tries=2)
    assert capsys.readouterr().out.split(" ", 1)[1] == "warning watch interrupted resource='pods' tries=2\n"


def test_an_event_is_an_object_with_its_fields_its_level_and_the_time() -> None:
    log, stream = Log(), io.StringIO()
    log.configure(stream=stream, time_key="time")
    log.info("two\nlines", pod="a/b", of={"what": object})
    (line,) = written(stream)
    at = line.pop("time")
    assert line == {"event": "two\nlines", "level": "info", "pod": "a/b", "of": {"what": "<class 'object'>"}}
    assert at.endswith("Z")
    assert "T" in at


def test_an_exception_is_told_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    log, stream = Log(), io.StringIO()
    try:
        raise ValueError("why")
    except ValueError as error:
        log.error("failed", exc_info=error)
        log.configure(stream=stream)
        log.error("failed", exc_info=error)
        log.error("nothing to tell", exc_info=None)
    text = capsys.readouterr().out
    first, second = written(stream)
    assert "error failed\nTraceback" in text
    assert first["exception"].endswith("ValueError: why")
    assert first["exception"] in text
    assert "exception" not in second


def test_what_is_below_the_level_is_left_out_and_the_rest_stays_as_it_was() -> None:
    log, stream = Log(), io.StringIO()
    log.configure(stream=stream)
    log.debug("told")
    log.set_level(logging.WARNING)
    log.info("not told")
    log.error("told")
    assert [(line["event"], line["level"]) for line in written(stream)] == [("told", "debug"), ("told", "error")]


def test_levels_have_the_numbers_of_the_standard_library() -> None:
    assert {name: logging.getLevelNamesMapping()[name.upper()] for name in LEVELS} == LEVELS
