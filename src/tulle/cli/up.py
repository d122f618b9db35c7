"""`tulle up`, `down` and `status`: the embedded cluster and the mesh on it."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

from rich.console import Console

from tulle import manifests
from tulle.cli import applying
from tulle.cli import kubeconfig as users
from tulle.cluster import lifecycle, supervisor
from tulle.cluster.lifecycle import ClusterError, ClusterSpec
from tulle.kube import resources as r
from tulle.kube.client import Client
from tulle.kube.errors import ApiError, NotFound, Unreachable
from tulle.kube.objects import Pod

_MERGED = "merged.json"
_POLL = 0.05


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


def up(spec: ClusterSpec, *, merge: bool, dns_capture: bool, wait_seconds: float, console: Console) -> None:
    """Bring everything up and wait until the mesh is ready. Raises ClusterError, KubeconfigError, ApiError, NotReadyError."""
    values = manifests.Values(profile=spec.profile, dns_capture=dns_capture)
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
        documents = (*manifests.crds(), *manifests.cluster(), *manifests.mesh(values))
        await applying.apply_all(client, documents, deadline)
        progress.done("custom resources and the mesh's manifests applied")
        look = f"KUBECONFIG={lifecycle.kubeconfig(Path(spec.state))} kubectl get pods -A; logs in {spec.state}/logs"
        await applying.until_ready(client, documents, deadline, look, spec.nodes)
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


def is_ready(pod: Pod) -> bool:
    """Whether the pod's condition Ready is True."""
    return any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)


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
