"""Parts without I/O: selectors, versions, requests, patches, RBAC rules, durations."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.cluster.apiserver.auth.rules import Attributes, Rule, uncovered
from tulle.cluster.apiserver.errors import StatusError
from tulle.cluster.apiserver.patch.json_patch import JsonPatchError, apply_json_patch
from tulle.cluster.apiserver.patch.merge_patch import apply_merge_patch
from tulle.cluster.apiserver.patch.strategic import StrategicPatchError, apply_strategic_patch
from tulle.cluster.apiserver.registry import version_rank
from tulle.cluster.apiserver.request import parse
from tulle.cluster.apiserver.rest.body import parse_yaml
from tulle.cluster.apiserver.rest.response import negotiate
from tulle.cluster.apiserver.selectors import (
    from_label_selector_object,
    parse_field_selector,
    parse_label_selector,
    valid_label_key,
    valid_label_value,
)
from tulle.cluster.apiserver.strategy.pod_defaults import default_pod_spec
from tulle.cluster.apiserver.table.cells import human_duration
from tulle.cluster.apiserver.table.custom import json_path


@pytest.mark.parametrize(
    ("text", "matching", "other"),
    [
        ("app=web", {"app": "web"}, {"app": "db"}),
        ("app==web,tier", {"app": "web", "tier": ""}, {"app": "web"}),
        ("app!=web", {}, {"app": "web"}),
        ("!app", {}, {"app": ""}),
        ("app in (a, b)", {"app": "b"}, {"app": "c"}),
        ("app notin (a,b)", {"app": "c"}, {"app": "a"}),
        ("n>3", {"n": "4"}, {"n": "3"}),
        ("n<3", {"n": "2"}, {}),
        ("example.com/role=x", {"example.com/role": "x"}, {"role": "x"}),
        ("", {}, None),
    ],
)
def test_label_selectors(text: str, matching: dict[str, str], other: dict[str, str] | None) -> None:
    selector = parse_label_selector(text)
    assert selector.matches(matching)
    assert other is None or not selector.matches(other)


@pytest.mark.parametrize("text", ["a=b c", "in (a)(", "a=-", "=x", "a in b", "n>x", "/x=y", "a=b,,=c"])
def test_bad_label_selectors_are_refused(text: str) -> None:
    with pytest.raises(StatusError) as refused:
        parse_label_selector(text)
    assert refused.value.code == 400


@given(st.dictionaries(st.sampled_from("abc"), st.sampled_from("xyz")), st.sampled_from("abc"), st.sampled_from("xyz"))
def test_a_selector_and_its_negation_never_agree(labels: dict[str, str], key: str, value: str) -> None:
    for positive, negative in (
        (f"{key}={value}", f"{key}!={value}"),
        (f"{key} in ({value})", f"{key} notin ({value})"),
        (key, f"!{key}"),
    ):
        assert parse_label_selector(positive).matches(labels) != parse_label_selector(negative).matches(labels)


def test_label_selector_objects() -> None:
    selector = from_label_selector_object(
        {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "DoesNotExist"}]}
    )
    assert selector.matches({"a": "b"})
    assert not selector.matches({"a": "b", "c": ""})
    assert from_label_selector_object({}).matches({})
    assert not from_label_selector_object(None).matches({"a": "b"})


def test_field_selectors_know_their_fields() -> None:
    selector = parse_field_selector("metadata.name=a,status.phase!=Running", ["metadata.name", "status.phase"])
    assert selector.matches({"metadata.name": "a", "status.phase": "Pending"})
    with pytest.raises(StatusError, match=r"field label not supported: spec\.x"):
        parse_field_selector("spec.x=1", ["metadata.name"])


def test_label_syntax() -> None:
    assert valid_label_key("app.kubernetes.io/name")
    assert valid_label_key("A_b.c")
    assert not valid_label_key("a/b/c")
    assert not valid_label_key("-a")
    assert not valid_label_key("x" * 64)
    assert valid_label_value("")
    assert not valid_label_value("a b")
    assert not valid_label_value("x" * 64)


def test_versions_are_ranked_as_clients_expect() -> None:
    names = ["v1beta1", "foo", "v2", "v1", "v10", "v2alpha1", "v1beta2", "v11alpha2"]
    assert sorted(names, key=version_rank) == ["v10", "v2", "v1", "v1beta2", "v1beta1", "v11alpha2", "v2alpha1", "foo"]


@pytest.mark.parametrize(
    ("method", "path", "query", "wanted"),
    [
        ("GET", "/api/v1/pods", {}, ("list", "", "", "pods", "", "")),
        ("GET", "/api/v1/namespaces/a/pods", {"watch": "true"}, ("watch", "", "a", "pods", "", "")),
        ("GET", "/api/v1/namespaces/a", {}, ("get", "", "a", "namespaces", "a", "")),
        ("PUT", "/api/v1/namespaces/a/finalize", {}, ("update", "", "a", "namespaces", "a", "finalize")),
        (
            "DELETE",
            "/apis/apps/v1/namespaces/a/deployments",
            {},
            ("deletecollection", "apps", "a", "deployments", "", ""),
        ),
        ("GET", "/api/v1/namespaces/a/pods/p/log", {}, ("get", "", "a", "pods", "p", "log")),
        ("PATCH", "/apis/g/v1/things/t/status", {}, ("patch", "g", "", "things", "t", "status")),
        ("POST", "/api/v1/namespaces/a/status", {}, ("create", "", "a", "namespaces", "a", "status")),
        ("GET", "/apis/apps/v1", {}, ("get", "", "", "", "", "")),
    ],
)
def test_requests(method: str, path: str, query: dict[str, str], wanted: tuple[str, ...]) -> None:
    info = parse(method, path, query)
    assert (info.verb, info.group, info.namespace, info.resource, info.name, info.subresource) == wanted


def test_accept_headers() -> None:
    table = negotiate("application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
    assert (table.shape, table.media) == ("table", "json")
    assert negotiate("application/vnd.kubernetes.protobuf, */*").shape == "object"
    assert negotiate("application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io").shape == "metadata"
    assert negotiate("application/yaml").media == "yaml"
    with pytest.raises(StatusError) as refused:
        negotiate("application/vnd.kubernetes.protobuf")
    assert refused.value.code == 406


@pytest.mark.parametrize(
    ("operations", "wanted"),
    [
        ([{"op": "add", "path": "/a/-", "value": 3}], {"a": [1, 2, 3], "b": {"c~/d": 1}}),
        ([{"op": "add", "path": "/a/0", "value": 0}], {"a": [0, 1, 2], "b": {"c~/d": 1}}),
        ([{"op": "remove", "path": "/b/c~0~1d"}], {"a": [1, 2], "b": {}}),
        ([{"op": "replace", "path": "/a/1", "value": 9}], {"a": [1, 9], "b": {"c~/d": 1}}),
        ([{"op": "move", "from": "/a", "path": "/b/x"}], {"b": {"c~/d": 1, "x": [1, 2]}}),
        ([{"op": "copy", "from": "/a/0", "path": "/z"}], {"a": [1, 2], "b": {"c~/d": 1}, "z": 1}),
        ([{"op": "test", "path": "/a/0", "value": 1}], {"a": [1, 2], "b": {"c~/d": 1}}),
    ],
)
def test_json_patch(operations: list[Any], wanted: Any) -> None:
    document = {"a": [1, 2], "b": {"c~/d": 1}}
    assert apply_json_patch(document, operations) == wanted
    assert document == {"a": [1, 2], "b": {"c~/d": 1}}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/x"},
        {"op": "replace", "path": "/x", "value": 1},
        {"op": "add", "path": "/a/9", "value": 1},
        {"op": "add", "path": "a", "value": 1},
        {"op": "add", "path": "/a"},
        {"op": "test", "path": "/a/0", "value": 2},
        {"op": "bogus", "path": "/a"},
        {"path": "/a"},
        {"op": "add", "path": "/a/0/b", "value": 1},
    ],
)
def test_json_patches_that_do_not_fit(operation: Any) -> None:
    with pytest.raises(JsonPatchError):
        apply_json_patch({"a": [1]}, [operation])


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@given(_JSON, _JSON)
def test_a_merge_patch_is_idempotent(document: Any, patch: Any) -> None:
    once = apply_merge_patch(document, patch)
    assert apply_merge_patch(once, patch) == once


def test_merge_patch_removes_nulls() -> None:
    assert apply_merge_patch({"a": {"b": 1, "c": 2}}, {"a": {"b": None}, "d": {"e": None}}) == {"a": {"c": 2}, "d": {}}


POD = "io.k8s.api.core.v1.Pod"
CONTAINERS = {"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}}


def test_strategic_patch_merges_lists_by_key() -> None:
    patched = apply_strategic_patch(CONTAINERS, {"spec": {"containers": [{"name": "b", "image": "3"}]}}, POD)
    assert patched["spec"]["containers"] == [{"name": "a", "image": "1"}, {"name": "b", "image": "3"}]


def test_strategic_patch_deletes_orders_and_replaces() -> None:
    deleted = apply_strategic_patch(CONTAINERS, {"spec": {"containers": [{"$patch": "delete", "name": "a"}]}}, POD)
    assert [c["name"] for c in deleted["spec"]["containers"]] == ["b"]
    order = {"spec": {"$setElementOrder/containers": [{"name": "c"}, {"name": "a"}], "containers": [{"name": "c"}]}}
    assert [c["name"] for c in apply_strategic_patch(CONTAINERS, order, POD)["spec"]["containers"]] == ["c", "a", "b"]
    replaced = {"spec": {"containers": [{"name": "z"}, {"$patch": "replace"}]}}
    assert apply_strategic_patch(CONTAINERS, replaced, POD)["spec"]["containers"] == [{"name": "z"}]


def test_strategic_patch_of_primitive_lists_and_retained_keys() -> None:
    pod = {"metadata": {"finalizers": ["a", "b"]}, "spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}
    patch = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]}}
    assert apply_strategic_patch(pod, patch, POD)["metadata"]["finalizers"] == ["b", "c"]
    volumes = [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]
    retained = apply_strategic_patch(pod, {"spec": {"volumes": volumes}}, POD)
    assert retained["spec"]["volumes"] == [{"name": "v", "hostPath": {"path": "/x"}}]


def test_strategic_patch_refuses_items_without_their_key() -> None:
    with pytest.raises(StrategicPatchError, match="merge key: name"):
        apply_strategic_patch(CONTAINERS, {"spec": {"containers": [{"image": "x"}]}}, POD)


def rule(**fields: list[str]) -> Rule:
    return Rule.parse(fields)


@pytest.mark.parametrize(
    ("allowed", "attributes"),
    [
        (True, Attributes("get", resource="pods")),
        (False, Attributes("get", resource="pods", subresource="log")),
        (False, Attributes("list", resource="pods")),
        (False, Attributes("get", group="apps", resource="pods")),
        (False, Attributes("get", path="/pods")),
    ],
)
def test_a_rule_covers_exactly_what_it_says(allowed: bool, attributes: Attributes) -> None:
    assert rule(verbs=["get"], apiGroups=[""], resources=["pods"]).covers(attributes) is allowed


def test_wildcards_names_and_paths() -> None:
    assert rule(verbs=["*"], apiGroups=["*"], resources=["*"]).covers(Attributes("x", "g", "v", "r", "s"))
    assert rule(verbs=["get"], apiGroups=[""], resources=["*/log"]).covers(
        Attributes("get", resource="pods", subresource="log")
    )
    named = rule(verbs=["get"], apiGroups=[""], resources=["pods"], resourceNames=["a"])
    assert named.covers(Attributes("get", resource="pods", name="a"))
    assert not named.covers(Attributes("get", resource="pods", name="b"))
    assert not named.covers(Attributes("get", resource="pods"))
    paths = rule(verbs=["get"], nonResourceURLs=["/healthz", "/api/*"])
    assert paths.covers(Attributes("get", path="/api/v1"))
    assert not paths.covers(Attributes("get", path="/metrics"))


_NAMES = st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=2)
_POLICY_RULES = st.fixed_dictionaries({"verbs": _NAMES, "apiGroups": _NAMES, "resources": _NAMES})


@given(st.lists(_POLICY_RULES, max_size=3), st.lists(_POLICY_RULES, max_size=2))
def test_what_is_covered_gives_nothing_new(held: list[Any], wanted: list[Any]) -> None:
    rules = [Rule.parse(item) for item in held]
    if uncovered(rules, wanted):
        return
    for verb in "abc":
        for resource in "abc":
            attributes = Attributes(verb, "a", "v1", resource)
            if any(Rule.parse(item).covers(attributes) for item in wanted):
                assert any(item.covers(attributes) for item in rules)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (119, "119s"), (120, "2m"), (125, "2m5s"), (600, "10m"), (10799, "179m"), (10800, "3h"), (11000, "3h3m"),
        (8 * 3600, "8h"), (47 * 3600, "47h"), (48 * 3600, "2d"), (50 * 3600, "2d2h"), (9 * 86400, "9d"),
        (729 * 86400, "729d"), (730 * 86400, "2y"), (740 * 86400, "2y10d"), (3000 * 86400, "8y"), (-5, "<invalid>"),
    ],
)  # fmt: skip
def test_ages(seconds: int, text: str) -> None:
    assert human_duration(seconds) == text


def test_json_paths() -> None:
    obj = {"spec": {"l": [{"t": "A", "v": 1}, {"t": "B", "v": 2}], "a.b": "x"}}
    assert json_path(obj, ".spec.l[1].v") == [2]
    assert json_path(obj, ".spec.l[*].v") == [1, 2]
    assert json_path(obj, '.spec.l[?(@.t=="B")].v') == [2]
    assert json_path(obj, r".spec.a\.b") == ["x"]
    assert json_path(obj, ".spec.nothing.here") == []


def test_yaml_is_not_more_than_it_may_be_once_its_aliases_are_written_out() -> None:
    assert parse_yaml(b"a: &x {b: c}\nd: [*x, *x]\n") == {"a": {"b": "c"}, "d": [{"b": "c"}] * 2}
    levels = "".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, 10))
    for bad in (f"l0: &l0 [a]\n{levels}", "a: &a [*a]\n"):
        with pytest.raises(StatusError, match="too many aliases"):
            parse_yaml(bad.encode())


def test_a_probe_of_zeros_is_one_of_defaults() -> None:
    probe = {"tcpSocket": {"port": 80}, "periodSeconds": 0, "timeoutSeconds": 0, "failureThreshold": 5}
    spec = {"containers": [{"name": "c", "image": "busybox", "livenessProbe": probe}]}
    default_pod_spec(spec)
    assert spec["containers"][0]["livenessProbe"] == {  # type: ignore[index]
        "tcpSocket": {"port": 80},
        "periodSeconds": 10,
        "timeoutSeconds": 1,
        "successThreshold": 1,
        "failureThreshold": 5,
    }
