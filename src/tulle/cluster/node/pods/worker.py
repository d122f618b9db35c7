"""One pod's worker: it looks at what should be and what is, does the next thing, reports, and waits for news.

All work that takes time (pulling, hooks, graceful ends) runs in tasks of its own and wakes the worker when it is done, so that
the worker always answers at once to a deletion. What to do is decided by `plan`, what to report by `status`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterable
from pathlib import Path
from typing import Any

import structlog

from tulle.cluster.node.pods import actions, plan, sandboxes, status, stopping, terminal_message
from tulle.cluster.node.pods.downward import PodFacts
from tulle.cluster.node.pods.ending import end_pod, release
from tulle.cluster.node.pods.node import Node
from tulle.cluster.node.pods.plan import Outcome, Plan
from tulle.cluster.node.pods.probes import Callbacks, Kind, Prober
from tulle.cluster.node.pods.projected import VolumeError
from tulle.cluster.node.pods.publisher import Publisher
from tulle.cluster.node.pods.pulls import PullFailed
from tulle.cluster.node.pods.runs import ContainerRuns, Run, Waiting, adopt
from tulle.cluster.node.pods.sandboxes import Sandbox, SandboxFailed
from tulle.cluster.node.pods.spec import Pod, Probe
from tulle.cluster.node.pods.starting import Start, StartFailed
from tulle.cluster.node.pods.status import PodState, rfc3339
from tulle.cluster.node.pods.stopping import Deadline
from tulle.cluster.node.pods.volumes import Prepared
from tulle.cluster.node.runtime.records import Status
from tulle.cluster.node.runtime.shim.client import ShimError

RETRY = 2.0
RESYNC = 60.0

log = structlog.get_logger("tulle.node.pod")


class PodWorker:
    """Keeps one pod. `adopted` are the containers of this pod that were there before this process."""

    def __init__(self, node: Node, pod: Pod, adopted: Iterable[Status]) -> None:
        self.pod = pod
        self.runs: dict[str, ContainerRuns] = {}
        self.sandbox: Sandbox | None = None
        self.gone = False
        """The API server has no such pod (any more)."""
        self._node = node
        self._wake = asyncio.Event()
        self._ended: dict[str, asyncio.Event] = {}
        self._probers: dict[str, Prober] = {}
        self._starting: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._start_tasks: set[asyncio.Task[None]] = set()
        self._volumes: Prepared | None = None
        self._volumes_stale = False
        self._outcome: Outcome = ""
        self._reason = self._message = ""
        self._released = False
        self._initialized = False
        self._deadline: Deadline | None = None
        self._old_sandbox: Status | None = None
        self._start_time = pod.status.get("startTime") or rfc3339(time.time())
        self._publisher = Publisher(node)
        self._adopt(adopted)

    # What others tell

    def update(self, pod: Pod) -> None:
        """The pod as the API server has it now."""
        self.pod = pod
        grace = pod.metadata.deletion_grace_period_seconds
        if self._deadline is not None and grace is not None:
            self._deadline.shorten(grace)
        self.wake()

    def removed(self) -> None:
        """The API server has the pod no more (a forced deletion): end it here too."""
        self.gone = True
        if self._deadline is not None:
            self._deadline.shorten(0)
        self.wake()

    def sources_changed(self) -> None:
        """A ConfigMap or Secret of the pod changed."""
        self._volumes_stale = True
        self.wake()

    def wake(self) -> None:
        self._wake.set()

    def container_ended(self, ended: Status) -> None:
        """The runtime's news."""
        record = ended.record
        if record.kind == "sandbox":
            self.wake()
        known = self.runs.get(record.name)
        run = known.current if known is not None else None
        if known is not None and run is not None and run.cid == record.cid and run.state == "running":
            self._note_end(known, run, ended)
        if record.cid in self._ended:
            self._ended[record.cid].set()
        self.wake()

    def _note_end(self, known: ContainerRuns, run: Run, ended: Status) -> None:
        assert ended.exit is not None
        run.state, run.exit, run.ready = "exited", ended.exit, False
        prober = self._probers.pop(run.cid, None)
        if prober is not None:
            prober.stop()
        container = self.pod.container(run.name)
        if container is not None:
            file = terminal_message.path(self._node.paths.pod(self.pod.metadata.uid), run.name, run.attempt)
            run.message = terminal_message.read(container, file, Path(ended.record.log_path), ended.exit.exit_code)
        self._back_off(known, run)

    @staticmethod
    def _back_off(known: ContainerRuns, run: Run) -> None:
        assert run.exit is not None
        if run.started_at and run.exit.finished_at - run.started_at >= plan.RESET_AFTER:
            known.backoff = 0.0
        known.not_before = run.exit.finished_at + known.backoff

    # The worker's life

    async def run(self) -> None:
        """Until the pod has ended here and is gone from the API server."""
        pause = 0.0
        while True:
            try:
                self._wake.clear()
                wake_at = await self._sync()
                if self._finished:
                    return
                pause = RESYNC if wake_at is None else max(0.0, wake_at - time.time())
            except ShimError as error:
                log.warning("runtime away", pod=str(self.pod.ref), error=str(error))
                pause = RETRY
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)

    _finished = False

    async def close(self) -> None:
        """The node process ends: leave the pod as it is."""
        for prober in self._probers.values():
            prober.stop()
        for task in (*self._tasks, *self._start_tasks):
            task.cancel()

    @property
    def _terminating(self) -> bool:
        return self.gone or self.pod.metadata.deletion_timestamp is not None

    async def _sync(self) -> float | None:
        """One look at everything; when to look again (clock time)."""
        if self._terminating:
            await self._terminate()
            return None
        self._check_active_deadline()
        wake_at = None
        if not self._outcome:
            wake_at = await self._advance()
        if self._outcome and not self._released and not self._running():
            await self._release()
        published = await self._publish()
        return wake_at if published else time.time() + RETRY

    async def _advance(self) -> float | None:
        """Towards running: sandbox, volumes, containers."""
        now = time.time()
        try:
            await self._ensure_sandbox()
            await self._ensure_volumes()
        except SandboxFailed as error:
            self._node.event(self.pod, "Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            return now + RETRY
        except VolumeError as error:
            self._node.event(self.pod, "Warning", "FailedMount", str(error))
            return now + RETRY
        step = plan.plan(self.pod.spec, self.runs, now)
        self._initialized = self._initialized or step.initialized
        self._outcome = step.outcome
        self._show_backing_off(step)
        for name in step.start:
            if name not in self._starting:
                self._spawn_start(name)
        if step.stop:
            self._spawn(self._stop_all(list(step.stop)))
        times = [t for t in (step.wake_at, self._volumes.refresh_at if self._volumes else None, self._active_until) if t]
        return min(times, default=None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._start_tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and not isinstance(task.exception(), ShimError):
            log.error("pod task failed", pod=str(self.pod.ref), exc_info=task.exception())
        self.wake()

    # Sandbox and volumes

    def _adopt(self, adopted: Iterable[Status]) -> None:
        reported = {
            s["name"]: s
            for kind in ("containerStatuses", "initContainerStatuses")
            for s in self.pod.status.get(kind) or ()
        }
        for old in sorted(adopted, key=lambda s: s.record.attempt):
            if old.record.kind == "sandbox":
                self._old_sandbox = old if old.exit is None else self._old_sandbox
                continue
            known = self.runs.setdefault(old.record.name, ContainerRuns())
            known.previous, known.current = known.current, adopt(old)
            if known.current.attempt:
                known.backoff = min(plan.FIRST_BACKOFF * 2 ** (known.current.attempt - 1), plan.LAST_BACKOFF)
            shown = reported.get(old.record.name, {})
            known.current.ready, known.current.started = bool(shown.get("ready")), bool(shown.get("started"))
            if known.current.state == "exited":
                self._back_off(known, known.current)

    async def _ensure_sandbox(self) -> None:
        if self.sandbox is not None:
            alive = self._node.runtime.statuses.get(self.sandbox.cid)
            if alive is not None and alive.exit is None:
                return
            await self._sandbox_lost(self.sandbox)
        self.sandbox = await sandboxes.ensure(self._node, self.pod, self._old_sandbox)
        self._old_sandbox = None
        for known in self.runs.values():
            if known.current is not None and known.current.state == "running" and known.current.cid not in self._probers:
                self._watch(known.current)

    async def _sandbox_lost(self, lost: Sandbox) -> None:
        """The holder of the namespaces is dead: the containers cannot share them with new ones any more, so all start anew."""
        self._node.event(self.pod, "Normal", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
        self.sandbox, self._volumes, self._initialized = None, None, False
        for known in self.runs.values():
            if known.current is not None and known.current.state == "running":
                await self._node.runtime.kill(known.current.cid)
                await self._ended_event(known.current.cid).wait()
        for container in self.pod.spec.init_containers:
            self.runs.pop(container.name, None)
        await self._node.runtime.remove(lost.cid)

    async def _ensure_volumes(self) -> None:
        known = self._volumes
        stale = self._volumes_stale or (known is not None and (known.refresh_at or float("inf")) <= time.time())
        if known is not None and not stale:
            return
        assert self.sandbox is not None
        self._volumes_stale = False
        self._volumes = await self._node.volumes.prepare(self.pod, self._facts(self.sandbox.ip))

    def _facts(self, ip: str) -> PodFacts:
        return PodFacts(ip, self._node.name, self._node.ip, self._node.allocatable)

    # Containers

    def _spawn_start(self, name: str) -> None:
        self._starting.add(name)
        task = asyncio.create_task(self._start(name), name=f"start {self.pod.ref}/{name}")
        self._start_tasks.add(task)
        task.add_done_callback(self._done)

    async def _start(self, name: str) -> None:
        container = self.pod.container(name)
        assert container is not None and self.sandbox is not None and self._volumes is not None
        known = self.runs.setdefault(name, ContainerRuns())
        last = known.current or known.previous
        attempt = last.attempt + 1 if last is not None else 0
        start = Start(self._node, self.pod, container, attempt, self.sandbox, self._volumes)
        try:
            run = await start.run()
        except PullFailed as failure:
            known.waiting, known.not_before = Waiting(failure.reason, failure.message), failure.retry_at
        except StartFailed as failure:
            known.waiting, known.not_before = Waiting(failure.reason, failure.message), time.time() + plan.FIRST_BACKOFF
        else:
            await self._started(known, run, start)
        finally:
            self._starting.discard(name)

    async def _started(self, known: ContainerRuns, run: Run, start: Start) -> None:
        oldest, known.previous, known.current, known.waiting = known.previous, known.current, run, None
        if run.attempt:
            known.backoff = plan.next_backoff(known.backoff, 0.0)
        if run.state == "running":
            status_ = self._node.runtime.statuses.get(run.cid)
            if status_ is not None and status_.exit is not None:
                self.container_ended(status_)  # it ended before it was known here
        else:
            self._back_off(known, run)
        if oldest is not None and oldest.cid:
            await self._node.runtime.remove(oldest.cid)
        if run.state != "running":
            return
        self.wake()
        text = await start.post_start(run)
        if text and run.state == "running":
            start.tell("Warning", "FailedPostStartHook", f"PostStartHook failed: {text}")
            run.reason = "PostStartHookError"
            self._spawn(self._stop_one(run, "FailedPostStartHook", self._grace()))
            return
        run.hook_done = True
        if run.state == "running":
            self._watch(run)

    def _watch(self, run: Run) -> None:
        """Start the probes of a running container."""
        container = self.pod.container(run.name)
        if container is None:
            return

        async def ask(_kind: Kind, probe: Probe) -> str:
            ip = self.sandbox.ip if self.sandbox is not None else ""
            return await actions.perform(self._node, container, run.cid, probe, ip, probe.timeout_seconds)

        prober = Prober(
            container,
            Callbacks(
                ask=ask,
                started=lambda: self._set(run, "started", True),
                ready=lambda good: self._set(run, "ready", good),
                failed=lambda kind, probe, _text: self._probe_failed(run, kind, probe),
                unhealthy=lambda kind, text: self._unhealthy(run, kind, text),
            ),
        )
        self._probers[run.cid] = prober
        prober.start()

    def _set(self, run: Run, name: str, value: bool) -> None:
        setattr(run, name, value)
        self.wake()

    def _unhealthy(self, run: Run, kind: Kind, text: str) -> None:
        self._node.event(self.pod, "Warning", "Unhealthy", f"{kind} probe failed: {text}", run.name)

    def _probe_failed(self, run: Run, kind: Kind, probe: Probe) -> None:
        grace = probe.termination_grace_period_seconds
        self._spawn(
            self._stop_one(run, f"failed {kind.lower()} probe", self._grace() if grace is None else grace, will_restart=True)
        )

    def _grace(self) -> float:
        seconds = self.pod.metadata.deletion_grace_period_seconds
        return self.pod.spec.termination_grace_period_seconds if seconds is None else seconds

    async def _stop_one(self, run: Run, why: str, grace: float, *, will_restart: bool = False) -> None:
        await self._stop(run, why, Deadline(grace), will_restart=will_restart)

    async def _stop(self, run: Run, why: str, deadline: Deadline, *, will_restart: bool = False) -> None:
        container = self.pod.container(run.name)
        if run.state != "running" or run.stopping or container is None:
            return
        run.stopping = why
        prober = self._probers.pop(run.cid, None)
        if prober is not None:
            prober.stop()
        text = f"Container {run.name} {why}, will be restarted" if will_restart else f"Stopping container {run.name}"
        self._node.event(self.pod, "Normal", "Killing", text, run.name)
        self.wake()
        ip = self.sandbox.ip if self.sandbox is not None else ""
        await stopping.stop(self._node, self.pod, container, run, self._ended_event(run.cid), deadline, ip)

    def _ended_event(self, cid: str) -> asyncio.Event:
        event = self._ended.setdefault(cid, asyncio.Event())
        known = self._node.runtime.statuses.get(cid)
        if known is None or known.exit is not None:
            event.set()
        return event

    async def _stop_all(self, names: Iterable[str], deadline: Deadline | None = None) -> None:
        """Containers together first, then the sidecars, the last one first."""
        deadline = deadline or Deadline(self._grace())
        wanted = set(names)
        sidecars = self.pod.sidecars
        runs = [k.current for n, k in self.runs.items() if n in wanted and n not in sidecars and k.current is not None]
        await asyncio.gather(*(self._stop(run, "stopping", deadline) for run in runs))
        for container in reversed(self.pod.spec.init_containers):
            known = self.runs.get(container.name)
            if container.name in wanted & sidecars and known is not None and known.current is not None:
                await self._stop(known.current, "stopping", deadline)

    def _show_backing_off(self, step: Plan) -> None:
        for name in step.backing_off:
            known = self.runs[name]
            if known.current is None or known.current.state != "exited" or known.backoff == 0.0:
                continue
            meta = self.pod.metadata
            where = f"{name} in pod {meta.name}_{meta.namespace}({meta.uid})"
            if known.waiting is None:
                self._node.event(self.pod, "Warning", "BackOff", f"Back-off restarting failed container {where}", name)
                seconds = f"{known.backoff:.0f}s" if known.backoff < 60 else f"{known.backoff // 60:.0f}m{known.backoff % 60:.0f}s"
                where = f"container={name} pod={meta.name}_{meta.namespace}({meta.uid})"
                known.waiting = Waiting("CrashLoopBackOff", f"back-off {seconds} restarting failed {where}")

    # The end

    @property
    def _active_until(self) -> float | None:
        seconds = self.pod.spec.active_deadline_seconds
        return None if seconds is None else status.parse_time(self._start_time) + seconds

    def _check_active_deadline(self) -> None:
        until = self._active_until
        if until is not None and not self._outcome and time.time() >= until:
            self._outcome, self._reason = "Failed", "DeadlineExceeded"
            self._message = "Pod was active on the node longer than the specified deadline"
            self._node.event(self.pod, "Normal", "DeadlineExceeded", self._message)
            self._spawn(self._stop_all(self._running()))

    def _running(self) -> list[str]:
        return [n for n, k in self.runs.items() if k.current is not None and k.current.state == "running"]

    async def _release(self) -> None:
        """The pod is over but still there: give back its sandbox and volumes, keep what its logs need."""
        if self._start_tasks or self._starting:
            return
        sandbox = self.sandbox
        await release(self._node, self.pod, sandbox.cid if sandbox is not None else "")
        self._released = True

    async def _terminate(self) -> None:
        for task in list(self._start_tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._deadline is None:
            self._deadline = Deadline(0 if self.gone else self._grace())
            self._spawn(self._stop_all(self._running(), self._deadline))
            self._initialized = self._initialized or self._released
        if self._running() or self._tasks:
            await self._publish()
            return
        if not self._outcome:
            succeeded = all(k.current and k.current.exit and k.current.exit.exit_code == 0 for k in self._main_runs())
            self._outcome = "Succeeded" if succeeded and self._main_runs() else "Failed"
        self._finished = await end_pod(self._node, self.pod, gone=self.gone, publish=self._publish)
        if not self._finished:
            asyncio.get_running_loop().call_later(RETRY, self.wake)

    def _main_runs(self) -> list[ContainerRuns]:
        return [self.runs[c.name] for c in self.pod.spec.containers if c.name in self.runs]

    # Reporting

    async def _publish(self) -> bool:
        if self.gone:
            return True
        state = PodState(
            runs=self.runs,
            node_ip=self._node.ip,
            ip=self.sandbox.ip if self.sandbox is not None else self.pod.status.get("podIP", ""),
            sandbox_ready=self.sandbox is not None and not self._released,
            initialized=self._initialized,
            outcome=self._outcome,
            start_time=self._start_time,
            reason=self._reason,
            message=self._message,
        )
        return await self._publisher.publish(self.pod, state)


