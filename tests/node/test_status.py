"""What is reported of a pod."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from tests.node.pods import exited, pod, running
from tulle.cluster.node.pods import status
from tulle.cluster.node.pods.runs import ContainerRuns, Waiting
from tulle.cluster.node.pods.status import PodState
from tulle.cluster.node.pods.worker import PodWorker
from tulle.cluster.node.runtime.records import Exit, Record, Status
from tulle.cluster.node.seams import NetworkError

NOW = 1_700_000_000.0


def state(runs: dict[str, ContainerRuns], **fields: Any) -> PodState:
    defaults: dict[str, Any] = {"ip": "10.244.0.9", "sandbox_ready": True, "initialized": True}
    return PodState(runs=runs, node_ip="169.254.77.2", **{**defaults, **fields})


def conditions(built: dict[str, Any]) -> dict[str, str]:
    return {c["type"]: c["status"] for c in built["conditions"]}


def test_a_running_pod_is_ready() -> None:
    built = status.build(pod(), state({"c": running()}), NOW)
    assert built["phase"] == "Running"
    assert set(conditions(built).values()) == {"True"}
    assert built["podIPs"] == [{"ip": "10.244.0.9"}]
    (container,) = built["containerStatuses"]
    assert container["state"] == {"running": {"startedAt": "1970-01-01T00:01:40Z"}}
    assert (container["ready"], container["started"], container["containerID"]) == (True, True, "crun://cid")


def test_a_new_pod_is_pending() -> None:
    built = status.build(pod(), state({}, initialized=True), NOW)
    assert built["phase"] == "Pending"
    assert built["containerStatuses"][0]["state"]["waiting"]["reason"] == "ContainerCreating"
    assert conditions(built)["Ready"] == "False"


def test_containers_wait_for_init_containers() -> None:
    built = status.build(pod(initContainers=[{"name": "i"}]), state({"i": running("i")}, initialized=False), NOW)
    assert built["phase"] == "Pending"
    assert built["containerStatuses"][0]["state"]["waiting"]["reason"] == "PodInitializing"
    unmet = next(c for c in built["conditions"] if c["type"] == "Initialized")
    assert (unmet["status"], unmet["message"]) == ("False", "containers with incomplete status: [i]")


def test_a_crash_loop_shows_the_end_as_last_state() -> None:
    known = exited("c", 4, attempt=2)
    known.waiting = Waiting("CrashLoopBackOff", "back-off")
    built = status.build(pod(), state({"c": known}), NOW)
    (container,) = built["containerStatuses"]
    assert built["phase"] == "Running"
    assert container["state"] == {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
    assert container["lastState"]["terminated"]["exitCode"] == 4
    assert container["restartCount"] == 2


@pytest.mark.parametrize(("outcome", "reason"), [("Succeeded", "PodCompleted"), ("Failed", "PodFailed")])
def test_a_finished_pod(outcome: Any, reason: str) -> None:
    code = 0 if outcome == "Succeeded" else 1
    built = status.build(pod(), state({"c": exited("c", code)}, outcome=outcome, sandbox_ready=False), NOW)
    assert built["phase"] == outcome
    ready = next(c for c in built["conditions"] if c["type"] == "Ready")
    assert (ready["status"], ready["reason"]) == ("False", reason)


def test_a_pod_with_an_outcome_still_runs_while_a_sidecar_does() -> None:
    both = {"c": exited("c"), "side": running("side")}
    spec = pod(initContainers=[{"name": "side", "restartPolicy": "Always"}])
    assert status.build(spec, state(both, outcome="Succeeded"), NOW)["phase"] == "Running"


def test_building_again_changes_nothing() -> None:
    first = status.build(pod(), state({"c": running()}), NOW)
    again = status.build(pod(status=first), state({"c": running()}, start_time=first["startTime"]), NOW + 60)
    assert again == first


def test_a_transition_is_dated() -> None:
    first = status.build(pod(), state({"c": running(ready=False)}), NOW)
    later = status.build(pod(status=first), state({"c": running()}), NOW + 60)
    dates = {c["type"]: c["lastTransitionTime"] for c in later["conditions"]}
    assert dates["Ready"] == status.rfc3339(NOW + 60)
    assert dates["Initialized"] == status.rfc3339(NOW)


def test_others_conditions_stay_and_gates_count() -> None:
    gate = {"type": "example.com/ok", "status": "False"}
    spec = pod(status={"conditions": [gate]}, readinessGates=[{"conditionType": "example.com/ok"}])
    built = status.build(spec, state({"c": running()}), NOW)
    assert gate in built["conditions"]
    assert (conditions(built)["ContainersReady"], conditions(built)["Ready"]) == ("True", "False")


@pytest.mark.parametrize(
    ("resources", "qos"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "1"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
        ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
    ],
)
def test_quality_of_service(resources: dict[str, Any], qos: str) -> None:
    assert status.qos_class(pod({"name": "c", "resources": resources})) == qos


class NodeWithoutAddresses:
    """A node's process that has just started and cannot give a pod anything; what is asked of it."""

    name, ip = "n1", "169.254.77.2"

    def __init__(self, told: asyncio.Queue[str]) -> None:
        self._told = told
        self.runtime = SimpleNamespace(statuses={})
        self.client = self.network = self
        self.volumes = SimpleNamespace(remove=lambda _uid: None)

    def event(self, *_: object) -> None: ...

    async def attach(self, *_: object) -> None:
        raise NetworkError("all addresses are in use")

    async def detach(self, _ref: object) -> None:
        self._told.put_nowait("given back")

    async def patch(self, _res: object, _name: str, body: dict[str, Any], *_: object, **__: object) -> None:
        self._told.put_nowait(body["status"]["phase"])


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
async def test_a_pod_that_is_over_stays_so_for_the_nodes_next_process(phase: str) -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    ended = Status(Record("cid", "container", "u1", "ns", "p", "c", 0), "exited", exit=Exit(0, 200.0))
    over = pod(restartPolicy="Never", status={"phase": phase, "startTime": "2023-11-14T22:13:20Z"})
    node: Any = NodeWithoutAddresses(told)
    working = asyncio.create_task(PodWorker(node, over, [ended]).run())
    async with asyncio.timeout(10):
        assert await told.get() == "given back"
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    assert told.empty()
