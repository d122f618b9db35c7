"""What to do next with a pod's containers: a pure function of the pod and its runs.

The rules are Kubernetes': init containers one after the other, those with restartPolicy Always stay and let the next
one start when they have started; then all containers together; what ended is started again as restartPolicy says,
later each time it fails.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tulle.cluster.node.pods.runs import ContainerRuns, Run
from tulle.cluster.node.pods.spec import Container, PodSpec

FIRST_BACKOFF = 10.0
LAST_BACKOFF = 300.0
RESET_AFTER = 600.0
"""Seconds of running after which a container counts as healthy and its next failure as the first."""

Outcome = Literal["", "Succeeded", "Failed"]


@dataclass(frozen=True)
class Plan:
    """`start` names containers; `wake_at` is when to ask again; with an `outcome` nothing is started any more and
    what still runs has to end.
    """

    start: tuple[str, ...] = ()
    backing_off: frozenset[str] = frozenset()
    wake_at: float | None = None
    initialized: bool = False
    outcome: Outcome = ""


def next_backoff(previous: float) -> float:
    """Seconds to wait before a container is started again if it ends once more, given the seconds of the time before."""
    return min(previous * 2, LAST_BACKOFF) if previous else FIRST_BACKOFF


def plan(spec: PodSpec, runs: Mapping[str, ContainerRuns], now: float) -> Plan:
    """What has to happen now. `runs` has an entry for every container that was ever tried."""
    builder = _Builder(spec, runs, now)
    return builder.build()


class _Builder:
    def __init__(self, spec: PodSpec, runs: Mapping[str, ContainerRuns], now: float) -> None:
        self._spec = spec
        self._runs = runs
        self._now = now
        self._start: list[str] = []
        self._backing_off: set[str] = set()
        self._wake: list[float] = []

    def build(self) -> Plan:
        main_ran = any(self._current(c.name) is not None for c in self._spec.containers)
        initialized, failed = self._init_containers(main_ran)
        if failed:
            return Plan(outcome="Failed")
        if initialized:
            outcome = self._containers()
            if outcome:
                return Plan(initialized=True, outcome=outcome)
        return Plan(
            start=tuple(self._start),
            backing_off=frozenset(self._backing_off),
            wake_at=min(self._wake, default=None),
            initialized=initialized,
        )

    def _init_containers(self, main_ran: bool) -> tuple[bool, bool]:
        """Whether all are done, and whether one failed for good."""
        for container in self._spec.init_containers:
            run = self._current(container.name)
            if container.restart_policy == "Always":
                if run is None or run.state == "exited":
                    self._want(container)
                if not main_ran and (run is None or not run.startup_complete):
                    return False, False
                continue
            if main_ran or (run is not None and run.state == "exited" and _succeeded(run)):
                continue
            if run is not None and run.state == "exited" and self._spec.restart_policy == "Never":
                return False, True
            if run is None or run.state == "exited":
                self._want(container)
            return False, False
        return True, False

    def _containers(self) -> Outcome:
        ended = []
        for container in self._spec.containers:
            run = self._current(container.name)
            if run is None or (run.state == "exited" and self._restarts(run)):
                self._want(container)
            elif run.state == "exited":
                ended.append(run)
        if len(ended) < len(self._spec.containers):
            return ""
        return "Succeeded" if all(_succeeded(run) for run in ended) else "Failed"

    def _restarts(self, run: Run) -> bool:
        policy = self._spec.restart_policy
        return policy == "Always" or (policy == "OnFailure" and not _succeeded(run))

    def _want(self, container: Container) -> None:
        known = self._runs.get(container.name)
        if known is not None and known.not_before > self._now:
            self._wake.append(known.not_before)
            self._backing_off.add(container.name)
        else:
            self._start.append(container.name)

    def _current(self, name: str) -> Run | None:
        known = self._runs.get(name)
        return known.current if known is not None else None


def _succeeded(run: Run) -> bool:
    return run.exit is not None and run.exit.exit_code == 0 and not run.reason
