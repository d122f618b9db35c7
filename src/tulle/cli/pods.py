"""Which pod a command means: `name`, `name.namespace`, or `deployment/name` as istioctl takes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tulle.cli.console import CommandError
from tulle.kube.client import Client
from tulle.kube.errors import NotFound
from tulle.kube.objects import Pod
from tulle.kube.resources import DAEMON_SETS, DEPLOYMENTS, PODS, REPLICA_SETS, SERVICES, Resource

_TYPES: Mapping[str, Resource[Any]] = {
    name: resource
    for resource, names in (
        (PODS, ("pod", "pods", "po")),
        (DEPLOYMENTS, ("deployment", "deployments", "deploy")),
        (DAEMON_SETS, ("daemonset", "daemonsets", "ds")),
        (REPLICA_SETS, ("replicaset", "replicasets", "rs")),
        (SERVICES, ("service", "services", "svc")),
    )
    for name in names
}


def split(name: str, namespace: str) -> tuple[str, str]:
    """(name, namespace) of `name[.namespace]`; the given namespace if it names none."""
    bare, _, own = name.rpartition(".")
    return (bare, own) if bare else (own, namespace)


def is_ready(pod: Pod) -> bool:
    """Whether the pod's condition Ready is True and it is not being deleted."""
    ready = any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)
    return ready and not pod.metadata.deletion_timestamp


async def find(client: Client, reference: str, namespace: str) -> tuple[Pod, ...]:
    """The pods that a reference means, ready ones first. Raises CommandError, ApiError."""
    kind, slash, rest = reference.partition("/")
    resource = _TYPES.get(kind.lower()) if slash else PODS
    if resource is None:
        accepted = ", ".join(sorted({one.kind.lower() for one in _TYPES.values()}))
        raise CommandError(f"{reference!r}: {kind!r} is not a type of which pods can be found; accepted are {accepted}")
    name, where = split(rest if slash else reference, namespace)
    try:
        found = await client.get(resource, name, where)
    except NotFound as error:
        raise CommandError(
            f"{resource.kind.lower()} {where}/{name} does not exist; name it as NAME.NAMESPACE, or add -n"
        ) from error
    if resource is PODS:
        return (found,)
    selector = found.spec.selector
    labels = selector if resource is SERVICES else (selector.match_labels if selector else {})
    if not labels:
        raise CommandError(f"{resource.kind.lower()} {where}/{name} selects no pods: its spec.selector is empty")
    return await labelled(client, ",".join(f"{key}={value}" for key, value in sorted(labels.items())), where)


async def labelled(client: Client, selector: str, namespace: str | None, node: str = "") -> tuple[Pod, ...]:
    """Running pods with these labels, ready ones first; one that ends only while nothing has taken its place on its node."""
    pods = (await client.list(PODS, namespace, label_selector=selector)).items
    running = [pod for pod in pods if node in ("", pod.spec.node_name) and pod.status.phase == "Running"]
    replaced = {pod.spec.node_name for pod in running if not pod.metadata.deletion_timestamp}
    return order(pod for pod in running if not pod.metadata.deletion_timestamp or pod.spec.node_name not in replaced)


def order(pods: Iterable[Pod]) -> tuple[Pod, ...]:
    return tuple(sorted(pods, key=lambda pod: (not is_ready(pod), pod.metadata.namespace, pod.metadata.name)))
