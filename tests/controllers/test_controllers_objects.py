"""The pure parts of the other controllers: ownership, expectations, patches, conditions, endpoints, which pod goes first."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.cluster.controllers import conditions, revisions
from tulle.cluster.controllers.endpointslice import service_ports
from tulle.cluster.controllers.expectations import Expectations
from tulle.cluster.controllers.ownergraph import FOREGROUND, ORPHAN, Graph, Item, Owners, judge
from tulle.cluster.controllers.patches import merge_diff
from tulle.cluster.controllers.replicaset import removal_rank
from tulle.kube import Change, untyped
from tulle.kube.objects import ObjectMeta, OwnerReference, PartialObject, Pod, ReplicaSet, Service
from tulle.kube.resources import Resource

RESOURCE: Resource[Any] = untyped("", "v1", "things", "Thing", True)


def ref(uid: str, blocks: bool = False) -> OwnerReference:
    return OwnerReference(api_version="v1", kind="Thing", name=uid, uid=uid, block_owner_deletion=blocks)


def item(uid: str, *owners: OwnerReference, deleting: bool = False, finalizers: tuple[str, ...] = ()) -> Item:
    stamp = "2026-01-01T00:00:00Z" if deleting else ""
    meta = ObjectMeta(name=uid, uid=uid, owner_references=owners, deletion_timestamp=stamp, finalizers=finalizers)
    return Item(RESOURCE, meta)


uids = st.sampled_from("abcde")


@given(st.lists(st.tuples(uids, st.one_of(st.none(), st.lists(uids, max_size=3))), max_size=30))
def test_the_graph_knows_exactly_the_dependents(steps: list[tuple[str, list[str] | None]]) -> None:
    graph, model = Graph(), dict[str, set[str]]()
    for uid, owners in steps:
        if owners is None:
            graph.remove(uid)
            model.pop(uid, None)
        else:
            graph.put(item(uid, *map(ref, owners)))
            model[uid] = set(owners)
        for owner in "abcde":
            expected = {one for one, names in model.items() if owner in names}
            assert {one.meta.uid for one in graph.dependents(owner)} == expected


def test_only_blocking_dependents_hold_a_foreground_deletion() -> None:
    graph = Graph()
    graph.put(item("owner", deleting=True, finalizers=(FOREGROUND,)))
    graph.put(item("held", ref("owner", blocks=True)))
    graph.put(item("free", ref("owner")))
    assert [one.meta.uid for one in graph.blocking("owner")] == ["held"]


@pytest.mark.parametrize(
    ("owners", "dependents", "finalizers", "delete", "propagation"),
    [
        (Owners((ref("a"),), (ref("b"),), ()), False, (), False, "Background"),
        (Owners((), (ref("b"),), ()), False, (), True, "Background"),
        (Owners((), (), (ref("c"),)), True, (), True, "Foreground"),
        (Owners((), (), (ref("c"),)), False, (), True, "Background"),
        (Owners((), (ref("b"),), ()), True, (ORPHAN,), True, "Orphan"),
        (Owners((), (ref("b"),), ()), True, (FOREGROUND,), True, "Foreground"),
        (Owners((ref("a"),), (), (ref("c"),)), True, (), False, "Background"),
    ],
)
def test_one_solid_owner_keeps_an_object(
    owners: Owners, dependents: bool, finalizers: tuple[str, ...], delete: bool, propagation: str
) -> None:
    verdict = judge(item("x", finalizers=finalizers), owners, dependents)
    assert verdict.delete is delete
    assert verdict.propagation == propagation
    assert verdict.keep == (owners.solid if not delete else ())


def partial(name: str, uid: str, deleting: bool = False) -> PartialObject:
    stamp = "2026-01-01T00:00:00Z" if deleting else ""
    return PartialObject(metadata=ObjectMeta(namespace="n", name=name, uid=uid, deletion_timestamp=stamp))


def test_expectations_wait_for_what_was_done() -> None:
    clock = [0.0]
    expected = Expectations(lambda: clock[0])
    owner, made, doomed = ("n", "owner"), partial("a", "1"), partial("b", "2")
    expected.created(owner, made, {})
    expected.deleted(owner, doomed)
    assert not expected.satisfied(owner)
    expected.observe(Change(("n", "a"), None, made))
    assert not expected.satisfied(owner)
    expected.observe(Change(("n", "b"), doomed, msgspec.structs.replace(doomed, api_version="changed")))
    assert not expected.satisfied(owner)
    expected.observe(Change(("n", "b"), doomed, partial("b", "2", deleting=True)))
    assert expected.satisfied(owner)


def test_expectations_end() -> None:
    clock = [0.0]
    expected = Expectations(lambda: clock[0])
    owner, made = ("n", "owner"), partial("a", "1")
    expected.created(owner, made, {("n", "a"): made})
    assert expected.satisfied(owner)
    expected.created(owner, made, {("n", "a"): partial("a", "another")})
    expected.deleted(owner, partial("b", "2"))
    expected.withdraw(partial("b", "2"))
    assert not expected.satisfied(owner)
    clock[0] = 31.0
    assert expected.satisfied(owner)


values = st.integers(0, 3) | st.lists(st.integers(0, 3), max_size=2)
flat = st.dictionaries(st.sampled_from("abc"), values, max_size=3)
objects = st.dictionaries(st.sampled_from("abc"), values | flat | st.dictionaries(st.just("d"), flat), max_size=3)


def merge(target: Any, patch: Any) -> Any:
    """RFC 7386, as the RFC has it."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


