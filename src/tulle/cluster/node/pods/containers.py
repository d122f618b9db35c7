"""The containers of one pod as they are: their runs, their probes, how they are started and ended.

The worker decides; this does what takes time, in tasks of its own, and wakes the worker when something has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

import structlog

from tulle.cluster.node.pods import actions, plan, stopping, terminal_message
from tulle.cluster.node.pods.node import Node
from tulle.cluster.node.pods.probes import Callbacks, Kind, Prober
from tulle.cluster.node.pods.pulls import PullError
from tulle.cluster.node.pods.runs import ContainerRuns, Run, Waiting, adopt
from tulle.cluster.node.pods.sandboxes import Sandbox
from tulle.cluster.node.pods.spec import Pod, Probe
from tulle.cluster.node.pods.starting import NotStartedError, Start
from tulle.cluster.node.pods.status import container_id
from tulle.cluster.node.pods.stopping import Deadline
from tulle.cluster.node.pods.volumes import Prepared
from tulle.cluster.node.runtime.records import Status
from tulle.cluster.node.runtime.shim.client import ShimError

log = structlog.get_logger("tulle.node.pod")


class Containers:
    """`pod` and `ip` are kept up to date by the worker; `wake` is called after every change."""

    def __init__(self, node: Node, pod: Pod, wake: Callable[[], None]) -> None:
        self.pod = pod
        self.ip = ""
        self.runs: dict[str, ContainerRuns] = {}
        self._node = node
        self._wake = wake
        self._ended: dict[str, asyncio.Event] = {}
        self._probers: dict[str, Prober] = {}
        self._starting: dict[str, asyncio.Task[None]] = {}
        self._stopping: set[asyncio.Task[None]] = set()
        self._ending_all: asyncio.Task[None] | None = None

    # What is

    @property
    def running(self) -> list[str]:
        return [n for n, k in self.runs.items() if k.current is not None and k.current.state == "running"]

    @property
    def starting(self) -> bool:
        """Whether containers are being started right now, which may be running at any moment."""
        return bool(self._starting)

    @property
    def busy(self) -> bool:
        """Whether containers are being started or ended right now."""
        return bool(self._starting or self._stopping)

    @property
    def grace(self) -> float:
        """The seconds that a container has to end: the pod's, or those that its deletion gave."""
        seconds = self.pod.metadata.deletion_grace_period_seconds
        return self.pod.spec.termination_grace_period_seconds if seconds is None else seconds

    def adopt(self, adopted: Iterable[Status]) -> None:
        """Take over the runs of an earlier process; what the API server was told of these very runs still holds."""
        kinds = ("containerStatuses", "initContainerStatuses")
        reported = {s.get("containerID"): s for kind in kinds for s in self.pod.status.get(kind) or ()}
        for old in sorted(adopted, key=lambda s: s.record.attempt):
            known = self.runs.setdefault(old.record.name, ContainerRuns())
            known.previous, known.current = known.current, adopt(old)
            if known.current.attempt:
                known.backoff = min(plan.FIRST_BACKOFF * 2 ** (known.current.attempt - 1), plan.LAST_BACKOFF)
            shown = reported.get(container_id(old.record.cid), {})
            known.current.ready, known.current.started = bool(shown.get("ready")), bool(shown.get("started"))
            if known.current.state == "exited":
                _back_off(known, known.current)

    def note_end(self, ended: Status) -> None:
        """The runtime's news that a container ended."""
        record = ended.record
        known = self.runs.get(record.name)
        run = known.current if known is not None else None
        if known is not None and run is not None and run.cid == record.cid and run.state == "running":
            self._note_end(known, run, ended)
        if record.cid in self._ended:
            self._ended[record.cid].set()
        self._wake()

    def _note_end(self, known: ContainerRuns, run: Run, ended: Status) -> None:
        assert ended.exit is not None
        run.state, run.exit, run.ready = "exited", ended.exit, False
        self._stop_probes(run)
        container = self.pod.container(run.name)
        if container is not None:
            file = terminal_message.path(self._node.paths.pod(self.pod.metadata.uid), run.name, run.attempt)
            log_path = Path(ended.record.log_path)
            run.message = terminal_message.read(container, file, log_path, ended.exit.exit_code)
        _back_off(known, run)

    def _ended_event(self, cid: str) -> asyncio.Event:
        event = self._ended.setdefault(cid, asyncio.Event())
        known = self._node.runtime.statuses.get(cid)
        if known is None or known.exit is not None:
            event.set()
        return event

    # Starting

    def start(self, name: str, sandbox: Sandbox, volumes: Prepared) -> None:
        """Start a container, unless that is under way."""
        if name not in self._starting:
            task = asyncio.create_task(self._start(name, sandbox, volumes), name=f"start {self.pod.ref}/{name}")
            self._starting[name] = task
            task.add_done_callback(lambda done: self._start_done(name, done))

    def _start_done(self, name: str, task: asyncio.Task[None]) -> None:
        self._starting.pop(name, None)
        self._done(task)

    async def cancel_starts(self) -> None:
        """Give up every start that is under way; a container that is made already stays, to be ended like the others."""
        tasks = list(self._starting.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _start(self, name: str, sandbox: Sandbox, volumes: Prepared) -> None:
        container = self.pod.container(name)
        assert container is not None
        known = self.runs.setdefault(name, ContainerRuns())
        last = known.current or known.previous
        attempt = last.attempt + 1 if last is not None else 0
        start = Start(self._node, self.pod, container, attempt, sandbox, volumes)
        try:
            run = await start.run()
        except PullError as failure:
            known.waiting, known.not_before = Waiting(failure.reason, failure.message), failure.retry_at
        except NotStartedError as failure:
            self._not_started(known, failure.reason, failure.message)
        except Exception as failure:
            # A full disk, a path that cannot be, a fault here: it is told, and not tried again at once.
            log.exception("container not started", pod=str(self.pod.ref), container=name)
            start.tell("Warning", "Failed", f"Error: {failure}")
            self._not_started(known, "CreateContainerError", str(failure))
        else:
            await self._started(known, run, start)

    @staticmethod
    def _not_started(known: ContainerRuns, reason: str, message: str) -> None:
        known.waiting, known.not_before = Waiting(reason, message), time.time() + plan.FIRST_BACKOFF

    async def _started(self, known: ContainerRuns, run: Run, start: Start) -> None:
        oldest, known.previous, known.current, known.waiting = known.previous, known.current, run, None
        if run.attempt:
            known.backoff = plan.next_backoff(known.backoff)
        if run.state == "exited":
            _back_off(known, run)
        else:
            status = self._node.runtime.statuses.get(run.cid)
            if status is not None and status.exit is not None:
                self.note_end(status)  # it ended before it was known here
        self._wake()
        if oldest is not None and oldest.cid:
            await self._remove(oldest)
        if run.state == "running":
            await self._post_start(run, start)

    async def _remove(self, oldest: Run) -> None:
        """A run that nobody can see any more. What is left of it goes with the pod, and keeps no other run from its hook."""
        try:
            await self._node.runtime.remove(oldest.cid)
        except (ShimError, OSError) as error:
            log.warning("container not removed", pod=str(self.pod.ref), container=oldest.name, error=str(error))

    async def _post_start(self, run: Run, start: Start) -> None:
        text = await start.post_start(run)
        if text and run.state == "running":
            start.tell("Warning", "FailedPostStartHook", f"PostStartHook failed: {text}")
            run.reason = "PostStartHookError"
            self.spawn(self.stop(run, Deadline(self.grace)))
        elif run.state == "running":
            run.hook_done = True
            self._watch(run)

    def show_backing_off(self, names: Iterable[str]) -> None:
        """Containers that are started again later say so."""
        meta = self.pod.metadata
        for name in names:
            known = self.runs[name]
            if (
                known.current is None
                or known.current.state != "exited"
                or not known.backoff
                or known.waiting is not None
            ):
                continue
            where = f"{name} in pod {meta.name}_{meta.namespace}({meta.uid})"
            self._node.event(self.pod, "Warning", "BackOff", f"Back-off restarting failed container {where}", name)
            where = f"container={name} pod={meta.name}_{meta.namespace}({meta.uid})"
            text = f"back-off {_minutes(known.backoff)} restarting failed {where}"
            known.waiting = Waiting("CrashLoopBackOff", text)

    # Probing

    def watch_adopted(self) -> None:
        """Probe the containers that were running before this process."""
        for name in self.running:
            run = self.runs[name].current
            if run is not None and run.hook_done and run.cid not in self._probers:
                self._watch(run)

    def _watch(self, run: Run) -> None:
        container = self.pod.container(run.name)
        if container is None:
            return
        spec = container

        async def ask(_kind: Kind, probe: Probe) -> str:
            return await actions.perform(
                self._node, spec, run.cid, probe, pod_ip=self.ip, timeout=probe.timeout_seconds
            )

        callbacks = Callbacks(
            ask=ask,
            started=lambda: self._set(run, "started", True),
            ready=lambda good: self._set(run, "ready", good),
            failed=lambda kind, probe, _text: self._probe_failed(run, kind, probe),
            unhealthy=lambda kind, text: self._unhealthy(run, kind, text),
        )
        self._probers[run.cid] = Prober(container, callbacks, started=run.started)
        self._probers[run.cid].start()

    def _set(self, run: Run, name: str, value: bool) -> None:
        setattr(run, name, value)
        self._wake()

    def _unhealthy(self, run: Run, kind: Kind, text: str) -> None:
        self._node.event(self.pod, "Warning", "Unhealthy", f"{kind} probe failed: {text}", run.name)

    def _probe_failed(self, run: Run, kind: Kind, probe: Probe) -> None:
        grace = probe.termination_grace_period_seconds
        why = f"Container {run.name} failed {kind.lower()} probe, will be restarted"
        self.spawn(self.stop(run, Deadline(self.grace if grace is None else grace), why))

    def _stop_probes(self, run: Run) -> None:
        prober = self._probers.pop(run.cid, None)
        if prober is not None:
            prober.stop()

    # Ending

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Let some ending run on its own."""
        task = asyncio.create_task(work)
        self._stopping.add(task)
        task.add_done_callback(self._stop_done)
        return task

    def _stop_done(self, task: asyncio.Task[None]) -> None:
        self._stopping.discard(task)
        self._done(task)

    def _done(self, task: asyncio.Task[None]) -> None:
        failure = None if task.cancelled() else task.exception()
        if failure is not None and not isinstance(failure, ShimError):
            log.error("pod task failed", pod=str(self.pod.ref), exc_info=failure)
        self._wake()

    async def stop(self, run: Run, deadline: Deadline, why: str = "") -> None:
        """End one container with grace; returns when it has ended."""
        container = self.pod.container(run.name)
        if run.state != "running" or run.stopping or container is None:
            return
        run.stopping = why or f"Stopping container {run.name}"
        self._stop_probes(run)
        self._node.event(self.pod, "Normal", "Killing", run.stopping, run.name)
        self._wake()
        ending = stopping.Ending(self._node, self.pod, container, run, self._ended_event(run.cid), deadline, self.ip)
        await ending.stop()

    def end_all(self) -> None:
        """Begin to end all that runs, unless that is under way."""
        current = [run for known in self.runs.values() if (run := known.current) is not None]
        left = any(run.state == "running" and not run.stopping for run in current)
        if left and (self._ending_all is None or self._ending_all.done()):
            self._ending_all = self.spawn(self.stop_all(Deadline(self.grace)))

    async def stop_all(self, deadline: Deadline) -> None:
        """Containers together first, then the sidecars, the last one first."""
        names, sidecars = set(self.running), self.pod.sidecars
        runs = [run for n, k in self.runs.items() if n in names - sidecars and (run := k.current) is not None]
        await asyncio.gather(*(self.stop(run, deadline) for run in runs))
        for container in reversed(self.pod.spec.init_containers):
            known = self.runs.get(container.name)
            if container.name in names & sidecars and known is not None and known.current is not None:
                await self.stop(known.current, deadline)

    async def kill_all(self) -> None:
        """End everything at once; the init containers are forgotten, so that they run again."""
        for name in self.running:
            run = self.runs[name].current
            if run is not None:
                await self._node.runtime.kill(run.cid)
                await self._ended_event(run.cid).wait()
        for container in self.pod.spec.init_containers:
            self.runs.pop(container.name, None)

    async def close(self) -> None:
        """The node process ends: leave the containers as they are."""
        for prober in self._probers.values():
            prober.stop()
        tasks = [*self._starting.values(), *self._stopping]
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


def _back_off(known: ContainerRuns, run: Run) -> None:
    """When a run that ended may be followed by the next."""
    assert run.exit is not None
    ran_long = run.started_at and run.exit.finished_at - run.started_at >= plan.RESET_AFTER
    if ran_long or run.exit.lost:  # a container that was lost did not fail
        known.backoff = 0.0
    known.not_before = run.exit.finished_at + known.backoff


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f}s" if seconds < 60 else f"{seconds // 60:.0f}m{seconds % 60:.0f}s"
