"""Runs every controller over one set of caches, and starts one that crashed again after a pause.

All state is in the API: a controller that starts anew, with the process or alone, goes on from what it reads there.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Protocol

import structlog

from tulle.cluster.controllers.caches import Caches, Context
from tulle.cluster.controllers.daemonset import DaemonSetController
from tulle.cluster.controllers.deployment import DeploymentController
from tulle.cluster.controllers.endpointslice import EndpointSliceController
from tulle.cluster.controllers.garbagecollector import GarbageCollector
from tulle.cluster.controllers.namespace import NamespaceController
from tulle.cluster.controllers.nodelifecycle import NodeLifecycleController
from tulle.cluster.controllers.podgc import PodGarbageCollector
from tulle.cluster.controllers.replicaset import ReplicaSetController
from tulle.cluster.controllers.scheduler import Scheduler
from tulle.cluster.controllers.serviceaccounts import RootCaPublisher, ServiceAccountController
from tulle.kube import Client, EventRecorder

_FIRST_PAUSE = 0.2
_LONGEST_PAUSE = 30.0
_STEADY_SECONDS = 60.0

log = structlog.get_logger("tulle.cluster.controllers")


class Controller(Protocol):
    """What the manager runs."""

    name: str

    async def run(self) -> None:
        """Works until cancelled; an exception is a crash."""


async def run(client: Client, *, root_ca: str, node_grace_seconds: float = 40.0) -> None:
    """Runs all controllers until cancelled.

    ``root_ca``: PEM of the cluster's certificate authority, for the ConfigMap kube-root-ca.crt of each namespace.
    ``node_grace_seconds``: after how long without a renewed Lease a node counts as lost.
    """
    recorders: dict[str, EventRecorder] = {}
    async with asyncio.TaskGroup() as group:
        caches = Caches(client)

        def recorder(component: str) -> EventRecorder:
            if component not in recorders:
                recorders[component] = EventRecorder(client, component)
                group.create_task(recorders[component].run(), name=f"events of {component}")
            return recorders[component]

        context = Context(client, caches, recorder)
        group.create_task(caches.run(), name="caches")
        for make in factories(context, root_ca, node_grace_seconds):
            group.create_task(supervise(make), name="controller")


def factories(context: Context, root_ca: str, node_grace_seconds: float) -> list[Callable[[], Controller]]:
    """One maker per controller; each start gets a new instance."""
    return [
        lambda: DeploymentController(context),
        lambda: ReplicaSetController(context),
        lambda: DaemonSetController(context),
        lambda: Scheduler(context),
        lambda: EndpointSliceController(context),
        lambda: ServiceAccountController(context),
        lambda: RootCaPublisher(context, root_ca),
        lambda: NamespaceController(context),
        lambda: GarbageCollector(context),
        lambda: NodeLifecycleController(context, node_grace_seconds),
        lambda: PodGarbageCollector(context, node_grace_seconds),
    ]


async def supervise(make: Callable[[], Controller]) -> None:
    """Runs a controller for ever; after a crash again, with a pause that grows while the crashes go on."""
    loop = asyncio.get_running_loop()
    pause = _FIRST_PAUSE
    while True:
        controller = make()
        task = asyncio.create_task(controller.run(), name=controller.name)
        started = loop.time()
        try:
            await asyncio.wait((task,))
        finally:
            await _end(task)
        if loop.time() - started >= _STEADY_SECONDS:
            pause = _FIRST_PAUSE
        error = None if task.cancelled() else task.exception()
        log.error("controller crashed, starting it again", controller=controller.name, pause=pause, exc_info=error)
        await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE)


async def _end(task: asyncio.Task[None]) -> None:
    """No controller outlives its supervisor."""
    if not task.done():
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
