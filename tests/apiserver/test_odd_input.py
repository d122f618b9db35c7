"""What no client should send is refused in words: never answered 500, and never stored."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Api
from .test_http import pod
from .test_schemas import definition

N = "/api/v1/namespaces/n"
MAPS, A = f"{N}/configmaps", f"{N}/configmaps/a"
DEPLOYMENT = "/apis/apps/v1/namespaces/n/deployments/d"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/xs.e.com"
LONG = "9" * 5000
JSON, MERGE, STRATEGIC, APPLY, YAML = (
    {"Content-Type": f"application/{media}"}
    for media in ("json-patch+json", "merge-patch+json", "strategic-merge-patch+json", "apply-patch+yaml", "yaml")
)


def named(**metadata: Any) -> Any:
    return {"metadata": {"name": "a", **metadata}}


def owned(fields: Any) -> Any:
    return named(managedFields=[{"manager": "x", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": fields}])


def containers(value: Any, **more: Any) -> Any:
    return {"spec": {"template": {"spec": {"containers": value, **more}}}}


def schema(**field: Any) -> Any:
    (version,) = definition()["spec"]["versions"]
    root = {"openAPIV3Schema": {"type": "object", "additionalProperties": field}}
    return {"spec": {"versions": [{**version, "schema": root}]}}


def each(*values: Any) -> tuple[Any, ...]:
    return values


CASES: list[tuple[int, str, str, Any, dict[str, str]]] = [
    *(
        (400, "GET", f"{MAPS}?{query}", None, {})
        for query in (f"limit={LONG}", f"resourceVersion={LONG}", f"watch=1&resourceVersion={LONG}")
    ),
    (400, "GET", f"{A}?resourceVersion={LONG}", None, {}),
    *((400, "DELETE", f"{A}?gracePeriodSeconds={text}", None, {}) for text in ("--5", LONG, "1.5", "-")),
    *((400, "DELETE", A, {"preconditions": value}, {}) for value in ("x", [1])),
    *((400, "DELETE", A, {"gracePeriodSeconds": value}, {}) for value in each("5", {}, 10**30)),
    (400, "DELETE", A, {"propagationPolicy": {}}, {}),
    (400, "DELETE", A, {"dryRun": ["None"]}, {}),
    (400, "DELETE", f"{MAPS}?watch=1", None, {}),
    *((400, "PUT", A, {"metadata": value}, {}) for value in (None, "x", [1])),
    *((400, "PUT", A, named(resourceVersion=value), {}) for value in (5, LONG, "x")),
    (400, "PUT", A, named(uid=5), {}),
    (400, "PATCH", A, {"metadata": "x"}, MERGE),
    (400, "PATCH", A, {"metadata": {"resourceVersion": 5}}, MERGE),
    (400, "PATCH", A, [{"op": "replace", "path": "/metadata", "value": "x"}], JSON),
    (400, "PATCH", A, [{"op": "replace", "path": "/metadata/resourceVersion", "value": [1]}], JSON),
    (422, "PATCH", A, [{"op": "add", "path": f"/metadata/finalizers/{LONG}", "value": "x"}], JSON),
    *(
        (400, "PATCH", A, {"metadata": {f"{directive}": 5, "finalizers": ["e.com/x"]}}, STRATEGIC)
        for directive in ("$retainKeys", "$setElementOrder/finalizers", "$deleteFromPrimitiveList/finalizers")
    ),
    (400, "PATCH", A, {"metadata": {"$setElementOrder/finalizers": 5}}, STRATEGIC),
    (400, "PATCH", A, {"metadata": "x"}, STRATEGIC),
    (400, "PATCH", DEPLOYMENT, containers([{"$patch": "replace"}, "x"]), STRATEGIC),
    (400, "PATCH", DEPLOYMENT, containers([{"name": "c"}], **{"$setElementOrder/containers": 7}), STRATEGIC),
    *((400, "PATCH", f"{A}?fieldManager=m", {"metadata": value}, APPLY) for value in each(5, "managedFields", [])),
    *(
        (422, "PUT", A, owned(fields), {})
        for fields in each("x", [], {"f:data": "x"}, {"f:data": {"k:x": {}}}, {"x": {}}, {"f:data": {"k:[]": {}}})
    ),
    *(
        (400, "POST", MAPS, text, YAML)
        for text in (
            b'metadata: {name: b}\ndata: {a: "\\ud800"}',
            b"metadata: {name: b}\ndata: {~: x}",
            b"a: !!int x",
            b"a: !!float x",
            b"a: !!bool x",
            b"a: !!timestamp x",
            b"a: 0x_",
            b"[" * 3000,
            b"a: " + b"[" * 3000 + b"]" * 3000,
        )
    ),
    (400, "POST", MAPS, b'{"data":' * 3000, {}),
    (400, "POST", "/apis/e.com/v1/xs", b'{"metadata":{"name":"a"},"spec":' + b'{"a":' * 600 + b"1" + b"}" * 601, {}),
    *((400, "POST", f"{N}/pods/p/eviction", {"deleteOptions": value}, {}) for value in ("x", {"preconditions": 5})),
    *(
        (400, "PUT", f"{N}/finalize", value, {})
        for value in (
            {"spec": [1]},
            {"spec": {"finalizers": 5}},
            {"metadata": "x"},
            {"metadata": {"resourceVersion": 5}},
        )
    ),
    *((400, "PATCH", CRD, schema(type="object", properties=value), MERGE) for value in ([1], "x")),
    (400, "PATCH", CRD, schema(type="string", pattern=5), MERGE),
    (400, "PATCH", CRD, schema(type="array", items={"type": "object", "allOf": 5}), MERGE),
    (400, "PATCH", CRD, schema(type="array", items="x"), MERGE),
]


@pytest.fixture
async def filled(api: Api) -> Api:
    await api.namespace("n")
    await api.ok("POST", MAPS, named())
    await api.ok("POST", f"{N}/pods", pod("p"))
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod("x")["spec"]}
    spec = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    await api.ok("POST", DEPLOYMENT.removesuffix("/d"), {"metadata": {"name": "d"}, "spec": spec})
    preserving = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    await api.ok("POST", CRD.removesuffix("/xs.e.com"), definition(schema=preserving))
    return api


async def test_malformed_requests_are_refused_in_words(filled: Api) -> None:
    before = [await filled.ok("GET", path) for path in (A, f"{N}/pods/p", DEPLOYMENT)]
    found = []
    for wanted, method, path, body, headers in CASES:
        status, answer = await filled.call(method, path, body, headers=headers)
        if status != wanted or not isinstance(answer, dict) or not answer["message"]:
            found.append(f"{method} {path:.80} {body!r:.80}: {status} {answer!r:.160}")
    assert "\n".join(found) == ""
    assert [await filled.ok("GET", path) for path in (A, f"{N}/pods/p", DEPLOYMENT)] == before


async def test_keys_of_yaml_are_text_as_in_json(filled: Api) -> None:
    await filled.ok("POST", MAPS, b"metadata: {name: y, labels: {1: a}}\ndata: {on: b, 1.5: c}", headers=YAML)
    stored = await filled.ok("GET", f"{MAPS}/y")
    assert (stored["metadata"]["labels"], stored["data"]) == ({"1": "a"}, {"true": "b", "1.5": "c"})


async def test_a_pod_with_endless_grace_can_be_deleted(filled: Api) -> None:
    await filled.ok("POST", f"{N}/pods", pod("q", spec={"nodeName": "x", "terminationGracePeriodSeconds": 10**15}))
    dying = await filled.ok("DELETE", f"{N}/pods/q")
    assert dying["metadata"]["deletionGracePeriodSeconds"] >= 10**9
    await filled.ok("DELETE", f"{N}/pods/q?gracePeriodSeconds=0")
    assert (await filled.call("GET", f"{N}/pods/q"))[0] == 404
