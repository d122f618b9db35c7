"""The namespace of a command that is given none: that of the kubeconfig's context, read as the client reads it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tulle.cli.istioctl import app
from tulle.kube import config
from tulle.kube.config import namespace_of

_OK = """
current-context: a
contexts: [{name: a, context: {cluster: c, namespace: own}}, {name: b, context: {cluster: c}}, {name: n, context: null}]
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
"""


@pytest.mark.parametrize(
    "content", [b"[1]", b"a: [", b"\xff", b"current-context: a\ncontexts: x\n", b"contexts: [5]\ncurrent-context: a"]
)
@pytest.mark.parametrize("command", [["waypoint", "generate"], ["waypoint", "list"], ["x", "describe", "pod", "p"]])
def test_a_kubeconfig_that_cannot_be_read_is_an_error_that_names_it(
    tmp_path: Path, content: bytes, command: list[str]
) -> None:
    file = tmp_path / "kubeconfig"
    file.write_bytes(content)
    result = CliRunner().invoke(app, [*command, "--kubeconfig", str(file)])
    assert isinstance(result.exception, SystemExit)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: kubeconfig {file}: ")


def test_the_namespace_is_that_of_the_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(_OK)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert namespace_of() == "default"
    assert namespace_of("~/kubeconfig") == "own"
    assert [namespace_of(str(file), context) for context in (None, "b", "n")] == ["own", "default", "default"]
    assert namespace_of(f"{tmp_path}/none:{file}") == "own"
    with pytest.raises(config.ConfigError, match="contexts has no 'other'; found: a, b, n"):
        namespace_of(str(file), "other")
    monkeypatch.setenv("KUBECONFIG", "/dev/null")
    assert namespace_of() == "default"


def test_in_a_pod_it_is_the_pods_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("t")
    (tmp_path / "namespace").write_text("tools\n")
    monkeypatch.setattr(config, "SERVICE_ACCOUNT_DIR", tmp_path)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    result = CliRunner().invoke(app, ["waypoint", "generate"])
    assert "namespace: tools\n" in result.stdout
