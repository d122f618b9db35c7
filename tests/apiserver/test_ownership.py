"""Field ownership: the algebra of field sets, and server-side apply by several managers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.cluster.apiserver.errors import StatusError
from tulle.cluster.apiserver.kinds import Kind
from tulle.cluster.apiserver.patch import fieldset, managers
from tulle.cluster.apiserver.patch.apply import apply_change
from tulle.cluster.apiserver.patch.managers import Manager
from tulle.cluster.apiserver.rest.call import Options

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "spec": {
            "type": "object",
            "properties": {
                "size": {"type": "integer"},
                "color": {"type": "string"},
                "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
                "whole": {"type": "array", "items": {"type": "integer"}},
                "map": {"type": "object", "additionalProperties": {"type": "string"}},
                "items": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "properties": {"name": {"type": "string"}, "v": {"type": "integer"}}},
                },
            },
        },
        "status": {
            "type": "object",
            "properties": {
                "conditions": {
                    "type": "array",
                    "x-kubernetes-list-type": "map",
                    "x-kubernetes-list-map-keys": ["type"],
                    "items": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                }
            },
        },
    },
}
KIND = Kind("example.com", "v1", "Thing", "things", True, SCHEMA, subresources=("status",))


def thing(**fields: Any) -> dict[str, Any]:
    return {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t", "namespace": "n"}, **fields}


def apply(live: dict[str, Any] | None, who: str, applied: dict[str, Any], *, force: bool = False, sub: str = "") -> Any:
    query = {"fieldManager": who, "force": "true" if force else "false"}
    change = apply_change(KIND, copy.deepcopy(applied), Options(manager=who), sub, query)
    return change.created("t") if live is None else change.changed(copy.deepcopy(live))


def owned(obj: Any, who: str, operation: str = "Apply", sub: str = "") -> set[str]:
    found = managers.read(obj).get(Manager(who, operation, sub))
    return {fieldset.text(path) for path in found.paths} if found else set()


def test_an_applied_object_is_owned_by_its_applier() -> None:
    obj = apply(None, "a", thing(spec={"size": 1, "items": [{"name": "x", "v": 1}]}))
    assert owned(obj, "a") == {
        ".spec.size",
        '.spec.items[name="x"]',
        '.spec.items[name="x"].name',
        '.spec.items[name="x"].v',
    }


def test_a_second_manager_adds_its_own_items() -> None:
    obj = apply(None, "a", thing(spec={"items": [{"name": "x", "v": 1}], "tags": ["p"]}))
    obj = apply(obj, "b", thing(spec={"items": [{"name": "y", "v": 2}], "tags": ["q"]}))
    assert obj["spec"] == {"items": [{"name": "x", "v": 1}, {"name": "y", "v": 2}], "tags": ["p", "q"]}
    obj = apply(obj, "a", thing(spec={}))
    assert obj["spec"]["items"] == [{"name": "y", "v": 2}]
    assert obj["spec"]["tags"] == ["q"]


def test_a_value_owned_by_another_is_a_conflict_unless_forced() -> None:
    obj = apply(None, "a", thing(spec={"size": 1, "color": "red"}))
    with pytest.raises(StatusError) as refused:
        apply(obj, "b", thing(spec={"size": 2}))
    assert refused.value.code == 409
    assert refused.value.message == 'Apply failed with 1 conflict: conflict with "a": .spec.size'
    assert refused.value.details["causes"] == [
        {"reason": "FieldManagerConflict", "message": 'conflict with "a"', "field": ".spec.size"}
    ]
    forced = apply(obj, "b", thing(spec={"size": 2}), force=True)
    assert forced["spec"] == {"size": 2, "color": "red"}
    assert owned(forced, "a") == {".spec.color"}
    assert owned(forced, "b") == {".spec.size"}


def test_the_same_value_is_shared_and_survives_one_owner() -> None:
    obj = apply(None, "a", thing(spec={"size": 1}))
    obj = apply(obj, "b", thing(spec={"size": 1}))
    obj = apply(obj, "a", thing(spec={}))
    assert obj["spec"] == {"size": 1}
    assert owned(obj, "b") == {".spec.size"}
    assert owned(obj, "a") == {".spec"}
    assert apply(obj, "b", thing(spec={}))["spec"] == {}


def test_atomic_lists_are_owned_whole() -> None:
    obj = apply(None, "a", thing(spec={"whole": [1, 2]}))
    with pytest.raises(StatusError):
        apply(obj, "b", thing(spec={"whole": [1, 3]}))
    assert apply(obj, "a", thing(spec={"whole": [5]}))["spec"]["whole"] == [5]


def test_conditions_of_several_status_writers_live_together() -> None:
    obj = apply(None, "a", thing(spec={"size": 1}))
    one = thing(status={"conditions": [{"type": "Ready", "status": "True"}]})
    two = thing(status={"conditions": [{"type": "Bound", "status": "False"}]})
    obj = apply(obj, "c1", one, sub="status")
    obj = apply(obj, "c2", two, sub="status")
    assert [c["type"] for c in obj["status"]["conditions"]] == ["Ready", "Bound"]
    obj = apply(obj, "c1", thing(status={}), sub="status")
    assert [c["type"] for c in obj["status"]["conditions"]] == ["Bound"]
    assert obj["spec"] == {"size": 1}


def test_applying_again_changes_nothing() -> None:
    first = apply(None, "a", thing(spec={"size": 1, "map": {"k": "v"}}))
    again = apply(first, "a", thing(spec={"size": 1, "map": {"k": "v"}}))
    assert again == first


def test_an_update_takes_over_what_it_changes() -> None:
    obj = apply(None, "a", thing(spec={"size": 1, "color": "red"}))
    new = copy.deepcopy(obj)
    new["spec"]["size"] = 5
    managers.update(KIND, obj, new, Manager("edit", managers.UPDATE), "2026-01-01T00:00:00Z")
    assert owned(new, "a") == {".spec.color"}
    assert owned(new, "edit", "Update") == {".spec.size"}
    with pytest.raises(StatusError, match=r'conflict with "edit" using example\.com/v1 at 2026-01-01T00:00:00Z'):
        apply(new, "a", thing(spec={"size": 1, "color": "red"}))


def test_what_is_removed_is_owned_by_nobody() -> None:
    obj = apply(None, "a", thing(spec={"items": [{"name": "x", "v": 1}], "size": 1}))
    new = copy.deepcopy(obj)
    new["spec"]["items"] = []
    managers.update(KIND, obj, new, Manager("edit", managers.UPDATE), "2026-01-01T00:00:00Z")
    assert owned(new, "a") == {".spec.size"}


_ITEMS = st.lists(
    st.fixed_dictionaries({"name": st.sampled_from("xyz"), "v": st.integers(0, 2)}),
    max_size=3,
    unique_by=lambda i: i["name"],
)
_SPECS = st.fixed_dictionaries(
    {},
    optional={
        "size": st.integers(0, 2),
        "color": st.sampled_from(["red", "blue"]),
        "tags": st.lists(st.sampled_from("pq"), unique=True, max_size=2),
        "map": st.dictionaries(st.sampled_from("kl"), st.sampled_from("12"), min_size=1, max_size=2),
        "items": _ITEMS,
    },
)


@given(_SPECS, _SPECS, _SPECS)
def test_what_a_manager_applies_is_there_afterwards(first: Any, second: Any, third: Any) -> None:
    obj = apply(None, "a", thing(spec=first))
    for who, spec in (("b", second), ("a", third)):
        obj = apply(obj, who, thing(spec=spec), force=True)
        wanted = fieldset.owned_paths({"spec": spec}, SCHEMA)
        there = fieldset.owned_paths({"spec": obj["spec"]}, SCHEMA)
        assert all(any(fieldset.is_prefix(path, other) for other in there) for path in wanted if path != ("f:spec",))
        merged = fieldset.merge({"spec": obj["spec"]}, {"spec": spec}, SCHEMA)
        assert merged == {"spec": obj["spec"]}


@given(_SPECS)
def test_field_sets_survive_their_encoding(spec: Any) -> None:
    paths = fieldset.owned_paths({"spec": spec}, SCHEMA)
    assert fieldset.from_fields_v1(fieldset.to_fields_v1(paths)) == paths


@given(_SPECS, _SPECS)
def test_equal_documents_do_not_differ(first: Any, second: Any) -> None:
    changed, removed = fieldset.compare({"spec": first}, {"spec": second}, SCHEMA)
    if first == second:
        assert not changed
        assert not removed
