"""Why a workload is not Ready: what whoever waited in vain would look up next, of its pods, their events and their logs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from tulle.kube.client import Client
from tulle.kube.errors import ApiError
from tulle.kube.objects import ContainerStatus, Pod
from tulle.kube.resources import EVENTS, PODS

_LINES = 5
"""Of each container's log, the newest."""


async def reasons(client: Client, workload: Any) -> Sequence[str]:
    """Lines about the pods of a Deployment or DaemonSet that are not Ready; what cannot be asked is one of the lines."""
    meta = workload.metadata
    try:
        return [line async for line in _workload(client, workload, f"{workload.kind} {meta.namespace}/{meta.name}")]
    except ApiError as error:
        return [f"{workload.kind} {meta.namespace}/{meta.name}: {error}"]


async def _workload(client: Client, workload: Any, title: str) -> AsyncIterator[str]:
    meta = workload.metadata
    labels = ",".join(f"{key}={value}" for key, value in sorted(workload.spec.selector.match_labels.items()))
    pods = (await client.list(PODS, meta.namespace, label_selector=labels)).items
    if not pods:
        yield f"{title} has no pods"
        for line in await _events(client, meta.namespace, meta.name):
            yield line
    for pod in pods:
        async for line in _pod(client, pod):
            yield line


async def _pod(client: Client, pod: Pod) -> AsyncIterator[str]:
    meta = pod.metadata
    ending = f", being deleted since {meta.deletion_timestamp}" if meta.deletion_timestamp else ""
    yield f"pod {meta.namespace}/{meta.name}: {pod.status.phase or 'no phase'} on node {pod.spec.node_name or '<none>'}{ending}"
    for condition in pod.status.conditions:
        if condition.status != "True" and condition.message:
            yield f"  {condition.type} is {condition.status}: {condition.message}"
    for line in await _events(client, meta.namespace, meta.name):
        yield line
    for container in (*pod.status.init_container_statuses, *pod.status.container_statuses):
        if container.ready:
            continue
        yield f"  container {container.name}: {state(container)}"
        for line in await _log(client, pod, container.name):
            yield line


def state(container: ContainerStatus) -> str:
    """What a container does now, and how it ended before."""
    now, before = container.state, container.last_state.terminated
    if now.waiting:
        said = f"waiting, {now.waiting.reason} {now.waiting.message}".rstrip()
    elif now.terminated:
        said = f"ended with exit code {now.terminated.exit_code} {now.terminated.message}".rstrip()
    else:
        said = f"running since {now.running.started_at}, not ready" if now.running else "not started"
    return f"{said}; before that it ended with exit code {before.exit_code}" if before else said


async def _events(client: Client, namespace: str, name: str) -> Sequence[str]:
    found = (await client.list(EVENTS, namespace, field_selector=f"involvedObject.name={name}")).items
    return [f"  event {event.reason}: {event.message}" for event in found if event.type == "Warning"]


async def _log(client: Client, pod: Pod, container: str) -> Sequence[str]:
    path = f"/api/v1/namespaces/{pod.metadata.namespace}/pods/{pod.metadata.name}/log"
    try:
        text = await client.raw("GET", f"{path}?container={container}&tailLines={_LINES}", accept="*/*")
    except ApiError as error:
        return [f"    no log: {error}"]
    return [f"    {line}" for line in text.decode(errors="replace").splitlines()]
