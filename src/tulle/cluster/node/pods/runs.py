"""One run of a container: from its start to how it ended. A restart is a new run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tulle.cluster.node.runtime.records import Exit, Status

RunState = Literal["running", "exited"]


@dataclass
class Run:
    """What the worker knows of a run; `cid` is empty if the runtime could not make the container."""

    name: str
    attempt: int
    state: RunState
    cid: str = ""
    image: str = ""
    image_id: str = ""
    started_at: float = 0.0
    exit: Exit | None = None
    message: str = ""
    reason: str = ""
    """A reason for the end that is not in the exit code (StartError, PostStartHookError)."""
    hook_done: bool = False
    started: bool = False
    ready: bool = False
    stopping: str = ""
    """Why the node is stopping it, empty if it is not."""

    @property
    def startup_complete(self) -> bool:
        return self.state == "running" and self.hook_done and self.started

    @property
    def end_reason(self) -> str:
        """The reason of a terminated state."""
        if self.reason:
            return self.reason
        if self.exit is None or self.exit.exit_code == 0:
            return "Completed"
        if self.exit.lost:
            return "ContainerStatusUnknown"
        return "OOMKilled" if self.exit.oom_killed else "Error"


@dataclass
class Waiting:
    """Why a container does not run."""

    reason: str
    message: str = ""


@dataclass
class ContainerRuns:
    """The current and the previous run of one container, and why there is none if there is none."""

    current: Run | None = None
    previous: Run | None = None
    waiting: Waiting | None = None
    not_before: float = 0.0
    """Clock time before which it must not be started again."""
    backoff: float = 0.0


def adopt(status: Status) -> Run:
    """A run that was there before this process."""
    return Run(
        name=status.record.name,
        attempt=status.record.attempt,
        state="exited" if status.exit is not None else "running",
        cid=status.record.cid,
        image=status.record.image,
        image_id=status.record.image_id,
        started_at=status.started_at,
        exit=status.exit,
        hook_done=True,
    )
