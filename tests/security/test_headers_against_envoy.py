"""Conditions on headers, asked of a real Envoy: those that are part of every request, and those that it joins."""

from __future__ import annotations

import pathlib
from typing import Any

import pytest

from tulle.security.decision import decide

from .conformance_rows import build_policies, build_request
from .test_against_envoy import _listener, _status, running_envoy

_DENIED, _PASSED = 403, 200


@pytest.mark.parametrize(
    ("key", "value", "row", "status"),
    [
        (":path", "/a?q=*", {"request": "GET /b/../a?q=./x", "headers": {}}, _DENIED),
        (":path", "/a", {"request": "GET /a?q", "headers": {}}, _PASSED),
        (":scheme", "http", {"request": "GET /", "headers": {}}, _DENIED),
        (":method", "GET", {"request": "GET /", "headers": {}}, _DENIED),
        ("host", "h", {"request": "GET / h", "headers": {}}, _DENIED),
        (
            "authorization",
            "Bearer *",
            {"request": "GET /", "headers": {"authorization": ["Basic eA==", "Bearer x"]}},
            _DENIED,
        ),
        (
            "authorization",
            "Bearer *",
            {"request": "GET /", "headers": {"authorization": ["Basic eA==", "Digest x"]}},
            _PASSED,
        ),
    ],
)
def test_envoy_and_the_engine_decide_alike(
    tmp_path: pathlib.Path, key: str, value: str, row: dict[str, Any], status: int
) -> None:
    rule = {"when": [{"key": f"request.headers[{key}]", "values": [value]}]}
    row = {"client": "a/x", **row}
    group = {"at": "waypoint", "policies": [{"spec": {"action": "DENY", "rules": [rule]}}], "rows": []}
    with running_envoy(tmp_path, [_listener(0, group, tmp_path)]):
        assert _status(tmp_path / "0.sock", row) == status
    policies = build_policies(group)
    assert decide(policies, build_request(group, row, policies)).allowed is (status == _PASSED)
