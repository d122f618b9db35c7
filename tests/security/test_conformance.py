"""The conformance table: every row of ``conformance/*.yaml``, decided, explained and held against both compiled forms."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

from tulle.security.decision import allows, decide

from .agreement import check
from .conformance_page import PAGE, render
from .conformance_rows import Group, Row, build_policies, build_request, sections
from .known_bypasses import KNOWN

TESTS = pathlib.Path(__file__).parent.parent


def _rows() -> Iterator[Any]:
    for section, _, groups in sections():
        for group in groups:
            for index, row in enumerate(group["rows"]):
                yield pytest.param(group, row, id=f"{section}: {group['name']} [{index + 1}]")


@pytest.mark.parametrize(("group", "row"), list(_rows()))
def test_row(group: Group, row: Row) -> None:
    policies = build_policies(group)
    request = build_request(group, row, policies)
    decision = decide(policies, request)
    assert decision.outcome.value == str(row["expect"]), decision.reason
    assert decision.allowed == (row["expect"] == "allowed") == allows(policies, request)
    if "because" in row:
        assert row["because"] in decision.reason
    if "by" in row:
        hop = decision.hops[-1]
        assert hop.decided_by is not None, hop.reason
        assert f"{hop.decided_by.name} {hop.field}" == row["by"]
    check(policies, request, decision)


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == render(), (
        "docs/security.md: write it anew with `python -m tests.security.conformance_page`"
    )


@pytest.mark.parametrize("bypass", KNOWN, ids=lambda bypass: bypass.name)
def test_known_bypasses_are_held(bypass: Any) -> None:
    """Each is held by rows or tests that exist, or there is a reason why it cannot arise."""
    names = [group["name"] for _, _, groups in sections() for group in groups]
    for part in bypass.rows:
        assert any(part in name for name in names), f"no group is named {part!r}"
    for where in bypass.tests:
        file, _, function = where.partition("::")
        path = TESTS / file
        if path.parent.is_dir():
            assert f"def {function}(" in path.read_text() if function else path.is_file(), where
    assert bool(bypass.rows or bypass.tests) != bool(bypass.absent)
