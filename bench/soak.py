"""Whether the mesh stays as it is under load while pods come and go: `python -m bench.soak [--warm-up 15] [--minutes 15]`.

Every second one pod of the servers' Deployments is deleted, and its ReplicaSet makes another. Meanwhile a client asks over a path with
ztunnels only and over one with a waypoint, at half of the highest rates that were measured just before under the same disturbance. What
is asked: does the memory or the number of open files of any process grow, and does a request fail other than on a connection that a
deleted pod had?

Growth is looked for once everything that has a bound has reached it (2,000 Events, a history of 8 MB, the pages of heaps): the same load
and the same replacing go on for a warm-up first. From then on a process grows by "about nothing" if the straight line through its
resident memory rises by at most `soak_report.ALLOWED` of it. Half a percent of the smallest proxy is 0.4 KB for each of the 900 pods
that come and go in 15 minutes, less than any record of a pod takes: whoever kept one of each would be found.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from bench import envoy_admin, private, processes, report, soak_report
from bench.mesh import BIN, Mesh, Pod, run, running
from tulle.kube.client import Client
from tulle.kube.objects import Pod as PodObject
from tulle.kube.resources import PODS

PORT, PATH = 5000, "/hello"
PLACES: Mapping[str, str] = {"soak-l4": "ztunnel only", "soak-l7": "ztunnel and waypoint"}
"""The namespaces of the servers, and the paths to them."""
REPLICAS, LEAST = 5, 3
ENVOYS = ("ztunnel's Envoy", "waypoint's Envoy")
_SAMPLE = 5.0
_KILL_EVERY = 1.0
_FASTEST = 20.0


def _servers(namespace: str, pre_stop: int) -> str:
    lifecycle = f"lifecycle: {{preStop: {{sleep: {{seconds: {pre_stop}}}}}}}" if pre_stop else ""
    return f"""
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: {namespace}}}
spec: {{selector: {{app: web}}, ports: [{{name: http, port: {PORT}}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: {namespace}}}
spec:
  replicas: {REPLICAS}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: web
        image: docker.io/istio/examples-helloworld-v1:1.0
        readinessProbe: {{httpGet: {{path: /health, port: {PORT}}}, periodSeconds: 1}}
        {lifecycle}
"""


_CLIENT = """
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: soak-client}
spec:
  terminationGracePeriodSeconds: 0
  containers: [{name: hold, image: busybox, command: [sleep, infinity]}]
"""


@dataclass
class Soak:
    """What has been seen so far; times are seconds since the epoch."""

    deleted: dict[str, float] = field(default_factory=dict)
    skipped: int = 0
    samples: list[dict[str, Any]] = field(default_factory=list)


def place(mesh: Mesh, pre_stop: int) -> Pod:
    """Servers on both paths, and the client's pod."""
    for namespace in ("soak-client", *PLACES):
        mesh.captured_namespace(namespace)
    for manifest in (_CLIENT, *(_servers(namespace, pre_stop) for namespace in PLACES)):
        mesh.apply(manifest)
    run((str(BIN / "istioctl"), "waypoint", "apply", "-n", "soak-l7", "--enroll-namespace", "--wait"), mesh.environment)
    for namespace in ("soak-client", *PLACES):
        mesh.ready(namespace, "pod", "--all")
    return mesh.pod("soak-client", "client")


async def _load(mesh: Mesh, client: Pod, namespace: str, rate: float, seconds: float) -> dict[str, Any]:
    address = str(mesh.get("service", "-n", namespace, "web")["spec"]["clusterIP"])
    options = (address, str(PORT), PATH, "--rate", str(rate), "--seconds", str(seconds))
    command = client.command(sys.executable, "-m", "bench.steady", *options)
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, cwd=report.ROOT, limit=1 << 24)
    out, _ = await process.communicate()
    *failures, totals = map(json.loads, out.splitlines())
    return {**totals, "failures": failures}


async def load(mesh: Mesh, client: Pod, rates: Mapping[str, float], seconds: float) -> dict[str, dict[str, Any]]:
    """Every path at the same time."""
    found = await asyncio.gather(*(_load(mesh, client, name, rate, seconds) for name, rate in rates.items()))
    return dict(zip(rates, found, strict=True))


def _is_ready(pod: PodObject) -> bool:
    conditions = pod.status.conditions
    return not pod.metadata.deletion_timestamp and any(c.type == "Ready" and c.status == "True" for c in conditions)


