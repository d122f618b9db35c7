"""`istioctl analyze`: each id on the configuration that it is about, and none on a sound one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from tulle.cli.analyze import loading
from tulle.cli.analyze.command import ANALYZERS
from tulle.cli.analyze.messages import CODES, Level, Message
from tulle.cli.istioctl import app

from .scenes import BASE, ENROLLED, STRICT, TARGET, TEST, WAYPOINT, policy, read, rule, selecting, targeting, written


def analyze(*texts: str, profile: str = "istio") -> list[Message]:
    readable, messages = loading.sound(read(BASE, *texts))
    world = loading.world(readable, profile, live=False)
    return [*messages, *(message for analyzer in ANALYZERS.values() for message in analyzer(world))]


def codes(*texts: str, profile: str = "istio") -> set[str]:
    return {message.code for message in analyze(*texts, profile=profile)} - {"IST0102"}


def namespace(labels: str) -> str:
    return f"{{kind: Namespace, metadata: {{name: hello, labels: {{{labels}}}}}}}"


AMBIENT = "istio.io/dataplane-mode: ambient"
JWT = """
kind: RequestAuthentication
metadata: {name: jwt, namespace: hello}
spec: {%s jwtRules: [{issuer: a, %s}]}
"""
PEER = """
kind: PeerAuthentication
metadata: {name: p, namespace: %s}
spec: {selector: {matchLabels: {app: helloworld}}, %s}
"""
GATEWAY_TARGET = [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "waypoint"}]
SERVICE_ENTRY = """
kind: ServiceEntry
metadata: {name: db, namespace: hello}
spec: {hosts: [db.example], ports: [{number: 1, name: t, protocol: TCP}]%s}
"""
ROUTE = """
kind: HTTPRoute
metadata: {name: r, namespace: hello}
spec: {rules: [{matches: [{headers: [{name: "@request.auth.claims.sub", value: x}]}]}]}
"""
BLOCK = """
kind: ServiceEntry
metadata: {name: block, namespace: hello}
spec: {hosts: [x.example.com], addresses: [%s], ports: [{number: 80, name: http, protocol: HTTP}], resolution: NONE}
"""
WEBHOOK = """
kind: ValidatingWebhookConfiguration
metadata: {name: w}
webhooks: [{name: w.example, clientConfig: {service: {name: helloworld, namespace: hello}}}]
"""
CRD = """
kind: CustomResourceDefinition
metadata: {name: gateways.gateway.networking.k8s.io, annotations: {gateway.networking.k8s.io/bundle-version: %s}}
"""
INJECTED_POD = "{kind: Pod, metadata: {name: a, namespace: hello}, spec: {containers: [{name: a}]}}"
L7 = rule(principals=[TEST], methods=["GET", "HEAD"])


def test_a_sound_mesh_has_nothing_to_say() -> None:
    sound = (
        ENROLLED,
        STRICT,
        targeting("ok", L7),
        selecting("wp", rule(principals=["cluster.local/ns/hello/sa/waypoint"])),
    )
    assert codes(*sound) == set()


@pytest.mark.parametrize(
    ("code", "texts", "sound"),
    [
        (
            "IST0101",
            (selecting("a", rule(namespaces=["nowhere"])),),
            (selecting("a", rule(namespaces=["test", "no*"])),),
        ),
        ("IST0103", (namespace("istio-injection: enabled"), INJECTED_POD), (INJECTED_POD,)),
        ("IST0106", (policy("a", {"rules": [{"from": []}]}),), (policy("a", {"rules": [{}]}),)),
        ("IST0106", ("{kind: Service, metadata: {name: s, namespace: hello}, spec: {ports: [{port: x}]}}",), ()),
        ("IST0118", (BASE.replace("name: http, port", "name: stuff, port"),), ()),
        (
            "IST0123",
            (namespace(f"{AMBIENT}, istio-injection: enabled"),),
            (namespace(f"{AMBIENT}, istio-injection: disabled"),),
        ),
        ("IST0127", (policy("a", {"selector": {"matchLabels": {"app": "x"}}, "rules": [{}]}),), (selecting("a", {}),)),
        ("IST0134", (SERVICE_ENTRY % "",), (SERVICE_ENTRY % ", addresses: [1.2.3.4]",)),
        ("IST0149", (ROUTE,), (ROUTE, JWT % (f"targetRefs: {json.dumps(TARGET)},", "jwks: '{}'"))),
        (
            "IST0166",
            (
                policy(
                    "a",
                    {
                        "selector": {"matchLabels": {"gateway.networking.k8s.io/gateway-name": "waypoint"}},
                        "rules": [{}],
                    },
                ),
            ),
            (),
        ),
        ("IST0167", (PEER % ("istio-system", "mtls: {mode: STRICT}"),), (PEER % ("hello", "mtls: {mode: STRICT}"),)),
        ("IST0167", (policy("a", {"selector": {"matchLabels": {}}, "rules": [{}]}),), ()),
        ("IST0167", (JWT % ("", "jwks: '{}'"),), ()),
        ("IST0171", (targeting("a", L7),), (ENROLLED, targeting("a", L7))),
        ("IST0171", (policy("a", {"action": "AUDIT", "rules": [{}]}),), ()),
        ("IST0175", (JWT % (f"targetRefs: {json.dumps(TARGET)},", "jwksUri: 'http://a/'"),), ()),
        ("IST0176", (CRD % "v0.8.1",), (CRD % "v1.3.0",)),
        ("TUL0001", (namespace(f"{AMBIENT}, istio.io/waypoint: enabled"),), (namespace(AMBIENT),)),
        ("TUL0002", (selecting("a", L7),), (ENROLLED, targeting("a", L7))),
        ("TUL0003", (selecting("a", L7, action="DENY"),), (selecting("a", rule(principals=[TEST]), action="DENY"),)),
        (
            "TUL0004",
            (WAYPOINT, policy("a", {"targetRefs": GATEWAY_TARGET, "rules": [{}]})),
            (ENROLLED, targeting("a", {})),
        ),
        ("TUL0004", (targeting("a", L7),), ()),
        (
            "TUL0005",
            (ENROLLED, selecting("a", rule(principals=[TEST]))),
            (ENROLLED, selecting("a", rule(namespaces=["hello"]))),
        ),
        (
            "TUL0006",
            (ENROLLED, targeting("a", rule(methods=["GET"]))),
            (ENROLLED, targeting("a", rule(methods=["GET", "HEAD"]))),
        ),
        (
            "TUL0008",
            (PEER % ("hello", "portLevelMtls: {5000: {mode: STRICT}}"),),
            (PEER % ("hello", "portLevelMtls: {8080: {mode: STRICT}}"),),
        ),
        ("TUL0009", (selecting("a", rule(principals=[f"spiffe://{TEST}"])),), ()),
        (
            "TUL0010",
            (selecting("a", rule(principals=["old.example/ns/test/sa/default"])),),
            (selecting("a", rule(principals=["*/ns/test/*"])),),
        ),
        ("TUL0011", (WEBHOOK, STRICT), (WEBHOOK,)),
        ("TUL0012", (namespace(f"{AMBIENT}, istio.io/use-waypoint: gone"),), (ENROLLED,)),
        ("TUL0013", (BLOCK % "192.0.2.0/24",), (BLOCK % "192.0.2.1/32",)),
    ],
)
def test_each_id(code: str, texts: tuple[str, ...], sound: tuple[str, ...]) -> None:
    assert code in codes(*texts)
    assert code not in codes(*sound)


def test_namespaces_outside_the_mesh() -> None:
    told = [message.key.name for message in analyze() if message.code == "IST0102"]
    assert told == ["legacy"]


def test_every_profile_key_in_use_is_told() -> None:
    texts = (
        WAYPOINT,
        namespace(f"{AMBIENT}, istio.io/waypoint: enabled"),
        selecting("v2", rule(principals=[TEST], methods=["GET"])),
    )
    told = {
        message.text.partition(":")[0] for message in analyze(*texts, profile="lesson") if message.code == "TUL0007"
    }
    assert told == {"waypointLabelAlias", "liftSelectorPolicies", "headIsGet", "explainRefusals"}
    assert "TUL0007" not in codes(*texts)
    assert "TUL0002" not in codes(*texts, profile="lesson"), "lifted, so it denies nobody by mistake"
    assert "TUL0001" not in codes(*texts, profile="lesson")


@pytest.mark.parametrize(
    ("rules", "begins"),
    [
        ([L7], "This DENY denies nothing"),
        ([L7, rule(principals=[TEST])], "A part of this DENY denies nothing"),
    ],
)
def test_a_deny_of_which_ztunnel_enforces_a_part(rules: list[dict[str, Any]], begins: str) -> None:
    found = analyze(selecting("a", *rules, action="DENY"))
    assert [one.text.startswith(begins) for one in found if one.code == "TUL0003"] == [True]


def test_messages_that_everything_denies_are_errors() -> None:
    assert {code for code, (_, level) in CODES.items() if level is Level.ERROR} == {
        "IST0101",
        "IST0106",
        "TUL0002",
        "TUL0003",
    }


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["analyze", "--use-kube=false", "--profile", "istio", *arguments])


def test_log_output_and_exit_codes(tmp_path: Path) -> None:
    folder = written(tmp_path, selecting("get", rule(namespaces=["test"], methods=["GET"])))
    result = run("-A", folder)
    assert result.exit_code == 79
    assert result.stdout.startswith("Error [TUL0002] (AuthorizationPolicy hello/get) This policy denies everything")
    assert "Info [IST0102] (Namespace legacy)" in result.stdout
    assert "Analyzers found issues when analyzing all namespaces." in result.stderr
    assert "IST0102" not in run("-A", "--output-threshold", "Warning", folder).stdout
    assert run("-A", "-S", "TUL0002=AuthorizationPolicy hello/*", folder).exit_code == 0
    assert (
        run("-A", "-S", "TUL0002=AuthorizationPolicy get.hello", "--failure-threshold", "info", folder).exit_code == 79
    )
    assert "accepted is CODE=RESOURCE" in run("-A", "-S", "TUL9=x", folder).stderr


def test_one_namespace(tmp_path: Path) -> None:
    folder = written(tmp_path, selecting("get", rule(namespaces=["test"], methods=["GET"])))
    result = run("-n", "test", folder)
    assert result.stdout == "✔ No validation issues found when analyzing namespace: test.\n"
    assert result.exit_code == 0


@pytest.mark.parametrize(("output", "parse"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_structured_output(tmp_path: Path, output: str, parse: Callable[[str], list[dict[str, str]]]) -> None:
    found = parse(run("-A", "-o", output, written(tmp_path)).stdout)
    assert found[0]["code"] == "IST0102"
    assert found[0]["origin"] == "Namespace legacy"
    assert found[0]["documentationUrl"].endswith("/ist0102/")
    assert found[0]["reference"].endswith(".yaml")


def test_options_are_checked(tmp_path: Path) -> None:
    assert "nothing to analyze" in run().stderr
    assert "accepted are log, json and yaml" in run("-o", "xml", str(tmp_path)).stderr
    assert "--failure-threshold: found 'bad'" in run("--failure-threshold", "bad", written(tmp_path)).stderr
    assert "* ambient.Layer7AtZtunnel" in run("-L").stdout
