"""CUSTOM policies: an external authorizer's answer is not in any YAML, so both ends are told; nobody to ask means no."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from tulle.cli.explain.report import Report
from tulle.cli.main import app

from .scenes import ENROLLED, TEST, URL, ask, ids, policy, rule, scene, targeting, written

_AUTHORIZER = """
kind: Namespace
metadata: {name: tools}
---
kind: Service
apiVersion: v1
metadata: {name: opa, namespace: tools}
spec: {selector: {app: opa}, ports: [{name: grpc, port: 9000}]}
---
kind: Pod
apiVersion: v1
metadata: {name: opa, namespace: tools, labels: {app: opa}}
spec: {containers: [{name: main}]}
"""
_HOST = "opa.tools.svc.cluster.local"
_PATHS = {"to": [{"operation": {"paths": ["/hello"]}}]}


def mesh_config(**block: Any) -> str:
    kind = block.pop("kind", "envoyExtAuthzGrpc")
    opa = {"name": "opa", kind: {"service": _HOST, "port": 9000, **block}}
    providers = [
        opa,
        {"name": "other", "envoyExtAuthzGrpc": {"service": _HOST, "port": 9000}},
        {"name": "zipkin", "zipkin": {}},
    ]
    data = {"mesh": yaml.safe_dump({"extensionProviders": providers})}
    return yaml.safe_dump(
        {"kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"}, "data": data}
    )


def asking(provider: str = "opa", name: str = "ask", **spec: Any) -> str:
    targets = [{"group": "", "kind": "Service", "name": "helloworld"}]
    return policy(
        name, {"targetRefs": targets, "action": "CUSTOM", "provider": {"name": provider}, "rules": [_PATHS], **spec}
    )


def explained(*texts: str, config: str = "", **request: Any) -> Report:
    return ask(scene(ENROLLED, _AUTHORIZER, config or mesh_config(), *texts, profile=""), **request)


def test_a_request_that_an_authorizer_is_asked_about_is_undecided() -> None:
    report = explained(asking())
    assert (report.verdict, report.allowed, report.sees.code) == ("undecided", False, "undecided")
    assert report.summary.startswith(f"External authorizer opa ({_HOST}:9000) decides: HTTP 403")
    assert "HTTP 200, or whatever the application answers, if it allows" in report.summary
    assert "AuthorizationPolicy/hello/ask, spec.rules[0] has it asked at waypoint hello/waypoint" in report.summary
    (hop,) = (row for row in report.hops if row.verdict == "asks")
    assert (hop.policy, hop.clause) == ("AuthorizationPolicy/hello/ask", "spec.rules[0]")
    assert report.asks is not None
    assert (report.asks.provider, report.asks.answer) == ("opa", "")
    assert "authorizer-asked" in ids(report)
    assert "--authorizer opa=allow" in report.last


def test_what_it_is_not_asked_about_is_decided() -> None:
    report = explained(asking(), url=f"{URL}/other")
    assert report.verdict == "allowed"
    assert report.asks is None


def test_an_authorizer_cannot_overrule_a_deny() -> None:
    deny = targeting("deny", rule(principals=[TEST]), action="DENY")
    report = explained(asking(), deny)
    assert (report.verdict, report.sees.code) == ("refused", "403")
    assert "denied by AuthorizationPolicy/hello/deny" in report.summary
    assert "authorizer-asked" in ids(report)
    assert report.last.startswith("Smallest change to allow it if opa does:")


@pytest.mark.parametrize(("answer", "code"), [(True, "200"), (False, "403")])
def test_an_answer_can_be_assumed(answer: bool, code: str) -> None:
    report = explained(asking(), authorizers=(("opa", answer),))
    assert report.sees.code == code
    assert report.verdict == ("allowed" if answer else "refused")
    assert "(assumed)" in json.dumps(report.as_data())


@pytest.mark.parametrize(
    ("policies", "why"),
    [
        ([asking("nobody")], "extension provider nobody is not in the mesh configuration"),
        ([asking("zipkin")], "extension provider zipkin is no external authorizer"),
        (
            [asking(), asking("other", "second")],
            "only one extension provider can be asked for a workload, found opa and other",
        ),
    ],
)
def test_nobody_to_ask_means_no(policies: list[str], why: str) -> None:
    report = explained(*policies, authorizers=(("opa", True),))
    assert (report.verdict, report.sees.code) == ("refused", "403")
    assert why in report.summary
    assert "nobody to ask means no" in report.summary
    assert "authorizer-missing" in ids(report)
    assert "extensionProviders" in report.last


def test_an_authorizer_whose_service_is_missing() -> None:
    report = explained(asking(), config=mesh_config(port=1))
    assert report.verdict == "refused"
    assert "the Service of extension provider opa or its port is not in the mesh" in report.summary


@pytest.mark.parametrize(
    ("settings", "code"), [({}, "403"), ({"statusOnError": "503"}, "503"), ({"failOpen": True}, "200")]
)
def test_an_authorizer_without_a_ready_endpoint(settings: dict[str, Any], code: str) -> None:
    gone = "{kind: Pod, apiVersion: v1, metadata: {name: opa, namespace: tools}, spec: {containers: [{name: main}]}}"
    report = explained(asking(), gone, config=mesh_config(**settings))
    assert report.sees.code == code
    assert f"Service {_HOST} has no ready endpoint at port 9000" in json.dumps(report.as_data())


def test_opaque_connections() -> None:
    """A gRPC authorizer is asked about connections too; one that speaks HTTP cannot be."""
    url = URL.replace("http:", "tcp:")
    asked = explained(asking(rules=[{}]), method="-", url=url)
    assert (asked.verdict, asked.sees.curl) == ("undecided", None)
    assert "closed if it denies; a connection to the application if it allows" in asked.summary
    http = explained(asking(rules=[{}]), config=mesh_config(kind="envoyExtAuthzHttp"), method="-", url=url)
    assert (http.verdict, http.sees.code) == ("refused", "closed")
    assert "cannot be done for bytes on an opaque port" in http.summary


def test_a_token_is_read_only_after_the_authorizer() -> None:
    """CUSTOM comes before tokens (C4)."""
    bad = "e30.eyJpc3MiOiAieCJ9.e30"
    tokens = """
