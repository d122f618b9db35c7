"""One pod's worker: it looks at what should be and what is, does the next thing, reports, and waits for news.

It never waits for anything that takes long, so that it answers at once to a deletion. What to do is decided by `plan`,
what to report by `status`; `containers` does it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace

import structlog

from tulle.cluster.node.pods import plan, sandboxes, status
from tulle.cluster.node.pods.containers import Containers
from tulle.cluster.node.pods.downward import PodFacts
from tulle.cluster.node.pods.ending import end_pod, release
from tulle.cluster.node.pods.node import Node
from tulle.cluster.node.pods.plan import Outcome
from tulle.cluster.node.pods.projected import VolumeError
from tulle.cluster.node.pods.publisher import Publisher
from tulle.cluster.node.pods.runs import ContainerRuns
from tulle.cluster.node.pods.sandboxes import Sandbox, SandboxError
from tulle.cluster.node.pods.spec import Pod
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
        self.sandbox: Sandbox | None = None
        self.gone = False
        """The API server has no such pod (any more)."""
        self._node = node
        self._wake = asyncio.Event()
        self._containers = Containers(node, pod, self.wake)
        self._publisher = Publisher(node)
        self._volumes: Prepared | None = None
        self._volumes_stale = False
        # A pod that is over stays so, also when this process is a new one, and nothing of its status is written again.
        self._over = pod.status.get("phase") in {"Succeeded", "Failed"}
        self._outcome: Outcome = pod.status["phase"] if self._over else ""
        self._reason = self._message = ""
        self._initialized = self._released = self._finished = False
        self._deadline: Deadline | None = None
        self._old_sandbox: Status | None = None
        self._start_time = pod.status.get("startTime") or rfc3339(time.time())
        self._adopt(list(adopted))

    def _adopt(self, adopted: list[Status]) -> None:
        alive = [s for s in adopted if s.record.kind == "sandbox" and s.exit is None]
        self._old_sandbox = alive[-1] if alive else None
        self._containers.adopt(s for s in adopted if s.record.kind == "container")

    @property
    def runs(self) -> Mapping[str, ContainerRuns]:
        return self._containers.runs

    # What others tell

    def update(self, pod: Pod) -> None:
        """The pod as the API server has it now."""
        self.pod = self._containers.pod = pod
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

    def container_ended(self, ended: Status) -> None:
        """The runtime's news."""
        self._containers.note_end(ended)

    def wake(self) -> None:
        self._wake.set()

    # The worker's life

    async def run(self) -> None:
        """Until the pod has ended here and is gone from the API server. A fault costs this pod a delay, and its owner hears
        of it.
        """
        faults = 0
        while True:
            self._wake.clear()
            try:
                wake_at = await self._sync()
                pause = RESYNC if wake_at is None else max(0.0, wake_at - time.time())
                faults = 0
            except ShimError as error:
                log.warning("runtime away", pod=str(self.pod.ref), error=str(error))
                pause = RETRY
            except Exception as error:
                pause = min(RETRY * float(2 ** min(faults, 10)), RESYNC)
                faults += 1
                log.exception("pod worker failed, trying again", pod=str(self.pod.ref), seconds=pause)
                self._node.event(self.pod, "Warning", "FailedSync", f"Error syncing pod, skipping: {error}")
            if self._finished:
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def close(self) -> None:
        """The node process ends: leave the pod as it is."""
        await self._containers.close()

    async def _sync(self) -> float | None:
        """One look at everything; when to look again (clock time)."""
        if self.gone or self.pod.metadata.deletion_timestamp is not None:
            await self._terminate()
            return None
        self._check_active_deadline()
        wake_at = None
        if not self._outcome:
            wake_at = await self._advance()
        if self._outcome:
            await self._wind_down()
        published = await self._publish()
        return wake_at if published else time.time() + RETRY

    async def _advance(self) -> float | None:
        """Towards running: sandbox, volumes, containers."""
        now = time.time()
        try:
            sandbox = await self._ensure_sandbox()
            volumes = await self._ensure_volumes(sandbox)
        except SandboxError as error:
            self._node.event(self.pod, "Warning", "FailedCreatePodSandBox", f"Failed to create pod sandbox: {error}")
            return now + RETRY
        except VolumeError as error:
            self._node.event(self.pod, "Warning", "FailedMount", str(error))
            return now + RETRY
        step = plan.plan(self.pod.spec, self.runs, now)
        self._initialized = self._initialized or step.initialized
        self._outcome = step.outcome
        self._containers.show_backing_off(step.backing_off)
        for name in step.start:
            self._containers.start(name, sandbox, volumes)
        times = [t for t in (step.wake_at, volumes.refresh_at, self._active_until) if t is not None]
        return min(times, default=None)

    # Sandbox and volumes

    async def _ensure_sandbox(self) -> Sandbox:
        if self.sandbox is not None:
            alive = self._node.runtime.statuses.get(self.sandbox.cid)
            if alive is not None and alive.exit is None:
                return self.sandbox
            await self._sandbox_lost(self.sandbox)
        self.sandbox = await sandboxes.ensure(self._node, self.pod, self._old_sandbox)
        self._old_sandbox = None
        self._containers.ip = self.sandbox.ip
        self._containers.watch_adopted()
        return self.sandbox

    async def _sandbox_lost(self, lost: Sandbox) -> None:
        """The holder of the namespaces is dead: the containers cannot share them with new ones, so all start anew."""
        text = "Pod sandbox changed, it will be killed and re-created."
        self._node.event(self.pod, "Normal", "SandboxChanged", text)
        self.sandbox, self._volumes, self._initialized = None, None, False
        await self._containers.cancel_starts()
        await self._containers.kill_all()
        await self._node.runtime.remove(lost.cid)

    async def _ensure_volumes(self, sandbox: Sandbox) -> Prepared:
        known = self._volumes
        if known is not None and not self._volumes_stale and (known.refresh_at or float("inf")) > time.time():
            return known
        facts = PodFacts(sandbox.ip, self._node.name, self._node.ip, self._node.allocatable)
        self._volumes_stale = False
        try:
            self._volumes = await self._node.volumes.prepare(self.pod, facts)
        except VolumeError as error:
            self._volumes_stale = True
            if known is None:
                raise
            # What is mounted stays as it was, and the pod goes on with it: it may end, or start again.
            self._node.event(self.pod, "Warning", "FailedMount", str(error))
            return replace(known, refresh_at=time.time() + RETRY)
        return self._volumes

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

    async def _wind_down(self) -> None:
        """The pod is over: end what runs, also what a start that was under way brings up; then give back the rest."""
        if self._containers.running:
            self._containers.end_all()
        elif not self._containers.busy and not self._released:
            await self._release()

    async def _release(self) -> None:
        """The pod is over but still there: give back its sandbox and volumes, keep what its logs need."""
        left = self._old_sandbox.record.cid if self._old_sandbox is not None else ""
        await release(self._node, self.pod, self.sandbox.cid if self.sandbox is not None else left)
        self._released = True

    async def _terminate(self) -> None:
        await self._containers.cancel_starts()
        if self._deadline is None:
            self._deadline = Deadline(0 if self.gone else self._containers.grace)
            self._containers.spawn(self._containers.stop_all(self._deadline))
        if self._containers.running or self._containers.busy:
            await self._publish()
            return
        if not self._outcome:
            self._outcome = "Succeeded" if self._all_succeeded() else "Failed"
        self._finished = await end_pod(self._node, self.pod, gone=self.gone, publish=self._publish)
        if not self._finished:
            asyncio.get_running_loop().call_later(RETRY, self.wake)

    def _all_succeeded(self) -> bool:
        runs = [known.current for c in self.pod.spec.containers if (known := self.runs.get(c.name)) is not None]
        ends = [run.exit for run in runs if run is not None]
        return len(ends) == len(self.pod.spec.containers) and all(e is not None and e.exit_code == 0 for e in ends)

    # Reporting

    async def _publish(self) -> bool:
        if self.gone or self._over:
            return True
        state = PodState(
            runs=self.runs,
            node_ip=self._node.ip,
            ip=self.sandbox.ip if self.sandbox is not None else self.pod.status.get("podIP", ""),
            sandbox_ready=self.sandbox is not None and not self._released,
            initialized=self._initialized,
            outcome="" if self._containers.starting else self._outcome,
            start_time=self._start_time,
            reason=self._reason,
            message=self._message,
        )
        return await self._publisher.publish(self.pod, state)
