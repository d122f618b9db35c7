"""`tulle up`, `down` and `status`: the embedded cluster and the mesh on it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from tulle import manifests
from tulle.cli import kubeconfig as users
from tulle.cluster import lifecycle, supervisor
from tulle.cluster.lifecycle import ClusterError, ClusterSpec
from tulle.kube import resources as r
from tulle.kube.client import Client
from tulle.kube.errors import ApiError, NotFound, Unreachable
from tulle.kube.objects import Pod
from tulle.kube.resources import Resource

FIELD_MANAGER = "tulle"
_MERGED = "merged.json"
_POLL = 0.05
_AT_ONCE = 8
_WORKLOADS = ("Deployment", "DaemonSet")
_KINDS: Mapping[tuple[str, str], Resource[Any]] = {
    (resource.api_version, resource.kind): resource
    for resource in (
        r.NAMESPACES,
        r.SERVICE_ACCOUNTS,
        r.CONFIG_MAPS,
        r.SERVICES,
        r.DEPLOYMENTS,
        r.DAEMON_SETS,
        r.CLUSTER_ROLES,
        r.CLUSTER_ROLE_BINDINGS,
        r.ROLES,
        r.ROLE_BINDINGS,
        r.VALIDATING_WEBHOOKS,
        r.CUSTOM_RESOURCE_DEFINITIONS,
    )
}
"""The kinds that the manifests are made of."""


class Progress:
    """One line per stage, with the seconds it took."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = self._stage = time.monotonic()

    def done(self, what: str) -> None:
        now = time.monotonic()
        self._console.print(f"[green]✔[/green] {what} [dim]({now - self._stage:.1f} s)[/dim]")
        self._stage = now

    @property
    def total(self) -> float:
        return time.monotonic() - self._start


def up(spec: ClusterSpec, *, merge: bool, wait_seconds: float, console: Console) -> None:
    """Bring everything up and wait until the mesh is ready. Raises ClusterError, KubeconfigError, ApiError."""
    values = manifests.Values(profile=spec.profile)
    values.mesh()
    progress = Progress(console)
    lifecycle.start(spec)
    progress.done("node network, keys and processes")
    asyncio.run(_install(spec, values, progress, wait_seconds))
    if merge:
        _merge(Path(spec.state))
    console.print(f"Tulle is up (profile {spec.profile}) after {progress.total:.1f} s.")
    hint = (
        "kubectl get pods -n istio-system" if merge else f"export KUBECONFIG={lifecycle.kubeconfig(Path(spec.state))}"
    )
    console.print(f"Next: [cyan]{hint}[/cyan], or [cyan]tulle lab[/cyan] for the guided lesson.")


def _merge(state: Path) -> None:
    target = users.users_file()
    before = users.merge(lifecycle.kubeconfig(state), target)
    (state / _MERGED).write_text(json.dumps({"file": str(target), "before": before}))


async def _install(spec: ClusterSpec, values: manifests.Values, progress: Progress, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    async with Client.from_kubeconfig(str(lifecycle.kubeconfig(Path(spec.state))), component="tulle") as client:
        await _until_served(client, spec, deadline)
        progress.done("Kubernetes API")
        await _apply_all(client, values, deadline)
        progress.done("custom resources and the mesh's manifests applied")
        await _until_ready(client, spec, values.namespace, deadline)
        progress.done("istiod, istio-cni-node and ztunnel are Ready")


async def _until_served(client: Client, spec: ClusterSpec, deadline: float) -> None:
    while True:
        try:
            await client.raw("GET", "/readyz")
            return
        except (Unreachable, ApiError) as error:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the API on port {spec.port} does not answer ({error}): see {spec.state}/logs/control-plane.log"
                ) from error
            await asyncio.sleep(_POLL)


async def _apply_all(client: Client, values: manifests.Values, deadline: float) -> None:
    """What needs something else comes after it: namespaces first, and last the pods, which need everything."""
    documents = (*manifests.cluster(), *manifests.mesh(values))
    namespaces = [document for document in documents if document["kind"] == "Namespace"]
    workloads = [document for document in documents if document["kind"] in _WORKLOADS]
    others = [document for document in documents if document["kind"] not in (*_WORKLOADS, "Namespace")]
    await _apply(client, (*namespaces, *manifests.crds()))
    await asyncio.gather(_apply(client, others), _until_established(client, deadline))
    await _apply(client, workloads)


