"""Manifests in: where they come from, and complaints that say where they are wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tulle.cli.explain import documents, places
from tulle.cli.explain.documents import InputError, Key
from tulle.cli.explain.world import offline

from .scenes import BASE, policy, read, scene


def test_namespace_of_a_path(tmp_path: Path) -> None:
    file = tmp_path / "svc.yaml"
    file.write_text("{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ports: [{port: 1}]}}")
    assert [one.key for one in documents.load([str(file)])] == [Key("Service", "default", "a")]
    assert [one.key for one in documents.load([f"hello={file}"])] == [Key("Service", "hello", "a")]
    assert [one.key.namespace for one in documents.load(["web=-"], file.read_text())] == ["web"]


def test_lists_are_taken_apart() -> None:
    text = "{apiVersion: v1, kind: PodList, items: [{metadata: {name: a, namespace: n}}, {metadata: {name: b, namespace: n}}]}"
    assert [str(one.key) for one in read(text)] == ["Pod/n/a", "Pod/n/b"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [", "stdin: this is no YAML"),
        ("[1]", "stdin: found list; a Kubernetes object is a mapping"),
        ("{metadata: {name: a}}", "stdin: kind: found None"),
        ("{kind: Pod}", "stdin: Pod: metadata: found None"),
        ("{kind: Pod, metadata: {name: ''}}", "stdin: Pod: metadata.name: found ''"),
    ],
)
def test_malformed_documents(text: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        documents.load(["-"], text)
    assert says in str(error.value)


def test_no_such_file_and_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        documents.load([str(tmp_path / "none.yaml")])
    with pytest.raises(InputError, match=r"no \.yaml"):
        documents.load([str(tmp_path)])


def test_one_object_twice(tmp_path: Path) -> None:
    for name, port in (("a.yaml", 1), ("b.yaml", 2)):
        (tmp_path / name).write_text(f"{{kind: Service, metadata: {{name: s}}, spec: {{ports: [{{port: {port}}}]}}}}")
    with pytest.raises(InputError, match=r"b\.yaml: Service/default/s stands in .*a\.yaml too"):
        documents.load([str(tmp_path)])


def test_wrong_field_is_named() -> None:
    bad = "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: hello}, spec: {ports: [{port: five}]}}"
    with pytest.raises(
        InputError, match=r"stdin: Service/hello/s: spec\.ports\[(0|\.\.\.)\]\.port: Expected `int`, got `str`"
    ):
        scene(bad)


def test_policy_that_admission_refuses_is_refused() -> None:
    with pytest.raises(InputError, match=r"AuthorizationPolicy/hello/p would be refused:\n +spec\.rules\[0\]\.from"):
        scene(policy("p", {"rules": [{"from": []}]}))
    peer = (
        "{kind: PeerAuthentication, metadata: {name: p, namespace: hello}, spec: {portLevelMtls: {80: {mode: STRICT}}}}"
    )
    with pytest.raises(InputError, match="PeerAuthentication/hello/p would be refused"):
        scene(peer)


def test_mesh_configuration_that_cannot_be_read() -> None:
    config = (
        "{kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: 'tulle: {headIsGett: true}'}}"
    )
    with pytest.raises(InputError, match=r"ConfigMap/istio-system/istio: data\.mesh: .*headIsGett"):
        scene(config, profile="")
    with pytest.raises(InputError, match="--profile"):
        scene(profile="other")


def test_named_target_ports_are_resolved() -> None:
    named = BASE.replace("targetPort: 8080", "targetPort: web").replace(
        "{containerPort: 8080}", "{name: web, containerPort: 8081}"
    )
    target = places.target(scene(named), "http://helloworld.hello:5000/", "test")
    assert [endpoint.port for endpoint in target.endpoints] == [8081]


def test_objects_with_a_status_are_left_as_they_are() -> None:
    dumped = (
        BASE
        + """
