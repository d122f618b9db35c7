"""The last things of a pod: giving back what it had, and telling the API server that it may forget it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable

import structlog

from tulle.cluster.node.pods.node import Node
from tulle.cluster.node.pods.publisher import PODS
from tulle.cluster.node.pods.spec import Pod
from tulle.cluster.node.runtime.shim.client import ShimError
from tulle.cluster.node.seams import NetworkError, PodRef
from tulle.kube.errors import ApiError, Conflict, NotFound

log = structlog.get_logger("tulle.node.pod")


async def release(node: Node, pod: Pod, sandbox: str) -> None:
    """A pod that is over keeps its containers' logs and exit codes, nothing else."""
    if sandbox:
        await node.runtime.remove(sandbox)
    await node.network.detach(pod.ref)
    await asyncio.to_thread(node.volumes.remove, pod.metadata.uid)


async def clean(node: Node, ref: PodRef) -> None:
    """Remove everything of a pod from this node, whatever is left of it; idempotent. Raises ShimError, OSError,
    NetworkError.
    """
    mine = [s.record for s in node.runtime.statuses.values() if s.record.pod_uid == ref.uid]
    for record in sorted(mine, key=lambda r: r.kind == "sandbox"):
        await node.runtime.remove(record.cid)
    await node.network.detach(ref)
    await asyncio.to_thread(node.volumes.remove, ref.uid)
    node.runtime.remove_pod_cgroup(ref.uid)
    shutil.rmtree(node.paths.pod_logs(ref.namespace, ref.name, ref.uid), ignore_errors=True)


async def end_pod(node: Node, pod: Pod, *, gone: bool, publish: Callable[[], Awaitable[bool]]) -> bool:
    """The containers have ended: report it, clean up, delete the object. False if something has to be tried again."""
    if not await publish():
        return False
    try:
        await clean(node, pod.ref)
    except (ShimError, OSError, NetworkError) as error:
        log.warning("pod not cleaned up", pod=str(pod.ref), error=str(error))
        return False
    if gone:
        return True
    meta = pod.metadata
    try:
        await node.client.delete(PODS, meta.name, meta.namespace, uid=meta.uid, grace_period=0)
    except (NotFound, Conflict):
        return True  # it is gone already, or another one has its name
    except ApiError as error:
        log.warning("pod not deleted", pod=str(pod.ref), error=str(error))
        return False
    return True
