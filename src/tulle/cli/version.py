"""`istioctl version`: this client, and what the cluster's control plane and proxies run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import yaml

import tulle
from tulle.cli import console
from tulle.kube.client import Client
from tulle.kube.objects import Pod
from tulle.kube.resources import PODS

_CONTROL_PLANE = "app=istiod"
_PROXIES = ("app=ztunnel", "gateway.istio.io/managed=istio.io-mesh-controller")


@dataclass(frozen=True)
class Running:
    """A pod of the mesh and the version of its image."""

    name: str
    namespace: str
    version: str


def show(
    *, remote: bool, short: bool, output: str, namespace: str, kubeconfig: str | None, context: str | None
) -> None:
    """Print versions; the control plane's absence is said, not an error."""
    if output not in ("", "json", "yaml"):
        console.fail(f"--output {output!r} is not known; accepted are json and yaml")
    control: tuple[Running, ...] = ()
    proxies: tuple[Running, ...] = ()
    if remote:
        control, proxies = console.run(_remote(console.client(kubeconfig, context), namespace))
    if output:
        _structured(output, control, proxies)
        return
    console.say(f"client version: {tulle.__version__}")
    if not remote:
        return
    if not control:
        console.say(f'no running Istio pods in namespace "{namespace}"')
        return
    if not short:
        for pod in (*control, *proxies):
            console.say(f"{pod.namespace}/{pod.name}: {pod.version}")
        return
    console.say(f"control plane version: {', '.join(sorted({pod.version for pod in control}))}")
    counts = Counter(pod.version for pod in proxies)
    told = [f"{v} ({n} {'proxy' if n == 1 else 'proxies'})" for v, n in sorted(counts.items())]
    console.say(f"data plane version: {', '.join(told) or 'none'}")


async def _remote(client: Client, namespace: str) -> tuple[tuple[Running, ...], tuple[Running, ...]]:
    async with client:
        control = _running((await client.list(PODS, namespace, label_selector=_CONTROL_PLANE)).items)
        proxies: list[Running] = []
        for selector in _PROXIES:
            proxies += _running((await client.list(PODS, label_selector=selector)).items)
    return control, tuple(proxies)


def _running(pods: Iterable[Pod]) -> tuple[Running, ...]:
    return tuple(
        Running(pod.metadata.name, pod.metadata.namespace, _tag(pod.spec.containers[0].image))
        for pod in pods
        if pod.status.phase == "Running"
    )


def _tag(image: str) -> str:
    last = image.rsplit("/", 1)[-1].split("@", 1)[0]
    return last.partition(":")[2] or "latest"


def _structured(output: str, control: tuple[Running, ...], proxies: tuple[Running, ...]) -> None:
    document = {
        "clientVersion": {"version": tulle.__version__},
        "meshVersion": [{"Component": pod.name, "Info": {"version": pod.version}} for pod in control],
        "dataPlaneVersion": [{"ID": f"{pod.name}.{pod.namespace}", "IstioVersion": pod.version} for pod in proxies],
    }
    text = json.dumps(document, indent=2) if output == "json" else yaml.safe_dump(document, sort_keys=False).rstrip()
    console.say(text)
