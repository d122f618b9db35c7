"""Starting one container: its image, its configuration, its making, its postStart hook."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from tulle.cluster.node.images.store import LocalImage
from tulle.cluster.node.pods import actions, env, sandboxes, terminal_message, volumes
from tulle.cluster.node.pods.container import Machine, Place, build
from tulle.cluster.node.pods.downward import PodFacts
from tulle.cluster.node.pods.env import ConfigError
from tulle.cluster.node.pods.expansion import expand
from tulle.cluster.node.pods.node import Node
from tulle.cluster.node.pods.projected import VolumeError
from tulle.cluster.node.pods.runs import Run
from tulle.cluster.node.pods.sandboxes import Sandbox
from tulle.cluster.node.pods.spec import Container, Pod
from tulle.cluster.node.pods.subpaths import SubPaths
from tulle.cluster.node.pods.volumes import Prepared
from tulle.cluster.node.runtime import cgroups
from tulle.cluster.node.runtime.records import Exit, Record
from tulle.cluster.node.runtime.runtime import ContainerError, new_id
from tulle.cluster.node.runtime.shim.client import ShimError
from tulle.kube.errors import ApiError

START_FAILED_CODE = 128
HOOK_TIMEOUT = 600.0


class NotStartedError(Exception):
    """The container was not made. `reason` is its waiting reason."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class Start:
    """One container of a pod, about to be started for the `attempt`th time (the first is 0)."""

    node: Node
    pod: Pod
    container: Container
    attempt: int
    sandbox: Sandbox
    volumes: Prepared

    @property
    def facts(self) -> PodFacts:
        return PodFacts(self.sandbox.ip, self.node.name, self.node.ip, self.node.allocatable)

    def tell(self, kind: str, reason: str, message: str) -> None:
        self.node.event(self.pod, kind, reason, message, self.container.name)

    async def run(self) -> Run:
        """The new run, which may have ended at once: a program that is not there gives exit code 128, as with other
        runtimes.

        Raises PullError, NotStartedError.
        """
        image = await self.node.pulls.ensure(self.container, self.tell)
        cid = new_id()
        run = Run(self.container.name, self.attempt, "running", cid, self.container.image, image.image_id)
        try:
            with SubPaths(self.node.paths.pod(self.pod.metadata.uid) / "subpaths" / cid) as held:
                await self._create(cid, image, held)
            self.tell("Normal", "Created", f"Created container: {self.container.name}")
            status = await self.node.runtime.run(cid)
        except ContainerError as error:
            return self._never_started(run, str(error))
        except ShimError as error:
            raise NotStartedError("CreateContainerError", str(error)) from error
        self.tell("Normal", "Started", f"Started container {self.container.name}")
        run.started_at = status.started_at
        return run

    async def _create(self, cid: str, image: LocalImage, held: SubPaths) -> None:
        """Raises NotStartedError, ContainerError, ShimError."""
        try:
            values = await self._environment()
            place = self._place(cid, values, held)
            machine = Machine(
                self.node.capabilities, self.node.runtime.controllers, self.node.paths.fs / "var/lib/kubelet/seccomp"
            )
            config = build(self.pod, self.container, image, env=values, place=place, machine=machine)
        except (ConfigError, VolumeError) as error:
            self.tell("Warning", "Failed", f"Error: {error}")
            raise NotStartedError("CreateContainerConfigError", str(error)) from error
        await self.node.runtime.create(self._record(cid, image), config, image.root)

    def _never_started(self, run: Run, why: str) -> Run:
        message = f"failed to start container {self.container.name!r}: {why}"
        self.tell("Warning", "Failed", f"Error: {message}")
        run.state, run.reason, run.message = "exited", "StartError", message
        run.exit = Exit(exit_code=START_FAILED_CODE, finished_at=time.time())
        return run

    def _record(self, cid: str, image: LocalImage) -> Record:
        meta, container = self.pod.metadata, self.container
        log = self.node.paths.pod_logs(meta.namespace, meta.name, meta.uid) / container.name / f"{self.attempt}.log"
        return Record(
            cid=cid,
            kind="container",
            pod_uid=meta.uid,
            pod_namespace=meta.namespace,
            pod_name=meta.name,
            name=container.name,
            attempt=self.attempt,
            image=container.image,
            image_id=image.image_id,
            log_path=str(log),
            tty=container.tty,
            stdin=container.stdin,
            stdin_once=container.stdin_once,
            stop_signal=image.config.stop_signal,
        )

    async def _environment(self) -> dict[str, str]:
        meta = self.pod.metadata
        objects: dict[tuple[str, str], Any] = {}
        for kind, name in set(env.references(self.container)):
            try:
                found = await self.node.objects.get(meta.uid, kind, meta.namespace, name)
            except ApiError as error:
                raise ConfigError(f"failed to get {kind} {meta.namespace}/{name}: {error.message}") from error
            if found is not None:
                objects[(kind, name)] = found
        return env.build(self.pod, self.container, env.Sources(self.facts, self.node.services(), objects))

    def _place(self, cid: str, values: dict[str, str], held: SubPaths) -> Place:
        uid = self.pod.metadata.uid
        sub_paths = {
            mount.mount_path: expand(mount.sub_path_expr, values) if mount.sub_path_expr else mount.sub_path
            for mount in self.container.volume_mounts
        }
        message = terminal_message.path(self.node.paths.pod(uid), self.container.name, self.attempt)
        message.parent.mkdir(parents=True, exist_ok=True)
        message.touch()
        message.chmod(0o666)
        return Place(
            rootfs=self.node.runtime.rootfs_path(cid),
            cgroup=cgroups.container_path(uid, cid),
            netns=self.sandbox.netns,
            sandbox_pid=self.sandbox.pid,
            mounts=[
                *sandboxes.mounts(self.node, self.pod, self.container, message),
                *volumes.mounts(self.container.volume_mounts, self.volumes, sub_paths, held),
            ],
        )

    async def post_start(self, run: Run) -> str:
        """The postStart hook; empty text is success."""
        hook = self.container.lifecycle.post_start
        if hook is None:
            return ""
        return await actions.perform(
            self.node, self.container, run.cid, hook, pod_ip=self.sandbox.ip, timeout=HOOK_TIMEOUT
        )
