"""The same commands against an API server."""

from __future__ import annotations

import json

from typer.testing import CliRunner, Result

from tulle.cli import istioctl, main

from .scenes import URL


def explain(kubeconfig: str, *arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(main.app, ["explain", "--kubeconfig", kubeconfig, "-o", "json", *arguments])
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


def run(kubeconfig: str, *arguments: str) -> Result:
    return CliRunner().invoke(istioctl.app, [*arguments, "--kubeconfig", kubeconfig])


def test_explain(kubeconfig: str) -> None:
    allowed = explain(kubeconfig, "-n", "test", "pod/curl", "GET", URL)
    assert allowed["allowed"] is True
    assert allowed["assumptions"] == [], "a cluster's objects are facts"
    assert any(str(one).startswith("liftSelectorPolicies") for one in allowed["settings"])  # type: ignore[union-attr]
    refused = explain(kubeconfig, "-n", "legacy", "pod/curl", "GET", URL)
    label, patch = refused["change"]["commands"]  # type: ignore[index]
    assert label == "kubectl label namespace legacy istio.io/dataplane-mode=ambient"
    assert "cluster.local/ns/legacy/sa/default" in patch


def test_decide_and_compile(kubeconfig: str) -> None:
    line = json.dumps({"client": "pod/curl", "namespace": "test", "method": "PUT", "url": URL})
    decided = CliRunner().invoke(main.app, ["policy", "decide", "--kubeconfig", kubeconfig], input=line)
    assert json.loads(decided.stdout)["sees"] == "403"
    compiled = CliRunner().invoke(main.app, ["policy", "compile", "--kubeconfig", kubeconfig, "-o", "json"])
    assert json.loads(compiled.stdout)["waypoint"][0]["policies"] == ["hello/v2"]


def test_analyze(kubeconfig: str) -> None:
    result = run(kubeconfig, "analyze", "-A")
    assert result.exit_code == 0, result.output
    assert "Info [TUL0007] (AuthorizationPolicy hello/v2) liftSelectorPolicies" in result.stdout
    assert "IST0176" not in result.stdout


def test_analyze_files_as_if_they_were_applied(kubeconfig: str, tmp_path: object) -> None:
    file = f"{tmp_path}/new.yaml"
    with open(file, "w", encoding="utf-8") as out:
        out.write(
            "{kind: AuthorizationPolicy, metadata: {name: new, namespace: hello}, spec: "
            "{selector: {matchLabels: {app: helloworld}}, rules: [{from: [{source: {namespaces: [nowhere]}}]}]}}"
        )
    result = run(kubeconfig, "analyze", "-n", "hello", file)
    assert result.exit_code == 79
    assert 'Error [IST0101] (AuthorizationPolicy hello/new) Referenced namespace not found: "nowhere"' in result.stdout
    reference = json.loads(run(kubeconfig, "analyze", "-n", "hello", "-o", "json", file).stdout)[0]["reference"]
    assert reference == file


def test_authz_check(kubeconfig: str) -> None:
    at_ztunnel = run(kubeconfig, "experimental", "authz", "check", "helloworld-0.hello")
    assert [line.split() for line in at_ztunnel.stdout.splitlines()] == [
        ["ACTION", "AuthorizationPolicy", "RULES"],
        ["ALLOW", "tulle_waypoint_allow_hello_waypoint.hello", "1"],
    ]
    assert "enforced by a waypoint in ztunnel's place" in at_ztunnel.stderr
    at_waypoint = run(kubeconfig, "x", "authz", "check", "waypoint-0", "-n", "hello")
    assert at_waypoint.stdout.splitlines()[1].split() == ["ALLOW", "v2.hello", "1"]
    assert "it is not captured" in run(kubeconfig, "x", "authz", "check", "pod/curl", "-n", "legacy").stderr
    assert "no such pod" in run(kubeconfig, "x", "authz", "check", "none", "-n", "legacy").stderr


def test_a_cluster_that_does_not_answer(kubeconfig: str) -> None:
    result = CliRunner().invoke(main.app, ["explain", "--kubeconfig", f"{kubeconfig}.none", "curl", "GET", URL])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
