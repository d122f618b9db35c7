"""`istioctl x authz check` on worlds and on config dumps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tulle.cli.authz_check import Row, of_dump, of_pod
from tulle.cli.explain.documents import InputError
from tulle.cli.istioctl import app
from tulle.security.envoy_rbac import http_filters

from .scenes import TEST, rule, scene, selecting


def test_rules_that_ztunnel_drops_are_named() -> None:
    rows, remarks = of_pod(
        scene(selecting("mixed", rule(principals=[TEST]), rule(methods=["GET"]))), "hello", "helloworld-0"
    )
    assert rows == (Row("ALLOW", "mixed.hello", 1),)
    assert remarks == (
        "AuthorizationPolicy/hello/mixed: ztunnel cannot test methods: the rule is omitted, so the policy allows less",
    )


def test_a_deny_without_its_fields() -> None:
    world = scene(selecting("no", rule(principals=[TEST], methods=["GET"]), action="DENY"))
    rows, remarks = of_pod(world, "hello", "helloworld-0")
    assert rows == (Row("DENY", "no.hello", 1),)
    assert len(remarks) == 1
    assert "ztunnel cannot test methods: nothing testable is left" in remarks[0]


def test_a_config_dump(tmp_path: Path) -> None:
    world = scene(
        selecting("a", rule(principals=[TEST]), rule(methods=["GET"])),
        selecting("b", rule(principals=[TEST]), action="DENY"),
    )
    filters = http_filters(world.index.policies.values(), world.settings).named()
    dump = tmp_path / "dump.json"
    dump.write_text(json.dumps({"configs": [{"active": list(filters)}, {"again": list(filters)}]}))
    result = CliRunner().invoke(app, ["x", "authz", "check", "-f", str(dump)])
    assert [line.split() for line in result.stdout.splitlines()[1:]] == [
        ["ALLOW", "a.hello", "2"],
        ["DENY", "b.hello", "1"],
    ]


def test_an_absent_action_is_allow() -> None:
    text = json.dumps({"rules": {"policies": {"ns[a]-policy[b]-rule[0]": {}, "unrelated": {}}}})
    assert of_dump(text, "dump") == (Row("ALLOW", "b.a", 1),)


def test_errors() -> None:
    with pytest.raises(InputError, match="dump: this is no JSON"):
        of_dump("{", "dump")
    result = CliRunner().invoke(app, ["x", "authz", "check"])
    assert result.exit_code == 1
    assert "not both" in result.stderr
    assert "cannot be read" in CliRunner().invoke(app, ["x", "authz", "check", "-f", "/none"]).stderr