async def _apply(client: Client, documents: Sequence[Mapping[str, Any]]) -> None:
    """Apply documents that do not need each other."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(document: Mapping[str, Any]) -> None:
        meta = document["metadata"]
        resource = _KINDS[document["apiVersion"], document["kind"]]
        async with gate:
            await client.patch(
                *(resource, meta["name"], dict(document), meta.get("namespace")),
                kind="apply",
                field_manager=FIELD_MANAGER,
                force=True,
            )

    await asyncio.gather(*map(one, documents))


async def _until_established(client: Client, deadline: float) -> None:
    while True:
        found = (await client.list(r.CUSTOM_RESOURCE_DEFINITIONS)).items
        waiting = [crd["metadata"]["name"] for crd in found if not _established(crd)]
        if not waiting:
            return
        if time.monotonic() > deadline:
            raise ClusterError(f"these custom resources are not established: {', '.join(waiting)}")
        await asyncio.sleep(_POLL)


def _established(crd: Mapping[str, Any]) -> bool:
    conditions = crd.get("status", {}).get("conditions", ())
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


def is_ready(pod: Pod) -> bool:
    """Whether the pod's condition Ready is True."""
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)


async def _until_ready(client: Client, spec: ClusterSpec, namespace: str, deadline: float) -> None:
    wanted = {"istiod": 1, "istio-cni-node": spec.nodes, "ztunnel": spec.nodes}
    while True:
        ready = [pod for pod in (await client.list(r.PODS, namespace)).items if is_ready(pod)]
        missing = [name for name, number in wanted.items() if len(_nodes_of(name, ready)) < number]
        if not missing:
            return
        if time.monotonic() > deadline:
            raise ClusterError(
                f"not Ready in time: {', '.join(missing)}; everything is left as it is for a look: "
                f"KUBECONFIG={lifecycle.kubeconfig(Path(spec.state))} kubectl get pods -A; logs in {spec.state}/logs"
            )
        await asyncio.sleep(_POLL)


def _nodes_of(owner: str, pods: Sequence[Pod]) -> set[str]:
    """The nodes on which pods of that Deployment or DaemonSet run."""
    return {pod.spec.node_name for pod in pods if pod.metadata.name.startswith(f"{owner}-")}


def down(state: Path, *, images: bool, console: Console) -> None:
    """Take everything down. Raises ClusterError, KubeconfigError."""
    record = state / _MERGED
    if record.exists():
        merged = json.loads(record.read_text())
        users.remove(Path(merged["file"]), merged["before"])
    found = lifecycle.stop(state)
    if images:
        lifecycle.forget_images(state)
    console.print("Tulle is down." if found else f"Nothing to take down: there is no cluster in {state}.")


def status(state: Path, console: Console) -> bool:
    """Say what runs; True when the whole mesh is ready."""
    spec = lifecycle.find(state)
    if spec is None:
        console.print(f"Tulle is not up: there is no cluster in {state}. `tulle up` starts one.")
        return False
    if not supervisor.running(state):
        console.print("Tulle's processes are not running (the machine was restarted?). `tulle up` starts anew.")
        return False
    console.print(f"profile     {spec.profile}")
    console.print(f"API         https://127.0.0.1:{spec.port}")
    console.print(f"kubeconfig  {lifecycle.kubeconfig(state)}")
    console.print(f"state       {state}")
    console.print(f"nodes       {', '.join(spec.node_names)}")
    for name, pid in supervisor.pids(state).items():
        console.print(f"process     {name} ({pid})")
    return asyncio.run(_mesh_status(spec, console))


async def _mesh_status(spec: ClusterSpec, console: Console) -> bool:
    async with Client.from_kubeconfig(str(lifecycle.kubeconfig(Path(spec.state))), component="tulle") as client:
        try:
            pods = (await client.list(r.PODS, "istio-system")).items
        except (ApiError, NotFound) as error:
            console.print(f"[red]the API does not answer: {error}[/red]")
            return False
    for pod in sorted(pods, key=lambda p: p.metadata.name):
        where = f" on {pod.spec.node_name}" if spec.nodes > 1 else ""
        console.print(f"pod         {pod.metadata.name}{where}: {'Ready' if is_ready(pod) else pod.status.phase}")
    return bool(pods) and all(map(is_ready, pods))
