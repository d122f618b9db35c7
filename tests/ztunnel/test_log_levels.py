"""What `/logging` takes and says, as tools for a stock node proxy use it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.cli.ztunnel_config import LEVELS, log_query
from tulle.ztunnel.loglevels import NUMBERS, SCOPES, LevelError, Levels, LogLevels


class Applied(list[str]):
    """All levels that were put in force."""

    async def apply(self, levels: Levels) -> None:
        self.append(str(levels))


async def changed(*changes: tuple[str, bool]) -> tuple[str, list[str]]:
    """The levels at the end, and all that were applied."""
    applied = Applied()
    levels = LogLevels(Levels("info", {"envoy": "error"}), applied.apply)
    for text, reset in changes:
        await levels.change(text, reset=reset)
    return str(levels.now), applied


@pytest.mark.parametrize(
    ("changes", "now"),
    [
        ([], "envoy=error,info"),
        ([("debug", False)], "envoy=error,debug"),
        ([("access=debug", False)], "access=debug,envoy=error,info"),
        ([("access=debug", False), ("warn", False)], "access=debug,envoy=error,warn"),
        ([("access=debug", False), ("", True)], "envoy=error,info"),
        ([("access=debug", False), ("access=off,warn", True)], "access=off,envoy=error,warn"),
        ([("ztunnel::proxy=trace", False)], "envoy=error,ztunnel=trace,info"),
        ([("warn", False), ("info", True)], "envoy=error,info"),
    ],
)
async def test_changes(changes: list[tuple[str, bool]], now: str) -> None:
    assert (await changed(*changes))[0] == now


@pytest.mark.parametrize(
    "text", ["loud", "access", "access=", "=debug", "other=debug", "debug,loud", "access:debug", ","]
)
async def test_what_is_refused_changes_nothing(text: str) -> None:
    applied = Applied()
    levels = LogLevels(Levels(), applied.apply)
    with pytest.raises(LevelError, match="accepted is"):
        await levels.change(text, reset=False)
    assert (str(levels.now), applied) == ("info", [])


async def test_every_change_is_applied() -> None:
    assert (await changed(("debug", False), ("", True)))[1] == ["envoy=error,debug", "envoy=error,info"]


@given(st.dictionaries(st.sampled_from(SCOPES), st.sampled_from(list(NUMBERS))), st.sampled_from(list(NUMBERS)))
def test_what_is_shown_can_be_set(scopes: dict[str, str], default: str) -> None:
    assert Levels().changed(str(Levels(default, scopes))) == Levels(default, scopes)


@pytest.mark.parametrize("level", LEVELS)
def test_the_command_sets_only_what_is_known(level: str) -> None:
    assert Levels().changed(log_query(level, False).removeprefix("?level=")).default in NUMBERS
