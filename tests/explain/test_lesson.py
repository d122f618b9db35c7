"""The lesson's acceptance table, foretold from its own manifests."""

from __future__ import annotations

from importlib.resources import files

import pytest
import yaml

from tulle.cli import lesson
from tulle.cli.explain.documents import Key, load
from tulle.cli.explain.world import World, offline

from .scenes import ask

_NAMESPACES = """
kind: Namespace
metadata: {name: hello, labels: {istio.io/dataplane-mode: ambient%s}}
---
kind: Namespace
metadata: {name: test, labels: {%s}}
---
kind: Namespace
metadata: {name: web, labels: {istio.io/dataplane-mode: ambient}}
---
kind: Namespace
metadata: {name: outside}
---
kind: Pod
metadata: {name: client, namespace: test}
spec: {containers: [{name: main}]}
---
kind: Pod
metadata: {name: client, namespace: web}
spec: {containers: [{name: main}]}
---
kind: Pod
metadata: {name: client, namespace: outside}
spec: {containers: [{name: main}]}
"""
_WAYPOINT = """
kind: Gateway
metadata: {name: waypoint, namespace: hello}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}
"""
_AMBIENT = "istio.io/dataplane-mode: ambient"


def _file(name: str) -> str:
    return files(lesson).joinpath(name).read_text(encoding="utf-8")


def world(profile: str, *policies: str, test: str = _AMBIENT, enrolled: bool = False) -> World:
    label = {"lesson": "istio.io/waypoint: enabled", "istio": "istio.io/use-waypoint: waypoint"}[profile]
    documents = list(load(["hello=-"], _file("helloworld.yaml")))
    texts = [_NAMESPACES % (f", {label}" if enrolled else "", test), _file("global-pa.yaml"), *map(_file, policies)]
    for text in [*texts, _WAYPOINT] if enrolled else texts:
        documents += load(["-"], text)
    return offline(documents, profile)


V1, V2, TARGETED = "hw.yaml", "hw-v2.yaml", "hw-v2-target.yaml"
BOTH = ("lesson", "istio")
RESET, OK, DENIED, UNAVAILABLE = "reset", "200", "403", "503"


@pytest.mark.parametrize(
    ("policies", "enrolled", "namespace", "outcomes"),
    [
        ((), False, "outside", (RESET, RESET)),  # 1
        ((), False, "test", (OK, OK)),  # 2
        ((V1,), False, "test", (UNAVAILABLE, RESET)),  # 3
        ((V1,), True, "test", (UNAVAILABLE, UNAVAILABLE)),  # 4
        ((V1, V2), True, "test", (OK, UNAVAILABLE)),  # 5
        ((V2,), True, "test", (OK, UNAVAILABLE)),
        ((TARGETED,), True, "test", (OK, OK)),  # 5b; the file names HEAD besides GET
        ((V2,), True, "web", (DENIED, UNAVAILABLE)),  # 6
        ((TARGETED,), True, "web", (DENIED, DENIED)),
        ((), True, "test", (OK, OK)),  # 7
        ((), True, "web", (OK, OK)),
        ((), True, "outside", (RESET, RESET)),
    ],
)
@pytest.mark.parametrize("profile", BOTH)
def test_table(
    profile: str, policies: tuple[str, ...], enrolled: bool, namespace: str, outcomes: tuple[str, str]
) -> None:
    url = "http://helloworld.hello.svc.cluster.local:5000/hello"
    report = ask(world(profile, *policies, enrolled=enrolled), "pod/client", "HEAD", url, namespace)
    assert report.sees.code == outcomes[BOTH.index(profile)], report.summary


@pytest.mark.parametrize("namespace", ["test", "web"])
def test_pod_address_is_refused_in_state_5(namespace: str) -> None:
    url = "http://helloworld-v1-0.hello.pod:5000/hello"
    assert not ask(world("lesson", V1, V2, enrolled=True), "pod/client", "HEAD", url, namespace).allowed


def test_every_client_of_the_table_exists() -> None:
    names = {key for key in world("lesson").objects if key.kind == "Pod" and key.name == "client"}
    assert names == {Key("Pod", one, "client") for one in ("test", "web", "outside")}
    assert yaml.safe_load(_file(V1))["metadata"]["namespace"] == "hello"
