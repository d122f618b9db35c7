"""The arithmetic of a rollout, driven to its end under every kind of limit and any order of pods becoming available."""

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.cluster.controllers import conditions, revisions
from tulle.cluster.controllers.deployment_status import Progress, computed_status, seconds_to_deadline
from tulle.cluster.controllers.rollout import Limits, SetState, limits, new_replicas, proportional, scaled, shrink_old
from tulle.kube.objects import Deployment, DeploymentSpec, ObjectMeta, ReplicaSet, ReplicaSetSpec
from tulle.kube.objects.apps import RollingUpdate, Strategy


@pytest.mark.parametrize(
    ("value", "total", "up", "down"),
    [("25%", 10, 3, 2), ("25%", 1, 1, 0), ("0%", 5, 0, 0), ("100%", 3, 3, 3), (2, 10, 2, 2), (None, 4, 1, 1)],
)
def test_percentages(value: int | str | None, total: int, up: int, down: int) -> None:
    assert scaled(value, total, up=True) == up
    assert scaled(value, total, up=False) == down


def test_what_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="'many' is neither a number nor a percentage"):
        scaled("many", 3, up=True)


def spec(replicas: int, surge: int | str | None, unavailable: int | str | None) -> DeploymentSpec:
    rolling = RollingUpdate(max_surge=surge, max_unavailable=unavailable)
    return DeploymentSpec(replicas=replicas, strategy=Strategy(rolling_update=rolling))


def test_limits_never_stand_still() -> None:
    assert limits(spec(1, 0, "0%")) == Limits(1, 0, 1)
    assert limits(spec(4, None, None)) == Limits(4, 1, 1)
    assert limits(spec(2, 0, 5)) == Limits(2, 0, 2)


