"""`tulle explain` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from typer.testing import CliRunner, Result

from tulle.cli.main import app

from .scenes import ENROLLED, STRICT, TEST, URL, rule, targeting, written


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["explain", *arguments])


def test_first_line_is_what_and_why_and_last_line_the_change(tmp_path: Path) -> None:
    folder = written(tmp_path, STRICT, ENROLLED, targeting("get", rule(principals=[TEST], methods=["GET"])))
    result = run("-f", folder, "--profile", "istio", "-n", "test", "pod/curl", "HEAD", URL)
    lines = result.stdout.splitlines()
    assert result.exit_code == 0
    assert lines[0].startswith("HTTP 403 (HEAD has no body). Waypoint hello/waypoint: ALLOW policies apply")
    assert lines[-1].startswith("Smallest change to allow it: add 'HEAD' to methods of AuthorizationPolicy/hello/get")
    assert "Nearest miss: AuthorizationPolicy/hello/get would match if methods contained HEAD" in result.stdout
    assert "kubectl patch authorizationpolicy get -n hello" in result.stdout
    assert "Assumed: " in result.stdout
    header = next(line for line in lines if line.startswith("HOP"))
    assert header.split() == ["HOP", "FROM", "TO", "HOW", "THE", "FAR", "END", "SEES", "VERDICT", "BY"]


def test_json_and_yaml_are_one_structure(tmp_path: Path) -> None:
    folder = written(tmp_path, STRICT)
    arguments = ("-f", folder, "-n", "legacy", "curl", "GET", URL)
    as_json, as_yaml = run(*arguments, "-o", "json"), run(*arguments, "-o", "yaml")
    assert json.loads(as_json.stdout) == yaml.safe_load(as_yaml.stdout)
    found = json.loads(as_json.stdout)
    assert found["sees"] == {"code": "reset", "curl": 56, "text": "curl: (56) Recv failure: Connection reset by peer"}
    assert found["change"]["commands"] == ["kubectl label namespace legacy istio.io/dataplane-mode=ambient"]
    assert found["hops"][0]["policy"] == "PeerAuthentication/istio-system/default"


def test_check_is_for_scripts(tmp_path: Path) -> None:
    folder = written(tmp_path, STRICT)
    assert run("-f", folder, "-n", "legacy", "--check", "curl", "GET", URL).exit_code == 3
    assert run("-f", folder, "-n", "test", "--check", "curl", "GET", URL).exit_code == 0


def test_headers_and_opaque_ports(tmp_path: Path) -> None:
    folder = written(tmp_path)
    assert (
        "a connection to the application"
        in run("-f", folder, "-n", "test", "curl", "-", "helloworld.hello:5000").stdout
    )
    assert run("-f", folder, "-n", "test", "-H", "x-a: 1", "curl", "GET", URL).exit_code == 0
    assert "accepted is `Name: value`" in run("-f", folder, "-n", "test", "-H", "x-a", "curl", "GET", URL).stderr


def test_errors_end_the_command(tmp_path: Path) -> None:
    folder = written(tmp_path)
    assert "no such pod" in run("-f", folder, "-n", "test", "pod/none", "GET", URL).stderr
    assert "accepted are table, json, yaml" in run("-f", folder, "-o", "xml", "curl", "GET", URL).stderr
    assert run("-f", str(tmp_path / "none"), "curl", "GET", URL).exit_code == 1
    assert "--profile goes with -f only" in run("--profile", "istio", "curl", "GET", URL).stderr
    assert "--jwt: found 1 parts" in run("-f", folder, "-n", "test", "--jwt", "x", "curl", "GET", URL).stderr
