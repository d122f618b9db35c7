"""Rows of pods: the one word that says how a pod is doing.

The word comes from the pod's phase, then from the first init container that is not done, else from the containers (last
one first), then from the deletion; a pod is Completed only when no container is running.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tulle.cluster.apiserver.table.cells import NONE, age, since
from tulle.cluster.apiserver.table.layout import Layout, columns

Object = dict[str, Any]


@dataclass(slots=True)
class _Summary:
    reason: str
    ready: int = 0
    total: int = 0
    restarts: int = 0
    last_restart: str = ""

    def restarted(self, status: Mapping[str, Any]) -> None:
        self.restarts += status.get("restartCount", 0)
        finished = ((status.get("lastState") or {}).get("terminated") or {}).get("finishedAt") or ""
        self.last_restart = max(self.last_restart, finished)


def _ended(terminated: Mapping[str, Any], prefix: str = "") -> str:
    if terminated.get("reason"):
        return f"{prefix}{terminated['reason']}"
    if terminated.get("signal"):
        return f"{prefix}Signal:{terminated['signal']}"
    return f"{prefix}ExitCode:{terminated.get('exitCode', 0)}"


def _state(status: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = (status.get("state") or {}).get(name) or {}
    return found


def _has(status: Mapping[str, Any], name: str) -> bool:
    return (status.get("state") or {}).get(name) is not None


def _restartable(spec: Mapping[str, Any]) -> set[str]:
    return {c["name"] for c in spec.get("initContainers") or () if c.get("restartPolicy") == "Always"}


def _initializing(pod: Object, summary: _Summary) -> bool:
    """Account for init containers; True when one of them is what the pod is waiting for."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    count = len(spec.get("initContainers") or ())
    sidecars = _restartable(spec)
    for index, container in enumerate(status.get("initContainerStatuses") or ()):
        summary.restarted(container)
        if container.get("name") in sidecars and container.get("started"):
            summary.ready += bool(container.get("ready"))
            continue
        terminated = _state(container, "terminated")
        if _has(container, "terminated") and terminated.get("exitCode", 0) == 0:
            continue
        waiting = _state(container, "waiting").get("reason", "")
        if _has(container, "terminated"):
            summary.reason = _ended(terminated, "Init:")
        elif waiting and waiting != "PodInitializing":
            summary.reason = f"Init:{waiting}"
        else:
            summary.reason = f"Init:{index}/{count}"
        return True
    return False


def _running(pod: Object, summary: _Summary) -> None:
    has_running = False
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    summary.restarts, summary.last_restart = 0, ""
    for container in (pod.get("status") or {}).get("initContainerStatuses") or ():
        if container.get("name") in _restartable(pod.get("spec") or {}):
            summary.restarted(container)
    for container in reversed(statuses):
        summary.restarted(container)
        if _state(container, "waiting").get("reason"):
            summary.reason = _state(container, "waiting")["reason"]
        elif _has(container, "terminated"):
            summary.reason = _ended(_state(container, "terminated"))
        elif container.get("ready") and _has(container, "running"):
            has_running = True
            summary.ready += 1
    if summary.reason == "Completed" and has_running:
        conditions = (pod.get("status") or {}).get("conditions") or ()
        ready = any(c.get("type") == "Ready" and c.get("status") == "True" for c in conditions)
        summary.reason = "Running" if ready else "NotReady"


def summarize(pod: Object) -> _Summary:
    """Status word, ready and total containers, restarts."""
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    summary = _Summary(status.get("reason") or status.get("phase") or "Unknown")
    summary.total = len(spec.get("containers") or ()) + len(_restartable(spec))
    for item in status.get("conditions") or ():
        if item.get("type") == "PodScheduled" and item.get("reason") == "SchedulingGated":
            summary.reason = "SchedulingGated"
    initialized = any(
        c.get("type") == "Initialized" and c.get("status") == "True" for c in status.get("conditions") or ()
    )
    if not _initializing(pod, summary) or initialized:
        _running(pod, summary)
    if pod["metadata"].get("deletionTimestamp"):
        if status.get("reason") == "NodeLost":
            summary.reason = "Unknown"
        elif status.get("phase") not in ("Failed", "Succeeded"):
            summary.reason = "Terminating"
    return summary


def _gates(pod: Object) -> str:
    gates = (pod.get("spec") or {}).get("readinessGates") or ()
    if not gates:
        return NONE
    true = {c.get("type") for c in (pod.get("status") or {}).get("conditions") or () if c.get("status") == "True"}
    return f"{sum(g.get('conditionType') in true for g in gates)}/{len(gates)}"


def _row(pod: Object, now: datetime.datetime) -> list[Any]:
    summary = summarize(pod)
    restarts = str(summary.restarts)
    if summary.restarts and summary.last_restart:
        restarts = f"{restarts} ({since(summary.last_restart, now)} ago)"
    spec, status = pod.get("spec") or {}, pod.get("status") or {}
    return [
        pod["metadata"]["name"],
        f"{summary.ready}/{summary.total}",
        summary.reason,
        restarts,
        age(pod, now),
        status.get("podIP") or NONE,
        spec.get("nodeName") or NONE,
        status.get("nominatedNodeName") or NONE,
        _gates(pod),
    ]


PODS = {
    ("", "Pod"): Layout(
        columns("Name", "Ready", "Status", "Restarts", "Age", wide=("IP", "Node", "Nominated Node", "Readiness Gates")),
        _row,
    )
}