@given(objects, objects)
def test_a_merge_diff_leads_from_old_to_new(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert merge(old, merge_diff(old, new)) == new
    assert merge_diff(new, new) == {}


def test_a_condition_keeps_its_time_while_its_status_stays() -> None:
    first = conditions.put((), "Ready", "True", "A", "one")
    first = tuple(msgspec.structs.replace(c, last_transition_time="2026-01-01T00:00:00Z") for c in first)
    same = conditions.put(first, "Ready", "True", "B", "two")
    assert same[0].last_transition_time == "2026-01-01T00:00:00Z"
    assert conditions.put(same, "Ready", "True", "B", "two") == same
    other = conditions.put(same, "Ready", "False", "B", "two")
    assert other[0].last_transition_time != "2026-01-01T00:00:00Z"
    assert conditions.drop(other, "Ready") == ()


def service(*ports: dict[str, Any]) -> Service:
    return msgspec.convert({"metadata": {"name": "s"}, "spec": {"ports": list(ports)}}, Service)


def test_ports_of_a_service_become_numbers_on_a_pod() -> None:
    named = {
        "name": "c",
        "ports": [{"name": "http", "containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}],
    }
    sidecar = {"name": "s", "restartPolicy": "Always", "ports": [{"name": "side", "containerPort": 9}]}
    setup = {"name": "i", "ports": [{"name": "setup", "containerPort": 7}]}
    subject = msgspec.convert({"spec": {"containers": [named], "initContainers": [sidecar, setup]}}, Pod)
    found = service_ports(
        service(
            {"port": 80},
            {"name": "a", "port": 81, "targetPort": 5000, "appProtocol": "http"},
            {"name": "b", "port": 82, "targetPort": "http"},
            {"name": "c", "port": 83, "targetPort": "dns"},
            {"name": "d", "port": 84, "targetPort": "dns", "protocol": "UDP"},
            {"name": "e", "port": 85, "targetPort": "side"},
            {"name": "f", "port": 86, "targetPort": "setup"},
        ),
        subject,
    )
    assert [(p.name, p.protocol, p.port, p.app_protocol) for p in found] == [
        ("", "TCP", 80, ""),
        ("a", "TCP", 5000, "http"),
        ("b", "TCP", 8080, ""),
        ("d", "UDP", 53, ""),
        ("e", "TCP", 9, ""),
    ]


def candidate(name: str, node: str = "n1", ready: str = "", phase: str = "Running", **annotations: str) -> Pod:
    status: dict[str, Any] = {"phase": phase}
    if ready:
        status["conditions"] = [{"type": "Ready", "status": "True", "lastTransitionTime": ready}]
    meta = {"name": name, "annotations": annotations, "creationTimestamp": "2026-01-01T00:00:00Z"}
    return msgspec.convert({"metadata": meta, "spec": {"nodeName": node}, "status": status}, Pod)


def test_which_pod_goes_first() -> None:
    early, late = "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"
    pods = [
        candidate("old", node="alone", ready=early),
        candidate("young", node="alone2", ready=late),
        candidate("crowded1", ready=early),
        candidate("crowded2", ready=late),
        candidate("cheap", node="alone3", ready=early, **{"controller.kubernetes.io/pod-deletion-cost": "-5"}),
        candidate("unready"),
        candidate("pending", phase="Pending"),
        candidate("unplaced", node="", phase="Pending"),
    ]
    order = [pod.metadata.name for pod in sorted(pods, key=lambda pod: removal_rank(pod, pods))]
    assert order == ["unplaced", "pending", "unready", "cheap", "crowded2", "crowded1", "young", "old"]


@pytest.mark.parametrize("text", ["--5", "²", "5" * 5000, "1.5", ""])
def test_annotations_that_are_no_numbers_are_ignored(text: str) -> None:
    cost = {"controller.kubernetes.io/pod-deletion-cost": text}
    pods = [candidate("plain"), candidate("odd", **cost)]
    assert removal_rank(pods[1], pods) == removal_rank(pods[0], pods)
    meta = ObjectMeta(annotations={revisions.REVISION: text, revisions.DESIRED: text})
    assert revisions.revision_of(ReplicaSet(metadata=meta)) == 0
    assert revisions.annotation_number(ReplicaSet(metadata=meta), revisions.DESIRED) is None
