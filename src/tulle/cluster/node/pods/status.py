"""A pod's status as the API shows it: a pure function of its runs and of what was reported before.

Times change only when what they date changes, so that an unchanged pod is never written.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from tulle.cluster.node.pods.plan import Outcome
from tulle.cluster.node.pods.runs import ContainerRuns, Run, Waiting
from tulle.cluster.node.pods.spec import Container, Pod

RUNTIME_NAME = "crun"


@dataclass(frozen=True)
class PodState:
    """What the worker knows of the pod as a whole; `outcome` is "" while it may still run."""

    runs: Mapping[str, ContainerRuns]
    node_ip: str
    ip: str = ""
    sandbox_ready: bool = False
    initialized: bool = False
    outcome: Outcome = ""
    start_time: str = ""
    reason: str = ""
    message: str = ""


OWN_CONDITIONS = frozenset({"PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready", "PodScheduled"})


def parse_time(text: str) -> float:
    """Seconds since 1970 of an API time stamp."""
    return datetime.fromisoformat(text).timestamp()


def container_id(cid: str) -> str:
    """A container's ID as a status shows it."""
    return f"{RUNTIME_NAME}://{cid}"


def rfc3339(moment: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def build(pod: Pod, state: PodState, now: float) -> dict[str, Any]:
    """The fields of `status` that the node owns; the conditions include others' as they are."""
    init = [_container(pod, c, state, is_init=True) for c in pod.spec.init_containers]
    main = [_container(pod, c, state, is_init=False) for c in pod.spec.containers]
    phase = _phase(state, main)
    status: dict[str, Any] = {
        "phase": phase,
        "conditions": _conditions(pod, state, phase, [*init, *main], rfc3339(now)),
        "hostIP": state.node_ip,
        "hostIPs": [{"ip": state.node_ip}],
        "startTime": state.start_time or rfc3339(now),
        "containerStatuses": main,
        "qosClass": pod.status.get("qosClass") or qos_class(pod),
    }
    if init:
        status["initContainerStatuses"] = init
    if state.ip:
        status["podIP"] = state.ip
        status["podIPs"] = [{"ip": state.ip}]
    if state.reason:
        status["reason"] = state.reason
    if state.message:
        status["message"] = state.message
    return status


def _phase(state: PodState, main: Sequence[Mapping[str, Any]]) -> str:
    running = any(known.current is not None and known.current.state == "running" for known in state.runs.values())
    if state.outcome and not running:
        return state.outcome
    if not state.initialized:
        return "Pending"
    never_ran = [s for s in main if "waiting" in s["state"] and not s.get("lastState") and s["restartCount"] == 0]
    return "Pending" if never_ran else "Running"


def _container(pod: Pod, container: Container, state: PodState, *, is_init: bool) -> dict[str, Any]:
    known = state.runs.get(container.name) or ContainerRuns()
    run = known.current
    shown, last = _states(pod, state, known, is_init=is_init)
    subject = run or known.previous
    status: dict[str, Any] = {
        "name": container.name,
        "state": shown,
        "lastState": last,
        "ready": _ready(container, run, is_init=is_init),
        "restartCount": run.attempt if run is not None else (known.previous.attempt if known.previous else 0),
        "image": (subject.image if subject else "") or container.image,
        "imageID": subject.image_id if subject else "",
        "started": run is not None and run.startup_complete,
    }
    if subject is not None and subject.cid:
        status["containerID"] = container_id(subject.cid)
    return status


def _states(pod: Pod, state: PodState, known: ContainerRuns, *, is_init: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    """The container's `state` and `lastState`."""
    run, previous = known.current, known.previous
    last = {"terminated": terminated(previous)} if previous is not None and previous.exit is not None else {}
    if run is not None and run.state == "running":
        return {"running": {"startedAt": rfc3339(run.started_at)}}, last
    if run is not None and run.state == "exited":
        ended = {"terminated": terminated(run)}
        return (_waiting(known.waiting), ended) if known.waiting is not None else (ended, last)
    if known.waiting is not None:
        return _waiting(known.waiting), last
    if state.outcome:
        return _waiting(Waiting("PodInitializing" if pod.spec.init_containers else "ContainerCreating")), last
    pending_init = bool(pod.spec.init_containers) and not state.initialized
    return _waiting(Waiting("PodInitializing" if pending_init else "ContainerCreating")), last


def _waiting(waiting: Waiting) -> dict[str, Any]:
    return {"waiting": {"reason": waiting.reason, **({"message": waiting.message} if waiting.message else {})}}


def terminated(run: Run) -> dict[str, Any]:
    """The `terminated` state of a run that ended."""
    assert run.exit is not None
    shown: dict[str, Any] = {
        "exitCode": run.exit.exit_code,
        "reason": run.end_reason,
        "startedAt": rfc3339(run.started_at or run.exit.finished_at),
        "finishedAt": rfc3339(run.exit.finished_at),
    }
    if run.exit.signal:
        shown["signal"] = run.exit.signal
    if run.message:
        shown["message"] = run.message
    if run.cid:
        shown["containerID"] = container_id(run.cid)
    return shown


def _ready(container: Container, run: Run | None, *, is_init: bool) -> bool:
    if run is None:
        return False
    if is_init and container.restart_policy != "Always":
        return run.state == "exited" and run.exit is not None and run.exit.exit_code == 0
    return run.startup_complete and run.ready and not run.stopping


def _conditions(
    pod: Pod, state: PodState, phase: str, containers: Sequence[Mapping[str, Any]], now: str
) -> list[dict[str, Any]]:
    """The node's conditions, with the ones that others (the scheduler, readiness gates) set."""
    sidecars = pod.sidecars
    done = phase in {"Succeeded", "Failed"}
    plain_init = {c.name for c in pod.spec.init_containers} - sidecars
    waiting_init = [s["name"] for s in containers if s["name"] in plain_init and not s["ready"]]
    unready = [s["name"] for s in containers if s["name"] not in plain_init and not s["ready"]]
    initialized = state.initialized or phase == "Succeeded"
    wanted = {
        "PodReadyToStartContainers": (state.sandbox_ready, "", ""),
        "Initialized": (
            (True, "PodCompleted" if phase == "Succeeded" else "", "")
            if initialized
            else (False, "ContainersNotInitialized", f"containers with incomplete status: [{' '.join(waiting_init)}]")
        ),
        "ContainersReady": _containers_ready(phase, done, unready),
        "Ready": _pod_ready(pod, phase, done, unready),
        "PodScheduled": (True, "", ""),
    }
    known = {c["type"]: c for c in pod.status.get("conditions", [])}
    conditions = [_condition(kind, value, known.get(kind), now) for kind, value in wanted.items()]
    return conditions + [dict(c) for kind, c in known.items() if kind not in wanted]


def _containers_ready(phase: str, done: bool, unready: Sequence[str]) -> tuple[bool, str, str]:
    if done:
        return False, "PodCompleted" if phase == "Succeeded" else "PodFailed", ""
    if unready:
        return False, "ContainersNotReady", f"containers with unready status: [{' '.join(unready)}]"
    return True, "", ""


def _pod_ready(pod: Pod, phase: str, done: bool, unready: Sequence[str]) -> tuple[bool, str, str]:
    ready, reason, message = _containers_ready(phase, done, unready)
    if not ready:
        return ready, reason, message
    known = {c["type"]: c["status"] for c in pod.status.get("conditions", [])}
    closed = [gate.condition_type for gate in pod.spec.readiness_gates if known.get(gate.condition_type) != "True"]
    if closed:
        return False, "ReadinessGatesNotReady", f'the status of pod readiness gate {closed[0]!r} is not "True"'
    return True, "", ""


def _condition(kind: str, verdict: tuple[bool, str, str], known: Mapping[str, Any] | None, now: str) -> dict[str, Any]:
    status, reason, message = verdict
    value = "True" if status else "False"
    same = known is not None and known.get("status") == value
    condition: dict[str, Any] = {
        "type": kind,
        "status": value,
        "lastProbeTime": None,
        "lastTransitionTime": (known or {}).get("lastTransitionTime") or now if same else now,
    }
    if reason:
        condition["reason"] = reason
    if message:
        condition["message"] = message
    return condition


def qos_class(pod: Pod) -> str:
    """Guaranteed, Burstable or BestEffort, by the containers' CPU and memory."""
    containers = (*pod.spec.containers, *pod.spec.init_containers)
    if not any(_has_any(c.resources.limits) or _has_any(c.resources.requests) for c in containers):
        return "BestEffort"
    for container in containers:
        limits, requests = container.resources.limits, container.resources.requests
        for name in ("cpu", "memory"):
            if name not in limits or str(requests.get(name, limits[name])) != str(limits[name]):
                return "Burstable"
    return "Guaranteed"


def _has_any(values: Mapping[str, Any]) -> bool:
    return any(name in values for name in ("cpu", "memory"))