---
apiVersion: v1
kind: Pod
metadata: {name: dumped, namespace: hello, labels: {app: helloworld}}
spec: {containers: [{name: main}]}
status: {phase: Running, podIP: 10.9.9.9, conditions: [{type: Ready, status: 'True'}]}
"""
    )
    world = offline(read(dumped), "istio")
    found = {state.record.name: state.record for state in world.index.workloads.values()}
    assert "helloworld-0" not in found, "a real pod takes the place of the stand-in"
    assert found["dumped"].addresses == ("10.9.9.9",)
    assert not found["dumped"].hbone, "the annotation tells, and it is not there"


@pytest.mark.parametrize(
    "host", ["helloworld", "helloworld.hello", "helloworld.hello.svc", "helloworld.hello.svc.cluster.local"]
)
def test_names_of_a_service(host: str) -> None:
    assert places.target(scene(), f"http://{host}:5000/", "hello").service is not None


def test_a_service_by_its_address() -> None:
    world = scene()
    (address,) = next(iter(world.index.services.values())).record.addresses
    assert places.target(world, f"http://{address}:5000/", "test").service is not None
    assert places.target(world, "http://helloworld-0.hello.pod:8080/", "test").via is places.Via.POD


@pytest.mark.parametrize(
    ("client", "what"),
    [
        ("curl", "pod test/curl"),
        ("pods/curl", "pod test/curl"),
        ("sa/robot", "service account test/robot"),
        ("spiffe://cluster.local/ns/a/sa/b", "spiffe://cluster.local/ns/a/sa/b"),
        ("outside", "a client outside the mesh"),
    ],
)
def test_clients(client: str, what: str) -> None:
    assert places.client(scene(), client, "test").what == what


def test_a_deployment_is_one_of_its_pods() -> None:
    assert places.client(scene(), "deployment/helloworld", "hello").what == "pod hello/helloworld-0"


def test_unknown_clients() -> None:
    with pytest.raises(InputError, match=r"no such pod with an address in namespace test; its pods are curl"):
        places.client(scene(), "pod/other", "test")
    with pytest.raises(InputError, match="accepted are pod/NAME"):
        places.client(scene(), "secret/x", "test")
    with pytest.raises(InputError, match="accepted is"):
        places.client(scene(), "spiffe://what", "test")
    for name in ("", "a/b", "A"):
        with pytest.raises(InputError, match=f"client 'sa/{name}'"):
            places.client(scene(), f"sa/{name}", "test")


@pytest.mark.parametrize(
    "url",
    [
        *(
            "ftp://a/",
            "http://:80/",
            "tcp://a",
            "http://a:x/",
            "http://[::1",
            "http://ex\u2100mple/",
            "http://h\u00e9/",
        ),
        *("http://helloworld.hello:5000/caf\u00e9", "http://helloworld.hello:5000/a b", "http://helloworld.hello:0/"),
    ],
)
def test_bad_urls(url: str) -> None:
    with pytest.raises(InputError, match="URL"):
        places.target(scene(), url, "test")


def outside(name: str, address: str, namespace: str = "test", **spec: Any) -> str:
    body = {"hosts": [f"{name}.example"], "addresses": [address], "ports": [{"number": 5000, "name": "http"}], **spec}
    manifest = {"kind": "ServiceEntry", "metadata": {"name": name, "namespace": namespace}, "spec": body}
    return json.dumps(manifest)


def test_an_address_that_several_claim_is_whose_node_proxies_take_it_for() -> None:
    """The pod's, the Service's, and of ServiceEntries the one of the client's namespace, then the oldest."""
    world = scene()
    (service,) = (one.record for one in world.index.services.values() if one.record.name == "helloworld")
    pod = next(one.record for one in world.index.workloads.values() if one.record.namespace == "hello")
    taking = outside("a", service.addresses[0], "aaa"), outside("b", pod.addresses[0], "aaa")
    for texts in (taking, taking[::-1]):
        found = scene(*texts)
        at = places.target(found, f"http://{service.addresses[0]}:5000/", "test").service
        assert at is not None
        assert at.record.name == "helloworld"
        assert places.target(found, f"http://{pod.addresses[0]}:5000/", "test").via is places.Via.POD
    several = scene(
        outside("a", "192.0.2.1", "aaa"), outside("b", "192.0.2.1", "bbb"), outside("c", "192.0.2.1", "test")
    )
    for namespace, name in (("test", "c"), ("bbb", "b"), ("hello", "a")):
        at = places.target(several, "http://192.0.2.1:5000/", namespace).service
        assert at is not None
        assert at.record.name == name
    private = scene(outside("a", "192.0.2.1", "aaa", exportTo=["."]))
    assert places.target(private, "http://192.0.2.1:5000/", "test").service is None


@pytest.mark.parametrize(
    ("kind", "rest", "field"),
    [
        ("AuthorizationPolicy", "metadata: {name: x, generation: many}", "metadata.generation"),
        ("AuthorizationPolicy", "metadata: {name: x, annotations: [a]}", "metadata.annotations"),
        ("Pod", "metadata: {name: x, labels: [a]}, spec: {containers: [{name: a}]}", "metadata.labels"),
        ("Pod", "metadata: {name: x}, spec: {containers: [{name: a}]}, status: x", "status"),
        ("Service", "metadata: {name: x}, spec: {selector: [a]}", "spec.selector"),
        ("Service", "metadata: {name: x}, spec: x", "spec"),
        ("Deployment", "metadata: {name: x}, spec: {template: x}", "spec.template"),
        (
            "Deployment",
            "metadata: {name: x}, spec: {template: {metadata: {labels: [a]}}}",
            "spec.template.metadata.labels",
        ),
        ("StatefulSet", "metadata: {name: x}, spec: {replicas: three}", "spec.replicas"),
        ("Gateway", "metadata: {name: x}, spec: [1]", "spec"),
        ("ServiceEntry", "metadata: {name: x}, spec: {hosts: [a.example], ports: [{number: 80}]}", "spec.ports[0]"),
        ("ServiceEntry", "metadata: {name: x}, spec: [1]", "spec"),
        ("WorkloadEntry", "metadata: {name: x}, spec: {address: 5}", "spec.address"),
        ("ConfigMap", "metadata: {name: istio, namespace: istio-system}, data: {mesh: [1]}", "data[...]"),
        ("ConfigMap", "metadata: {name: istio, namespace: istio-system}, data: [x]", "data"),
        ("ValidatingWebhookConfiguration", "metadata: {name: x}, webhooks: [5]", "webhooks[0]"),
    ],
)
def test_a_field_of_the_wrong_type_is_named_before_anything_is_made_of_it(kind: str, rest: str, field: str) -> None:
    with pytest.raises(InputError) as error:
        scene(f"{{kind: {kind}, {rest}}}", profile="")
    assert str(error.value).startswith(f"stdin: {kind}/")
    assert f"/x: {field}: " in str(error.value).replace("istio-system/istio:", "/x:")


def test_nulls_in_a_manifest_are_absent() -> None:
    text = "{kind: Pod, metadata: {name: x, namespace: hello, labels: null}, spec: {containers: [null, {name: a, ports: null}]}}"
    assert scene(text).manifest("Pod", "hello", "x") is not None
