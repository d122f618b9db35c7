"""Whether a pod fits a node: quantities, taints, selection, ports, room, and affinity between pods."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.cluster.controllers import nodefit
from tulle.cluster.controllers.affinity import affinity_refusal
from tulle.cluster.controllers.daemonpods import daemon_pod, node_of, should_continue, should_run
from tulle.kube.objects import DaemonSet, Node, Pod, Taint, Toleration


def node(name: str = "n1", ready: str = "True", spec: Any = None, **labels: str) -> Node:
    status = {
        "conditions": [{"type": "Ready", "status": ready}],
        "allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"},
    }
    return msgspec.convert({"metadata": {"name": name, "labels": labels}, "spec": spec or {}, "status": status}, Node)


def pod(labels: dict[str, str] | None = None, **spec: Any) -> Pod:
    return msgspec.convert({"metadata": {"name": "p", "namespace": "a", "labels": labels or {}}, "spec": spec}, Pod)


def container(**more: Any) -> dict[str, Any]:
    return {"name": "c", "image": "x", **more}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("100m", "0.1"),
        ("2", "2"),
        (1.5, "1.5"),
        ("1Ki", "1024"),
        ("1E", "1e18"),
        ("1e3", "1000"),
        ("3M", "3e6"),
        ("5n", "5e-9"),
    ],
)
def test_quantities(text: str | float, value: str) -> None:
    assert nodefit.quantity(text) == Decimal(value)


@pytest.mark.parametrize("text", ["1e999999999", "1e99999999999999999999"])
def test_a_quantity_beyond_all_bounds_only_fits_nowhere(text: str) -> None:
    large = pod(containers=[container(resources={"requests": {"cpu": text}})] * 2)
    assert nodefit.refusals(large, node(), [large]) == ["Insufficient cpu"]
    assert nodefit.quantity(text.replace("e", "e-")) == 0


@pytest.mark.parametrize("text", ["", "much", "1Xi", "E", "1mm"])
def test_what_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a quantity such as 100m"):
        nodefit.quantity(text)


keys, values, effects = st.sampled_from("kl"), st.sampled_from("vw"), st.sampled_from(["NoSchedule", "NoExecute"])
tolerations = st.builds(
    Toleration,
    key=st.one_of(st.just(""), keys),
    operator=st.sampled_from(["Equal", "Exists", ""]),
    value=values,
    effect=st.one_of(st.just(""), effects),
)
taints = st.builds(Taint, key=keys, value=values, effect=effects)


@given(tolerations, taints)
def test_toleration_says_what_the_api_says(toleration: Toleration, taint: Taint) -> None:
    expected = (
        toleration.effect in ("", taint.effect)
        and toleration.key in ("", taint.key)
        and (toleration.operator == "Exists" or (toleration.key != "" and toleration.value == taint.value))
    )
    assert nodefit.tolerates(toleration, taint) is expected


@pytest.mark.parametrize(
    ("subject", "target", "reasons"),
    [
        (pod(), node(), []),
        (pod(), node(ready="Unknown"), ["node(s) had untolerated taint {node.kubernetes.io/not-ready: }"]),
        (pod(), node(spec={"unschedulable": True}), ["node(s) were unschedulable"]),
        (
            pod(),
            node(spec={"taints": [{"key": "k", "value": "v", "effect": "NoExecute"}]}),
            ["node(s) had untolerated taint {k: v}"],
        ),
        (pod(), node(spec={"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}), []),
        (pod(nodeSelector={"z": "1"}), node(), ["node(s) didn't match Pod's node affinity/selector"]),
        (pod(nodeSelector={"z": "1"}), node(z="1"), []),
        (
            pod(containers=[container(resources={"requests": {"cpu": "3", "memory": "2Gi"}})]),
            node(),
            ["Insufficient cpu", "Insufficient memory"],
        ),
        (
            pod(containers=[container(resources={"requests": {"example.com/x": "1"}})]),
            node(),
            ["Insufficient example.com/x"],
        ),
    ],
)
def test_refusals(subject: Pod, target: Node, reasons: list[str]) -> None:
    assert nodefit.refusals(subject, target, []) == reasons


def test_room_counts_those_that_are_there() -> None:
    one = pod(containers=[container(resources={"requests": {"cpu": "1"}})])
    assert nodefit.refusals(one, node(), [one]) == []
    assert nodefit.refusals(one, node(), [one, one]) == ["Insufficient cpu"]
    assert nodefit.refusals(pod(), node(), [pod(), pod(), pod()]) == ["Too many pods"]


def test_init_containers_count_as_the_largest_and_sidecars_as_a_sum() -> None:
    def asks(cpu: str, **more: Any) -> dict[str, Any]:
        return container(resources={"requests": {"cpu": cpu}}, **more)

    subject = pod(containers=[asks("1")], initContainers=[asks("500m", restartPolicy="Always"), asks("4"), asks("2")])
    assert nodefit.requests(subject) == {"cpu": Decimal(4)}


def test_host_ports() -> None:
    taken = pod(containers=[container(ports=[{"containerPort": 80, "hostPort": 80}])])
    loopback = pod(containers=[container(ports=[{"containerPort": 1, "hostPort": 80, "hostIP": "127.0.0.1"}])])
    host = pod(hostNetwork=True, containers=[container(ports=[{"containerPort": 80}])])
    udp = pod(containers=[container(ports=[{"containerPort": 80, "hostPort": 80, "protocol": "UDP"}])])
    assert nodefit.ports_conflict(taken, [taken])
    assert nodefit.ports_conflict(loopback, [taken])
    assert nodefit.ports_conflict(host, [taken])
    assert not nodefit.ports_conflict(udp, [taken])


def required(*expressions: dict[str, Any], field: str = "matchExpressions") -> dict[str, Any]:
    terms = [{field: [expression]} for expression in expressions]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}


def test_node_affinity_terms_are_alternatives() -> None:
    either = required({"key": "z", "operator": "In", "values": ["1"]}, {"key": "y", "operator": "Exists"})
    subject = pod(affinity=either)
    assert nodefit.matches_node_selection(subject, node(z="1"))
    assert nodefit.matches_node_selection(subject, node(y="any"))
    assert not nodefit.matches_node_selection(subject, node(z="2"))
    newer = pod(affinity=required({"key": "n", "operator": "Gt", "values": ["3"]}))
    assert nodefit.matches_node_selection(newer, node(n="4"))
    assert not nodefit.matches_node_selection(newer, node(n="3"))
    assert not nodefit.matches_node_selection(newer, node(n="x"))


def apart(key: str = "host", **more: Any) -> dict[str, Any]:
    term = {"topologyKey": key, "labelSelector": {"matchLabels": {"app": "x"}}, **more}
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def test_pods_apart_and_together() -> None:
    there, elsewhere = node("n1", host="1"), node("n2", host="2")
    x = pod({"app": "x"})
    placed = [(x, there)]
    assert affinity_refusal(pod(affinity=apart()), there, placed, {}) == [
        "node(s) didn't match pod anti-affinity rules"
    ]
    assert affinity_refusal(pod(affinity=apart()), elsewhere, placed, {}) == []
    shy = pod({"app": "shy"}, affinity=apart())
    assert affinity_refusal(x, there, [(shy, there)], {}) == [
        "node(s) didn't satisfy existing pods anti-affinity rules"
    ]
    near = {"podAffinity": apart()["podAntiAffinity"]}
    assert affinity_refusal(pod(affinity=near), there, placed, {}) == []
    assert affinity_refusal(pod(affinity=near), elsewhere, placed, {}) == ["node(s) didn't match pod affinity rules"]
    assert affinity_refusal(pod({"app": "x"}, affinity=near), there, [], {}) == []


def test_affinity_reaches_other_namespaces_by_their_labels() -> None:
    there = node("n1", host="1")
    selecting = pod(affinity=apart(namespaceSelector={"matchLabels": {"team": "t"}}))
    other = msgspec.structs.replace(
        pod({"app": "x"}), metadata=msgspec.structs.replace(pod({"app": "x"}).metadata, namespace="b")
    )
    assert affinity_refusal(selecting, there, [(other, there)], {"b": {"team": "t"}})
    assert not affinity_refusal(selecting, there, [(other, there)], {"b": {}})
    assert not affinity_refusal(pod(affinity=apart()), there, [(other, there)], {"b": {"team": "t"}})


def daemon(**spec: Any) -> DaemonSet:
    template = {"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [container()], **spec}}
    return msgspec.convert({"metadata": {"name": "d", "namespace": "a"}, "spec": {"template": template}}, DaemonSet)


def test_daemon_pods_are_tied_to_their_node() -> None:
    affinity = required({"key": "z", "operator": "Exists"})
    body = daemon_pod(
        daemon(affinity=affinity, hostNetwork=True),
        "n7",
        "hash",
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "u"},
    )
    made = msgspec.convert(body, Pod)
    assert node_of(made) == "n7"
    assert made.metadata.labels == {"app": "d", "controller-revision-hash": "hash"}
    assert nodefit.matches_node_selection(made, node("n7", z="1"))
    assert not nodefit.matches_node_selection(made, node("n7"))
    assert not nodefit.matches_node_selection(made, node("n8", z="1"))
    assert "node.kubernetes.io/network-unavailable" in {t.key for t in made.spec.tolerations}


@pytest.mark.parametrize(
    ("target", "run", "stay"),
    [
        (node(), True, True),
        (node(ready="False"), True, True),
        (node(spec={"unschedulable": True}), True, True),
        (node(spec={"taints": [{"key": "k", "effect": "NoSchedule"}]}), False, True),
        (node(spec={"taints": [{"key": "k", "effect": "NoExecute"}]}), False, False),
        (node(spec={"taints": [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]}), True, True),
    ],
)
def test_where_daemons_run_and_stay(target: Node, run: bool, stay: bool) -> None:
    assert should_run(daemon(), target) is run
    assert should_continue(daemon(), target) is stay


def test_daemons_with_a_node_selector() -> None:
    assert not should_run(daemon(nodeSelector={"z": "1"}), node())
    assert should_run(daemon(nodeSelector={"z": "1"}), node(z="1"))
