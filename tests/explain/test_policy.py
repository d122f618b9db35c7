"""`tulle policy`: the wire messages, what was dropped, and decisions in bulk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from google.protobuf.json_format import ParseDict
from typer.testing import CliRunner, Result

from tulle.cli.main import app
from tulle.cli.policy.compiled import compile_policies
from tulle.istiod.waypoint_config.names import PEER_ADDRESS
from tulle.xds.proto import authorization_pb2

from .scenes import ENROLLED, STRICT, TARGET, TEST, policy, rule, scene, selecting, targeting, written

_PEER = """
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: open, namespace: hello}
spec:
  selector: {matchLabels: {app: helloworld}}
  portLevelMtls: {8080: {mode: PERMISSIVE}}
"""


def run(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(app, ["policy", *arguments], input=stdin)


def compiled(*arguments: str) -> tuple[dict[str, Any], str]:
    result = run("compile", *arguments)
    assert result.exit_code == 0, result.output
    return yaml.safe_load(result.stdout), result.stderr


def test_messages_are_the_protobufs(tmp_path: Path) -> None:
    folder = written(
        tmp_path, ENROLLED, STRICT, selecting("l4", rule(principals=[TEST])), targeting("l7", rule(methods=["GET"]))
    )
    found, _ = compiled("-f", folder, "--profile", "istio")
    messages = {one["name"]: ParseDict(one["message"], authorization_pb2.Authorization()) for one in found["ztunnel"]}
    assert set(messages) == {"hello/l4", "istio-system/istio_converted_static_strict"}
    (clause,) = messages["hello/l4"].rules[0].clauses
    assert clause.matches[0].principals[0].exact == TEST
    (waypoint,) = found["waypoint"]
    assert waypoint["target"] == "Service hello/helloworld at waypoint hello/waypoint"
    config = {key: value for key, value in waypoint["http"][0]["typed_config"].items() if key != "@type"}
    assert list(ParseDict(config, rbac_pb2.RBAC()).rules.policies) == ["ns[hello]-policy[l7]-rule[0]"]


def test_addresses_are_looked_for_where_the_waypoint_has_them(tmp_path: Path) -> None:
    near = {"from": [{"source": {"ipBlocks": ["10.0.0.0/8"]}}]}
    found, _ = compiled("-f", written(tmp_path, ENROLLED, targeting("near", near)))
    (shown,) = found["waypoint"][0]["http"][0]["typed_config"]["rules"]["policies"].values()
    network = {"address_prefix": "10.0.0.0", "prefix_len": 8}
    assert shown["principals"] == [{"filter_state": {"key": PEER_ADDRESS, "address_match": {"ranges": [network]}}}]


def test_peer_authentications_are_merged(tmp_path: Path) -> None:
    found, _ = compiled("-f", written(tmp_path, STRICT, _PEER), "--target", "ztunnel", "-o", "json")
    assert set(found) == {"ztunnel"}
    by_name = {one["name"]: one for one in found["ztunnel"]}
    converted = by_name["hello/converted_peer_authentication_open"]
    assert converted["workloads"] == ["hello/helloworld-0"]
    matches = [clause["matches"][0] for clause in converted["message"]["rules"][0]["clauses"]]
    assert matches == [{"notPrincipals": [{"presence": {}}]}, {"notDestinationPorts": [8080]}]
    assert "hello/helloworld-0" not in by_name["istio-system/istio_converted_static_strict"].get("workloads", ())


def test_what_was_dropped_is_on_stderr(tmp_path: Path) -> None:
    custom = policy("ask", {"action": "CUSTOM", "provider": {"name": "opa"}, "rules": [{}]})
    spec = "{selector: {matchLabels: {a: b}}, mtls: {mode: STRICT}}"
    rooted = f"{{kind: PeerAuthentication, metadata: {{name: r, namespace: istio-system}}, spec: {spec}}}"
    texts = (
        selecting("get", rule(namespaces=["test"], methods=["GET"])),
        targeting("l7", rule(methods=["GET"])),
        custom,
        rooted,
    )
    found, remarks = compiled("-f", written(tmp_path, *texts), "--profile", "istio")
    assert (
        "AuthorizationPolicy/hello/get: spec.rules[0].to[0].operation.methods: methods cannot be tested at ztunnel: the rule is omitted"
        in remarks
    )
    assert "AuthorizationPolicy/hello/l7: targetRefs: not sent to ztunnel" in remarks
    assert "AuthorizationPolicy/hello/ask: spec.action: CUSTOM is not sent to ztunnel" in remarks
    assert (
        "PeerAuthentication/istio-system/r: spec.selector: a selector in the root namespace applies to nothing"
        in remarks
    )
    assert [one["target"] for one in found["waypoint"]] == ["Service hello/helloworld"], (
        "also without a waypoint in the input"
    )


def test_lifting() -> None:
    result = compile_policies(
        scene(ENROLLED, selecting("v2", rule(principals=[TEST], methods=["GET"])), profile="lesson")
    )
    names = [one["name"] for one in result.ztunnel if "hello/helloworld-0" in one.get("workloads", ())]
    assert names == ["hello/tulle_waypoint_allow_hello_waypoint"]
    assert any("in ztunnel's place" in remark for remark in result.remarks)
    assert result.waypoint[0]["policies"] == ["hello/v2"]


def test_options_are_checked(tmp_path: Path) -> None:
    folder = written(tmp_path)
    assert "accepted are ztunnel, waypoint" in run("compile", "-f", folder, "--target", "sidecar").stderr
    assert "accepted are yaml and json" in run("compile", "-f", folder, "-o", "xml").stderr


_REQUESTS = [
    {
        "id": 1,
        "client": "pod/curl",
        "namespace": "test",
        "url": "http://helloworld.hello:5000/hello",
        "headers": {"x": ["a", "b"], "y": "c"},
    },
    {"client": "pod/curl", "namespace": "legacy", "url": "http://helloworld.hello:5000/hello"},
    {"client": "kubelet", "url": "http://helloworld.hello:5000/hello"},
]


@pytest.mark.parametrize("by_file", [True, False])
def test_decide(tmp_path: Path, by_file: bool) -> None:
    lines = "\n".join(json.dumps(one) for one in _REQUESTS) + "\n\n"
    mesh = tmp_path / "mesh"
    mesh.mkdir()
    folder = written(mesh, STRICT, selecting("l4", rule(principals=[TEST])))
    (tmp_path / "requests").write_text(lines)
    result = run("decide", "-f", folder, "--request", str(tmp_path / "requests") if by_file else "-", stdin=lines)
    assert result.exit_code == 0, result.output
    first, second, third = (json.loads(line) for line in result.stdout.splitlines())
    assert (first["id"], first["allowed"], first["policy"], first["clause"]) == (
        1,
        True,
        "AuthorizationPolicy/hello/l4",
        "spec.rules[0]",
    )
    assert (second["sees"], second["curl"], second["policy"]) == (
        "reset",
        56,
        "PeerAuthentication/istio-system/default",
    )
    assert third["allowed"]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("x", "this is no JSON"),
        ("[]", "found list; accepted is an object"),
        ('{"client": "outside"}', "url: found None"),
        ('{"client": "outside", "url": "http://helloworld.hello:5000/", "verb": "GET"}', "verb: unknown field"),
        ('{"client": "outside", "url": "http://helloworld.hello:5000/", "headers": {"a": 1}}', "headers.a: found 1"),
        ('{"client": "pod/none", "url": "http://helloworld.hello:5000/"}', "no such pod"),
        ('{"client": "outside", "url": "http://[::1"}', "URL 'http://[::1'"),
        ('{"client": "outside", "url": "http://a\u2100b/"}', "URL 'http://a\u2100b/'"),
        ('{"client": "outside", "url": "http://helloworld.hello:5000/", "method": "G T"}', "method 'G T'"),
        ('{"client": "outside\\ud800", "url": "http://helloworld.hello:5000/"}', "client 'outside"),
        ("[" * 100000, "nested too deeply"),
    ],
)
def test_a_line_that_is_no_request(tmp_path: Path, line: str, says: str) -> None:
    result = run("decide", "-f", written(tmp_path), stdin=f"{line}\n")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["line"] == 1
    assert says in told["error"]


def test_a_line_of_other_bytes_than_utf8_spoils_no_other(tmp_path: Path) -> None:
    good = b'{"client": "outside", "url": "http://helloworld.hello:5000/", "id": "\\ud800\xe2\x80\xa8"}\n'
    requests = tmp_path / "requests"
    requests.write_bytes(b"\xff\n" + good)
    folder = tmp_path / "mesh"
    folder.mkdir()
    written(folder)
    for result in (
        run("decide", "-f", str(folder), "--request", str(requests)),
        CliRunner().invoke(app, ["policy", "decide", "-f", str(folder)], input=requests.read_bytes()),
    ):
        assert result.exit_code == 1
        broken, decided = (json.loads(line) for line in result.stdout_bytes.splitlines())
        assert broken == {"line": 1, "error": "this is no UTF-8"}
        assert (decided["id"], decided["allowed"]) == ("\ud800\u2028", True)


def test_standard_input_is_read_once(tmp_path: Path) -> None:
    result = run("decide", "-f", "-", stdin="{kind: Namespace, metadata: {name: a}}")
    assert result.exit_code == 1
    assert "standard input" in result.stderr
    refused = CliRunner().invoke(app, ["policy", "compile", "-f", "-"], input=b"\xff")
    assert isinstance(refused.exception, SystemExit)
    assert "-f -: this is no UTF-8" in refused.stderr


def test_fields_stand_in_the_help() -> None:
    text = " ".join(run("decide", "--help").output.split())
    for field in ("url", "client", "namespace", "method", "headers", "jwt", "id"):
        assert f"{field}:" in text


@pytest.mark.parametrize(
    ("providers", "said"),
    [
        ([], "extension provider opa is not in the mesh configuration"),
        ([{"name": "opa", "zipkin": {}}], "extension provider opa is no external authorizer"),
        (
            [{"name": "opa", "envoyExtAuthzGrpc": {"service": "opa.tools.svc.cluster.local", "port": 9000}}],
            "the Service of extension provider opa or its port is not among what was read",
        ),
        ([{"name": "opa", "envoyExtAuthzGrpc": {"service": "helloworld.hello.svc.cluster.local", "port": 5000}}], ""),
    ],
)
def test_an_authorizer_that_cannot_be_asked_is_on_stderr(
    tmp_path: Path, providers: list[dict[str, object]], said: str
) -> None:
    config = {"mesh": yaml.safe_dump({"extensionProviders": providers})}
    mesh = {"kind": "ConfigMap", "metadata": {"name": "istio", "namespace": "istio-system"}, "data": config}
    spec = {"targetRefs": TARGET, "action": "CUSTOM", "provider": {"name": "opa"}, "rules": [{}]}
    _, remarks = compiled("-f", written(tmp_path, yaml.safe_dump(mesh), policy("ask", spec)))
    remark = f"AuthorizationPolicy/hello/ask: spec.provider.name: {said}: at Service hello/helloworld all that matches is denied"
    assert (remark in remarks) == bool(said)
    assert ("spec.provider" in remarks) == bool(said)