kind: RequestAuthentication
apiVersion: security.istio.io/v1
metadata: {name: tokens, namespace: hello}
spec: {targetRefs: [{group: "", kind: Service, name: helloworld}], jwtRules: [{issuer: "https://i.example.com", jwks: '{"keys": []}'}]}
"""
    assert explained(tokens, asking(), token=bad).sees.code == "401"
    assert explained(tokens, asking("nobody"), token=bad).sees.code == "403"


def run(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(app, [*arguments], input=stdin)


def test_commands(tmp_path: Path) -> None:
    folder = written(tmp_path, ENROLLED, _AUTHORIZER, mesh_config(), asking())
    question = ["explain", "-f", folder, "-n", "test", "pod/curl", "GET", URL]
    drawn = run(*question, "--check")
    assert drawn.exit_code == 3
    assert "asks" in drawn.stdout
    assert json.loads(run(*question, "-o", "json").stdout)["verdict"] == "undecided"
    assert run(*question, "--check", "--authorizer", "opa=allow").exit_code == 0
    line = json.dumps({"client": "pod/curl", "namespace": "test", "url": URL})
    told = json.loads(run("policy", "decide", "-f", folder, stdin=line).stdout)
    assert (told["verdict"], told["sees"], told["allowed"]) == ("undecided", "undecided", False)
    assert (told["policy"], told["where"]) == ("AuthorizationPolicy/hello/ask", "waypoint hello/waypoint")
    assumed = run("policy", "decide", "-f", folder, "--authorizer", "opa=deny", stdin=line)
    assert json.loads(assumed.stdout)["verdict"] == "refused"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("opa", "accepted is NAME=allow or NAME=deny"),
        ("opa=maybe", "accepted is NAME=allow or NAME=deny"),
        ("zipkin=allow", "no such external authorizer in the mesh configuration; it has opa, other"),
    ],
)
def test_assumed_answers_are_checked(tmp_path: Path, given: str, says: str) -> None:
    folder = written(tmp_path, ENROLLED, _AUTHORIZER, mesh_config(), asking())
    result = run("explain", "-f", folder, "-n", "test", "pod/curl", "GET", URL, "--authorizer", given)
    assert result.exit_code == 1
    assert says in result.stderr