async def _replace(client: Client, seen: Soak) -> None:
    """Delete the oldest Ready pod of one path, then of the other, as long as enough are left."""
    number = 0
    names = tuple(PLACES)
    while True:
        await asyncio.sleep(_KILL_EVERY)
        namespace = names[number % len(names)]
        number += 1
        listed = await client.list(PODS, namespace, label_selector="app=web")
        ready = [pod for pod in listed.items if isinstance(pod, PodObject) and _is_ready(pod)]
        if len(ready) <= LEAST:
            seen.skipped += 1
            continue
        oldest = min(ready, key=lambda pod: pod.metadata.creation_timestamp or "")
        seen.deleted[oldest.metadata.name] = time.time()
        await client.delete(PODS, oldest.metadata.name, namespace)


def _given_out(envoy: processes.Process) -> int:
    """Bytes that its allocator has given out: what it keeps, whichever pages of its heap that touches."""
    return int(envoy_admin.ask(envoy, "/memory")["allocated"])


async def _sample(mesh: Mesh, seen: Soak) -> None:
    """Memory and open files of every process of the mesh, over and over."""
    while True:
        found = {}
        for process in mesh.processes():
            memory = processes.memory(process.pid)
            if memory is not None:
                name = f"{processes.name(process)} {process.pid}"
                found[name] = {"rss": memory.rss, "uss": memory.uss, "files": processes.open_files(process.pid)}
                if processes.name(process) in ENVOYS:
                    found[name]["given_out"] = await asyncio.to_thread(_given_out, process)
        seen.samples.append({"at": time.time(), "processes": found})
        await asyncio.sleep(_SAMPLE)


@asynccontextmanager
async def _disturbed(mesh: Mesh, seen: Soak) -> AsyncIterator[None]:
    """Pods are replaced and processes are looked at meanwhile."""
    async with Client.from_kubeconfig(str(mesh.state / "kubeconfig")) as client:
        tasks = [asyncio.create_task(_replace(client, seen)), asyncio.create_task(_sample(mesh, seen))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception):
                    raise result


async def measure(mesh: Mesh, warm_up: float, seconds: float, pre_stop: int) -> dict[str, Any]:
    """The highest rates while pods are replaced, then the soak at half of them; growth counts after `warm_up` seconds of it."""
    client = place(mesh, pre_stop)
    await load(mesh, client, dict.fromkeys(PLACES, 50.0), 2.0)
    async with _disturbed(mesh, Soak()):
        fastest = await load(mesh, client, dict.fromkeys(PLACES, 0.0), _FASTEST)
    most = {name: found["done"] / found["seconds"] for name, found in fastest.items()}
    print(", ".join(f"{PLACES[name]}: at most {rate:.0f}/s" for name, rate in most.items()), file=sys.stderr)
    seen = Soak()
    async with _disturbed(mesh, seen):
        found = await load(mesh, client, {name: rate / 2 for name, rate in most.items()}, warm_up + seconds)
    return {
        "seconds": seconds,
        "warm_up": warm_up,
        "most": most,
        "paths": found,
        "deleted": seen.deleted,
        "skipped": seen.skipped,
        "samples": seen.samples,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=__doc__)
    parser.add_argument("--warm-up", type=float, default=15.0, help="minutes until growth counts")
    parser.add_argument("--minutes", type=float, default=15.0, help="minutes in which it does")
    about = "seconds that a pod serves on after its deletion, while everybody hears of it; 0: its server ends at once"
    parser.add_argument("--pre-stop", type=int, default=2, help=about)
    parser.add_argument("--keep", action="store_true", help="write the results also of a shorter soak than that")
    chosen = parser.parse_args(arguments)
    os.environ.setdefault("PYTHONPATH", str(report.ROOT))
    private.enter()
    with running("--profile", "istio") as mesh:
        result = asyncio.run(measure(mesh, chosen.warm_up * 60, chosen.minutes * 60, chosen.pre_stop))
    summary = soak_report.summary(result, PLACES)
    print(soak_report.tables(summary))
    if (chosen.warm_up >= 15 and chosen.minutes >= 15) or chosen.keep:
        report.save("soak", summary)
        report.write("soak", soak_report.page(summary))


if __name__ == "__main__":
    main()
