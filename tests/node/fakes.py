"""A node without a machine: its runtime, network and images do what a test says, and remember what they were asked."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from tulle.cluster.node.images.model import ImageConfig
from tulle.cluster.node.images.store import LocalImage
from tulle.cluster.node.paths import NodePaths
from tulle.cluster.node.pods.node import Node
from tulle.cluster.node.pods.volumes import Volumes
from tulle.cluster.node.runtime.records import Exit, Record, Status
from tulle.cluster.node.runtime.rootfs import ImageRoot
from tulle.cluster.node.seams import PodNetwork, PodRef
from tulle.kube.objects.meta import ObjectReference


class FakeRuntime:
    """Containers that run until they are killed. `failures` are raised by the next `create`s, one after the other."""

    def __init__(self, directory: Path) -> None:
        self.statuses: dict[str, Status] = {}
        self.controllers: frozenset[str] = frozenset()
        self.failures: list[Exception] = []
        self.created: list[str] = []
        self.removed: list[str] = []
        self.configs: list[Any] = []
        self.on_change: Callable[[Status], None] = lambda _: None
        self._directory = directory

    def rootfs_path(self, cid: str) -> str:
        return str(self._directory / cid)

    def directory(self, cid: str) -> Path:
        return self._directory / cid

    async def create(self, record: Record, config: Any, _image: ImageRoot | None) -> Status:
        self.created.append(record.name)
        self.configs.append(config)
        if record.kind == "container" and self.failures:
            raise self.failures.pop(0)
        self.statuses[record.cid] = Status(record, "created", pid=os.getpid())
        return self.statuses[record.cid]

    async def run(self, cid: str) -> Status:
        self.statuses[cid] = self.statuses[cid]._replace(state="running", started_at=time.time())
        return self.statuses[cid]

    async def signal(self, cid: str, _number: int) -> None:
        await self.kill(cid)

    async def kill(self, cid: str) -> None:
        self.end(cid, 137)

    def end(self, cid: str, code: int) -> None:
        """The container ends."""
        ended = self.statuses[cid]._replace(state="exited", exit=Exit(exit_code=code, finished_at=time.time()))
        self.statuses[cid] = ended
        self.on_change(ended)

    def running(self, name: str) -> str:
        """The container of this name that runs."""
        return next(cid for cid, s in self.statuses.items() if s.record.name == name and s.exit is None)

    async def remove(self, cid: str) -> None:
        self.removed.append(cid)
        self.statuses.pop(cid, None)

    def remove_pod_cgroup(self, uid: str) -> None:
        pass


class FakeNetwork:
    """`failures` are raised by the next `attach`es."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.detached: list[PodRef] = []

    async def attach(self, _pod: PodRef, _host_network: bool) -> PodNetwork:
        if self.failures:
            raise self.failures.pop(0)
        return PodNetwork("/proc/self/ns/net", "10.244.0.9")

    async def detach(self, pod: PodRef) -> None:
        self.detached.append(pod)

    def resolv_conf(self, _namespace: str, _policy: str) -> str:
        return "nameserver 10.96.0.10\n"


class FakePulls:
    """Every image is here and has nothing in it."""

    def __init__(self, root: Path) -> None:
        self._image = LocalImage("img", "sha256:1", ImageConfig(cmd=("/bin/true",)), ImageRoot((str(root),)), 1)

    async def ensure(self, *_: Any) -> LocalImage:
        return self._image


class FakeRecorder:
    """`told` are (reason, message)."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def event(self, _reference: ObjectReference, _kind: str, reason: str, message: str) -> None:
        self.told.append((reason, message))


class FakeClient:
    """The API server as pods' statuses see it; `patched` are the bodies."""

    def __init__(self) -> None:
        self.patched: list[Mapping[str, Any]] = []
        self.deleted: list[str] = []

    async def patch(self, _resource: Any, _name: str, body: Mapping[str, Any], *_: Any, **__: Any) -> None:
        self.patched.append(body)

    async def delete(self, _resource: Any, name: str, *_: Any, **__: Any) -> None:
        self.deleted.append(name)


class FakeObjects:
    """ConfigMaps and Secrets by (kind, name)."""

    def __init__(self, objects: Mapping[tuple[str, str], Any]) -> None:
        self.objects = dict(objects)

    async def get(self, _uid: str, kind: str, _namespace: str, name: str) -> Any:
        return self.objects.get((kind, name))

    def release(self, uid: str) -> None:
        pass


class FakeNode:
    """A `Node` of fakes; `node` is what pods get."""

    def __init__(self, state: Path, objects: Mapping[tuple[str, str], Any] | None = None) -> None:
        paths = NodePaths(state, "n1")
        paths.create()
        self.runtime, self.network = FakeRuntime(paths.containers), FakeNetwork()
        self.recorder, self.client, self.objects = FakeRecorder(), FakeClient(), FakeObjects(objects or {})
        self.node = Node(
            name="n1",
            ip="169.254.77.2",
            paths=paths,
            client=cast(Any, self.client),
            runtime=cast(Any, self.runtime),
            pulls=cast(Any, FakePulls(state)),
            volumes=Volumes(paths, cast(Any, self.objects)),
            objects=cast(Any, self.objects),
            network=cast(Any, self.network),
            recorder=cast(Any, self.recorder),
            services=tuple,
            allocatable={},
            capabilities=frozenset(),
        )

    @property
    def reasons(self) -> Sequence[str]:
        return [reason for reason, _ in self.recorder.told]


async def until(condition: Any, seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)
