"""YAML is read as kubectl reads it: as another spelling of JSON."""

from __future__ import annotations

import pytest

from tulle.cli.explain import documents
from tulle.cli.explain.documents import InputError

from .scenes import ask, commands, read, scene

_POD = "kind: Pod\nmetadata: {name: p, namespace: hello, %s}\nspec: {containers: [{name: a}]}\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "{kind: AuthorizationPolicy, metadata: {name: p}, spec: {action: DENY, action: ALLOW}}",
            "'action' stands twice",
        ),
        ("{kind: Pod, metadata: {name: p}, spec: {8080: a, '8080': b}}", "'8080' stands twice"),
        ("{kind: Pod, metadata: {name: p}, spec: {[a]: b}}", "a key is a string"),
        ("{kind: Pod, metadata: {name: p}, spec: {null: b}}", "a key is a string"),
        ("{kind: Pod, metadata: {name: p}, spec: &a [*a]}", "recursive"),
        ("{kind: Pod, metadata: &m {name: p, labels: *m}}", "recursive"),
        ("{kind: Pod, metadata: {name: p, labels: !!set {a, b}}}", "tag:yaml.org,2002:set"),
        ("{kind: Pod, metadata: {name: p}, spec: " + "[" * 3000 + "]" * 3000 + "}", "nested too deeply"),
        ("{kind: Pod, metadata: {name: p}, spec: " + "9" * 5000 + "}", "4300 digits"),
    ],
)
def test_what_kubectl_would_not_take_either(text: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        documents.load(["-"], text)
    assert str(error.value).startswith("stdin: ")
    assert says in str(error.value)


def test_keys_are_strings_and_dates_are_text() -> None:
    text = _POD % "creationTimestamp: 2024-01-01T00:00:00Z, annotations: {since: 2024-01-01, 1: a, true: b}"
    (document,) = read(text)
    meta = document.manifest["metadata"]
    assert meta["creationTimestamp"] == "2024-01-01T00:00:00Z"
    assert meta["annotations"] == {"since": "2024-01-01", "1": "a", "true": "b"}
    assert scene(text).manifest("Pod", "hello", "p") is not None


def test_a_mapping_that_another_is_merged_into_may_say_otherwise() -> None:
    text = "kind: Pod\nmetadata: {<<: &m {name: a, namespace: hello}, name: b}\n"
    assert [one.key.name for one in read(text)] == ["b"]


def test_a_port_of_a_peer_authentication_is_changed_and_not_given_twice() -> None:
    strict = """
kind: PeerAuthentication
metadata: {name: app, namespace: hello}
spec: {selector: {matchLabels: {app: helloworld}}, portLevelMtls: {8080: {mode: STRICT}}}
"""
    report = ask(scene(strict), namespace="legacy", client="outside")
    assert report.sees.code == "reset"
    assert "/spec/portLevelMtls/8080" in commands(report)
