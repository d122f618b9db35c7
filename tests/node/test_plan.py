"""What a pod's containers have to do next."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.node.pods import exited, pod, running
from tulle.cluster.node.pods.plan import FIRST_BACKOFF, LAST_BACKOFF, Plan, next_backoff, plan
from tulle.cluster.node.pods.runs import ContainerRuns

NOW = 1000.0
INIT = [{"name": "i1"}, {"name": "side", "restartPolicy": "Always"}, {"name": "i2"}]


def test_all_containers_start_together() -> None:
    assert plan(pod({"name": "a"}, {"name": "b"}).spec, {}, NOW) == Plan(start=("a", "b"), initialized=True)


def test_init_containers_start_one_after_the_other() -> None:
    spec = pod({"name": "c"}, initContainers=INIT).spec
    runs: dict[str, ContainerRuns] = {}
    assert plan(spec, runs, NOW).start == ("i1",)
    runs["i1"] = running("i1")
    assert plan(spec, runs, NOW) == Plan()
    runs["i1"] = exited("i1")
    assert plan(spec, runs, NOW).start == ("side",)
    runs["side"] = running("side")
    assert plan(spec, runs, NOW).start == ("i2",)
    runs["i2"] = exited("i2")
    assert plan(spec, runs, NOW) == Plan(start=("c",), initialized=True)


def test_a_sidecar_that_has_not_started_holds_the_next_back() -> None:
    spec = pod({"name": "c"}, initContainers=[{"name": "side", "restartPolicy": "Always"}]).spec
    runs = {"side": running("side")}
    assert runs["side"].current is not None
    runs["side"].current.started = False
    assert plan(spec, runs, NOW) == Plan()


def test_a_sidecar_that_ended_is_started_again_while_the_pod_runs() -> None:
    spec = pod({"name": "c"}, initContainers=[{"name": "side", "restartPolicy": "Always"}]).spec
    assert plan(spec, {"side": exited("side", 1), "c": running("c")}, NOW) == Plan(start=("side",), initialized=True)


def test_a_failed_init_container_ends_a_pod_that_never_restarts() -> None:
    spec = pod({"name": "c"}, initContainers=[{"name": "i"}], restartPolicy="Never").spec
    assert plan(spec, {"i": exited("i", 1)}, NOW) == Plan(outcome="Failed")


def test_a_failed_init_container_is_tried_again_otherwise() -> None:
    spec = pod({"name": "c"}, initContainers=[{"name": "i"}], restartPolicy="OnFailure").spec
    assert plan(spec, {"i": exited("i", 1)}, NOW).start == ("i",)


@pytest.mark.parametrize(
    ("policy", "code", "expected"),
    [
        ("Always", 0, Plan(start=("c",), initialized=True)),
        ("Always", 1, Plan(start=("c",), initialized=True)),
        ("OnFailure", 0, Plan(initialized=True, outcome="Succeeded")),
        ("OnFailure", 1, Plan(start=("c",), initialized=True)),
        ("Never", 0, Plan(initialized=True, outcome="Succeeded")),
        ("Never", 1, Plan(initialized=True, outcome="Failed")),
    ],
)
def test_restart_policies(policy: str, code: int, expected: Plan) -> None:
    assert plan(pod(restartPolicy=policy).spec, {"c": exited("c", code)}, NOW) == expected


def test_a_container_backs_off() -> None:
    step = plan(pod().spec, {"c": exited("c", 1, not_before=NOW + 10)}, NOW)
    assert (step.start, step.backing_off, step.wake_at) == ((), frozenset({"c"}), NOW + 10)
    assert plan(pod().spec, {"c": exited("c", 1, not_before=NOW)}, NOW).start == ("c",)


def test_back_off_doubles_up_to_five_minutes() -> None:
    seconds, seen = 0.0, []
    for _ in range(8):
        seconds = next_backoff(seconds)
        seen.append(seconds)
    assert seen == [FIRST_BACKOFF, 20, 40, 80, 160, LAST_BACKOFF, LAST_BACKOFF, LAST_BACKOFF]


_state = st.sampled_from(["absent", "running", "ok", "failed", "waiting"])


def _runs(states: dict[str, str]) -> dict[str, ContainerRuns]:
    made = {
        "running": running,
        "ok": exited,
        "failed": lambda name: exited(name, 1),
        "waiting": lambda name: exited(name, 1, not_before=NOW + 5),
    }
    return {name: made[state](name) for name, state in states.items() if state != "absent"}


@given(
    st.fixed_dictionaries(dict.fromkeys(("i1", "side", "i2", "a", "b"), _state)),
    st.sampled_from(["Always", "OnFailure", "Never"]),
)
def test_every_state_leads_somewhere(states: dict[str, str], policy: str) -> None:
    spec = pod({"name": "a"}, {"name": "b"}, initContainers=INIT, restartPolicy=policy).spec
    step = plan(spec, _runs(states), NOW)
    assert not (step.outcome and step.start)
    assert all(states[name] != "running" for name in step.start)
    assert len(set(step.start)) == len(step.start)
    if step.backing_off:
        assert step.wake_at == NOW + 5
    somebody_runs = "running" in states.values()
    assert step.start or step.outcome or step.wake_at is not None or somebody_runs
    if step.outcome == "Succeeded":
        assert states["a"] == states["b"] == "ok"
    if policy == "Always":
        assert not step.outcome