class Cluster:
    """Pods of sets: how many are asked for, and how many are available."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self.sizes = dict(sizes)
        self.available = dict(sizes)

    def state(self, name: str) -> SetState:
        return SetState(name, self.sizes[name], self.available[name])

    def resize(self, name: str, size: int) -> None:
        self.sizes[name] = size
        self.available[name] = min(self.available[name], size)


@given(
    replicas=st.integers(0, 12),
    surge=st.integers(0, 5),
    unavailable=st.integers(0, 5),
    old=st.lists(st.integers(0, 12), max_size=3),
    data=st.data(),
)
def test_a_rolling_update_keeps_its_limits_and_ends(
    replicas: int, surge: int, unavailable: int, old: list[int], data: st.DataObject
) -> None:
    limit = limits(spec(replicas, surge, unavailable))
    cluster = Cluster({f"old{n}": size for n, size in enumerate(old)} | {"new": 0})
    names = [f"old{n}" for n in range(len(old))]
    start_total = sum(cluster.sizes.values())
    floor = min(limit.fewest_available, start_total)
    for _ in range(200):
        size = new_replicas(limit, cluster.state("new"), [cluster.state(n) for n in names])
        if size != cluster.sizes["new"]:
            cluster.resize("new", size)
        else:
            for name, smaller in shrink_old(limit, cluster.state("new"), [cluster.state(n) for n in names]).items():
                assert 0 <= smaller < cluster.sizes[name]
                cluster.resize(name, smaller)
        assert sum(cluster.sizes.values()) <= max(limit.most, start_total)
        assert sum(cluster.available.values()) >= floor
        waiting = cluster.sizes["new"] - cluster.available["new"]
        cluster.available["new"] += data.draw(st.integers(1, waiting)) if waiting > 1 else waiting
        if cluster.sizes["new"] == cluster.available["new"] == replicas and not any(cluster.sizes[n] for n in names):
            return
    raise AssertionError(f"no end: {cluster.sizes} {cluster.available}")


def test_pods_that_do_not_work_go_first() -> None:
    old = [SetState("broken", 3, 0), SetState("good", 3, 3)]
    assert shrink_old(Limits(4, 1, 1), SetState("new", 0, 0), old) == {"broken": 0}


def test_a_stuck_new_set_takes_no_more_old_pods() -> None:
    assert shrink_old(Limits(4, 1, 1), SetState("new", 2, 0), [SetState("old", 3, 3)]) == {}


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    replicas=st.integers(0, 40),
    surge=st.integers(0, 5),
)
def test_scaling_in_the_middle_reaches_the_total(sizes: list[int], replicas: int, surge: int) -> None:
    limit = Limits(replicas, surge, 0)
    sets = [SetState(f"s{n}", size, size, sum(sizes)) for n, size in enumerate(sizes)]
    after = {s.name: s.replicas for s in sets} | proportional(limit, sets)
    assert all(size >= 0 for size in after.values())
    assert sum(after.values()) == (limit.most if replicas else 0)


def test_shares_are_proportional() -> None:
    sets = [SetState("new", 5, 5, 13), SetState("old", 8, 8, 13)]
    assert proportional(Limits(20, 6, 0), sets) == {"new": 10, "old": 16}


TEMPLATE = {"metadata": {"labels": {"app": "x"}, "creationTimestamp": None}, "spec": {"containers": [{"name": "c"}]}}


def deployment(**annotations: str) -> Deployment:
    meta = ObjectMeta(name="web", namespace="n", uid="u", annotations=annotations)
    return Deployment(metadata=meta, spec=DeploymentSpec(template=TEMPLATE))


def test_hash_depends_on_the_template_alone() -> None:
    base = revisions.template_hash(TEMPLATE)
    labelled = {**TEMPLATE, "metadata": {"labels": {"app": "x", revisions.HASH_LABEL: base}}}
    assert revisions.template_hash(labelled) == base
    assert set(base) <= set("bcdfghjklmnpqrstvwxz2456789")
    assert revisions.template_hash(TEMPLATE, 1) != base
    assert revisions.template_hash({**TEMPLATE, "spec": {"containers": [{"name": "d"}]}}) != base


def test_new_set_is_the_oldest_of_its_template() -> None:
    sets = [
        ReplicaSet(metadata=ObjectMeta(name=name, creation_timestamp=at), spec=ReplicaSetSpec(template=TEMPLATE))
        for name, at in (("b", "2026-01-02T00:00:00Z"), ("a", "2026-01-01T00:00:00Z"))
    ]
    found = revisions.find_new(deployment(), sets)
    assert found is not None
    assert found.metadata.name == "a"


def test_a_set_used_again_keeps_its_history() -> None:
    rs = ReplicaSet(metadata=ObjectMeta(annotations={revisions.REVISION: "1", revisions.REVISION_HISTORY: "0"}))
    marked = revisions.set_annotations(deployment(**{"kubernetes.io/change-cause": "undo"}), rs, 3, 2, 3)
    assert marked == {
        revisions.REVISION: "3",
        revisions.REVISION_HISTORY: "0,1",
        revisions.DESIRED: "2",
        revisions.MAX_REPLICAS: "3",
        "kubernetes.io/change-cause": "undo",
    }


def test_a_rollout_that_hangs_on_after_a_pause_runs_out_of_time() -> None:
    resumed = {"type": "Progressing", "status": "Unknown", "reason": "DeploymentResumed"}
    deployment = msgspec.convert(
        {
            "spec": {"replicas": 1, "progressDeadlineSeconds": 60},
            "status": {"conditions": [{**resumed, "lastUpdateTime": "2026-01-01T00:00:00Z"}]},
        },
        Deployment,
    )
    new = msgspec.convert({"metadata": {"name": "web-1", "generation": 1}, "spec": {"replicas": 1}}, ReplicaSet)
    status = computed_status(deployment, [new], new, limits(deployment.spec), Progress(found="web-1"))
    found = conditions.find(status.conditions, "Progressing")
    assert found is not None
    assert (found.status, found.reason) == ("False", "ProgressDeadlineExceeded")
    assert seconds_to_deadline(deployment, deployment.status) == 1.0
