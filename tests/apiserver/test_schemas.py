"""Custom resources: pruning, defaulting, validation; and the status word of pods."""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.cluster.apiserver import crds
from tulle.cluster.apiserver.errors import internal
from tulle.cluster.apiserver.rest.subresources import scale_of
from tulle.cluster.apiserver.schema import custom
from tulle.cluster.apiserver.schema.structural import validate_definition
from tulle.cluster.apiserver.schema.validate import validate
from tulle.cluster.apiserver.table.columns import ROWS
from tulle.cluster.apiserver.table.pods import summarize

from .conftest import Api


def schema(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}}


def problems(value: Any, **field: Any) -> list[str]:
    return [f"{e.path}: {e.text}" for e in validate({"spec": {"f": value}}, schema(f=field))]


@pytest.mark.parametrize(
    ("value", "field", "wanted"),
    [
        (
            "x",
            {"type": "integer"},
            ['spec.f: Invalid value: "string": spec.f in body must be of type integer: "string"'],
        ),
        (
            True,
            {"type": "integer"},
            ['spec.f: Invalid value: "boolean": spec.f in body must be of type integer: "boolean"'],
        ),
        (2.0, {"type": "integer"}, []),
        (None, {"type": "string", "nullable": True}, []),
        ("c", {"type": "string", "enum": ["a", "b"]}, ['spec.f: Unsupported value: "c": supported values: "a", "b"']),
        ("ab", {"type": "string", "maxLength": 1}, ["spec.f: Too long: may not be more than 1 bytes"]),
        (
            "",
            {"type": "string", "minLength": 1},
            ['spec.f: Invalid value: "": spec.f in body should be at least 1 chars long'],
        ),
        (
            "a b",
            {"type": "string", "pattern": "^[a-z]+$"},
            ["spec.f: Invalid value: \"a b\": spec.f in body should match '^[a-z]+$'"],
        ),
        (
            5,
            {"type": "integer", "maximum": 4},
            ["spec.f: Invalid value: 5: spec.f in body should be less than or equal to 4"],
        ),
        (
            [1, 2],
            {"type": "array", "maxItems": 1, "items": {"type": "integer"}},
            ["spec.f: Too many: 2: must have at most 1 items"],
        ),
        (
            ["a", "a"],
            {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            ['spec.f[1]: Duplicate value: "a"'],
        ),
        ({}, {"type": "object", "required": ["a"]}, ["spec.f.a: Required value"]),
        ("10%", {"x-kubernetes-int-or-string": True}, []),
        (
            [],
            {"x-kubernetes-int-or-string": True},
            ['spec.f: Invalid value: "array": spec.f in body must be of type integer,string: "array"'],
        ),
        (
            "soon",
            {"type": "string", "format": "date-time"},
            ['spec.f: Invalid value: "soon": spec.f in body must be of type date-time: "soon"'],
        ),
        (
            {"a": 1, "b": 2},
            {"type": "object", "oneOf": [{"required": ["a"]}, {"required": ["b"]}]},
            [
                'spec.f: Invalid value: "": "spec.f" must validate one and only one schema (oneOf). Found 2 valid alternatives'
            ],
        ),
        (
            {"a": 1},
            {"type": "object", "not": {"required": ["a"]}},
            ['spec.f: Invalid value: "": "spec.f" must not validate the schema (not)'],
        ),
    ],
)
def test_validation(value: Any, field: dict[str, Any], wanted: list[str]) -> None:
    assert problems(value, **field) == wanted


def test_pruning_and_defaulting() -> None:
    spec = schema(
        a={"type": "string", "default": "x"},
        nested={"type": "object", "properties": {"b": {"type": "integer", "default": 1}}},
        free={"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        items={"type": "array", "items": {"type": "object", "properties": {"k": {"type": "string"}}}},
    )
    obj: dict[str, Any] = {
        "kind": "K", "metadata": {"name": "n", "bogus": 1},
        "spec": {"a": None, "nested": {}, "free": {"any": 1}, "items": [{"k": "v", "z": 1}], "q": 2}, "top": 1,
    }  # fmt: skip
    assert sorted(custom.prune(obj, spec)) == ["metadata.bogus", "spec.items[0].z", "spec.q", "top"]
    custom.default(obj, spec)
    assert obj == {
        "kind": "K", "metadata": {"name": "n"},
        "spec": {"a": "x", "nested": {"b": 1}, "free": {"any": 1}, "items": [{"k": "v"}]},
    }  # fmt: skip


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b", "items", "z"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(_VALUES)
def test_pruning_twice_finds_nothing_more(value: Any) -> None:
    spec = schema(
        a={"type": "string"},
        items={"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}},
    )
    obj = {"kind": "K", "metadata": {}, "spec": value}
    custom.prune(obj, spec)
    assert custom.prune(obj, spec) == []
    validate(obj, spec)


def definition(**version: Any) -> Any:
    names = {"plural": "xs", "singular": "x", "kind": "X", "listKind": "XList"}
    one = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}, **version}
    return {
        "metadata": {"name": "xs.e.com"},
        "spec": {"group": "e.com", "scope": "Cluster", "names": names, "versions": [one]},
    }


@pytest.mark.parametrize(
    ("version", "path"),
    [
        ({"schema": {}}, "spec.versions[0].schema.openAPIV3Schema"),
        ({"storage": False}, "spec.versions"),
        ({"name": "V 1"}, "spec.versions[0].name"),
        (
            {"schema": {"openAPIV3Schema": {"type": "object", "properties": {"a": {}}}}},
            "spec.versions[0].schema.openAPIV3Schema.properties[a].type",
        ),
        (
            {"schema": {"openAPIV3Schema": {"type": "object", "properties": {"a": {"type": "array"}}}}},
            "spec.versions[0].schema.openAPIV3Schema.properties[a].items",
        ),
        (
            {"additionalPrinterColumns": [{"name": "a", "type": "x", "jsonPath": ".a"}]},
            "spec.versions[0].additionalPrinterColumns[0].type",
        ),
        (
            {"additionalPrinterColumns": [{"name": "a", "type": "string"}]},
            "spec.versions[0].additionalPrinterColumns[0].jsonPath",
        ),
        (
            {"additionalPrinterColumns": [{"type": "string", "jsonPath": ".a"}]},
            "spec.versions[0].additionalPrinterColumns[0].name",
        ),
        ({"selectableFields": [{}]}, "spec.versions[0].selectableFields[0].jsonPath"),
    ],
)
def test_definitions_that_are_not_acceptable(version: dict[str, Any], path: str) -> None:
    assert [error.path for error in validate_definition(definition(**version))] == [path]
    assert validate_definition(definition()) == []


async def test_no_definition_stops_the_server(api: Api) -> None:
    path, merge = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "application/merge-patch+json"
    column = {"name": "A", "type": "string", "JSONPath": ".spec.a"}  # as v1beta1 wrote it
    status, refused = await api.call("POST", path, definition(additionalPrinterColumns=[column]))
    assert (status, refused["reason"]) == (422, "Invalid")
    await api.ok("POST", path, definition())
    said = {"status": {"conditions": [{"message": "neither a type nor a status"}]}}
    await api.ok("PATCH", f"{path}/xs.e.com/status", said, headers={"Content-Type": merge})
    await api.ok("POST", "/apis/e.com/v1/xs", {"metadata": {"name": "a"}})


async def test_no_definition_takes_the_place_of_a_built_in_resource(api: Api) -> None:
    own = definition()
    names = {"plural": "clusterroles", "singular": "mine", "kind": "Mine", "listKind": "MineList"}
    own["metadata"]["name"] = "clusterroles.rbac.authorization.k8s.io"
    own["spec"] |= {"group": "rbac.authorization.k8s.io", "names": names}
    status, refused = await api.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", own)
    assert (status, refused["details"]["causes"][0]["field"]) == (422, "spec.names.plural")
    roles = await api.ok("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles")
    assert roles["kind"] == "ClusterRoleList"


async def until(api: Api, path: str, wanted: int) -> None:
    async with asyncio.timeout(5):
        while (await api.call("GET", path))[0] != wanted:
            await asyncio.sleep(0.02)


async def test_objects_of_an_older_storage_version_are_listed_in_the_one_asked_for(api: Api) -> None:
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    await api.ok("POST", path, definition(name="v1beta1"))
    await api.ok("POST", "/apis/e.com/v1beta1/xs", {"metadata": {"name": "a"}})
    async with asyncio.timeout(5):
        while not (stored := await api.ok("GET", f"{path}/xs.e.com"))["status"].get("storedVersions"):
            await asyncio.sleep(0.02)
    (old,) = stored["spec"]["versions"]
    stored["spec"]["versions"] = [{**old, "storage": False}, {**old, "name": "v1"}]
    stored["metadata"].pop("resourceVersion")
    await api.ok("PUT", f"{path}/xs.e.com", stored)
    for version in ("v1", "v1beta1"):
        assert (await api.ok("GET", f"/apis/e.com/{version}/xs"))["items"][0]["apiVersion"] == f"e.com/{version}"
        watched = await api.ok("GET", f"/apis/e.com/{version}/xs?watch=1&timeoutSeconds=1")
        assert watched["object"]["apiVersion"] == f"e.com/{version}"


async def test_names_that_become_free_are_accepted(api: Api) -> None:
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    await api.ok("POST", path, definition())
    second = definition()
    second["metadata"]["name"], second["spec"]["names"]["plural"] = "xes.e.com", "xes"
    await api.ok("POST", path, second)
    await api.ok("DELETE", f"{path}/xs.e.com")
    await until(api, "/apis/e.com/v1/xes", 200)


async def test_a_definition_goes_once_its_resources_may(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crds, "_RETRY_SECONDS", 0.05)
    review, refusals = api.server.webhooks.review, [0]

    async def refuse_twice(change: Any, options: Any) -> None:
        if change.operation == "DELETE" and change.kind.kind == "X" and refusals[0] < 2:
            refusals[0] += 1
            raise internal("the webhook is being restarted")
        await review(change, options)

    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    await api.ok("POST", path, definition())
    await api.ok("POST", "/apis/e.com/v1/xs", {"metadata": {"name": "a"}})
    async with asyncio.timeout(5):
        while not (await api.ok("GET", f"{path}/xs.e.com"))["metadata"].get("finalizers"):
            await asyncio.sleep(0.02)
    monkeypatch.setattr(api.server.webhooks, "review", refuse_twice)
    await api.ok("DELETE", f"{path}/xs.e.com")
    await until(api, f"{path}/xs.e.com", 404)
    assert refusals == [2]


def container(name: str = "c", *, ready: bool = False, restarts: int = 0, **state: Any) -> Any:
    return {"name": name, "ready": ready, "restartCount": restarts, "state": state}


def pod(**status: Any) -> Any:
    spec = {"containers": [{"name": "c"}], "initContainers": [{"name": "i"}, {"name": "j"}]}
    return {"metadata": {"name": "p"}, "spec": spec, "status": {"phase": "Pending", **status}}


_INITIALIZED = {"conditions": [{"type": "Initialized", "status": "True"}, {"type": "Ready", "status": "True"}]}
_DONE = [container("i", terminated={"exitCode": 0}), container("j", terminated={"exitCode": 0})]


@pytest.mark.parametrize(
    ("status", "word"),
    [
        ({}, "Pending"),
        ({"initContainerStatuses": [container("i", running={})]}, "Init:0/2"),
        ({"initContainerStatuses": [_DONE[0], container("j", waiting={"reason": "PodInitializing"})]}, "Init:1/2"),
        ({"initContainerStatuses": [container("i", waiting={"reason": "ImagePullBackOff"})]}, "Init:ImagePullBackOff"),
        ({"initContainerStatuses": [container("i", terminated={"exitCode": 1, "reason": "Error"})]}, "Init:Error"),
        ({"initContainerStatuses": [container("i", terminated={"exitCode": 3})]}, "Init:ExitCode:3"),
        ({"containerStatuses": [container(waiting={"reason": "ContainerCreating"})]}, "ContainerCreating"),
        (
            {"containerStatuses": [container(waiting={"reason": "CrashLoopBackOff"})], "phase": "Running"},
            "CrashLoopBackOff",
        ),
        (
            {"containerStatuses": [container(terminated={"exitCode": 0, "reason": "Completed"})], "phase": "Succeeded"},
            "Completed",
        ),
        ({"containerStatuses": [container(terminated={"exitCode": 137, "signal": 9})], "phase": "Running"}, "Signal:9"),
        ({"containerStatuses": [container(ready=True, running={})], "phase": "Running", **_INITIALIZED}, "Running"),
        ({"phase": "Failed", "reason": "Evicted"}, "Evicted"),
    ],
)
def test_the_status_of_a_pod(status: Any, word: str) -> None:
    assert summarize(pod(**status)).reason == word


def test_a_dying_pod_is_terminating_until_it_has_ended() -> None:
    dying = pod(containerStatuses=[container(ready=True, running={})], phase="Running")
    dying["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert summarize(dying).reason == "Terminating"
    dying["status"] = {"phase": "Succeeded"}
    assert summarize(dying).reason == "Succeeded"


def test_restarts_say_when() -> None:
    now = datetime.datetime(2026, 1, 1, 0, 1, tzinfo=datetime.UTC)
    last = {"terminated": {"finishedAt": "2026-01-01T00:00:00Z"}}
    status = {**container(ready=True, restarts=3, running={}), "lastState": last}
    running = {**pod(containerStatuses=[status], initContainerStatuses=_DONE, phase="Running")}
    row = ROWS["", "Pod"].row(running, now)
    assert list(row[1:4]) == ["1/1", "Running", "3 (60s ago)"]


def test_the_scale_of_a_custom_resource() -> None:
    paths = {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n", "labelSelectorPath": ".status.selector"}
    scale = scale_of(paths, {"metadata": {"name": "a"}, "spec": {"n": 3}, "status": {"n": 1, "selector": "app=x"}})
    assert (scale["spec"], scale["status"]) == ({"replicas": 3}, {"replicas": 1, "selector": "app=x"})
