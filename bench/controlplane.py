"""istiod with a large mesh and many proxies: `python -m bench.controlplane`. Real processes, simulated ztunnels.

How long from the start until it serves and until every client has the whole mesh; its memory; how long a change of one pod takes to
the last client, and what it costs; and how many clients at once it can bear. The change is timed from the call to the API until a client
of a process of its own has it. Clients share the machine with istiod here, so the CPU time of each is given too.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import time
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench import processes, report, server, ztunnels
from bench.server import Api, Istiod
from tulle.kube.client import Client
from tulle.kube.resources import (
    AUTHORIZATION_POLICIES,
    CONFIG_MAPS,
    ENDPOINT_SLICES,
    NAMESPACES,
    PODS,
    SERVICE_ACCOUNTS,
    SERVICES,
)

_AT_ONCE = 64
_PATIENCE = 300.0
_BETWEEN = 0.05
_CROWD_NICENESS, _PROBE_NICENESS = 10, -10
"""The simulated clients have a machine of their own in reality: they do not take the cores from istiod, nor the probe's from it."""


@dataclass(frozen=True)
class Size:
    """How large the mesh is; pods are spread evenly over Services, and Services over namespaces."""

    pods: int
    services: int
    policies: int
    namespaces: int = 20

    def namespace(self, service: int) -> str:
        return f"team-{service % self.namespaces}"


async def build(client: Client, size: Size) -> None:
    """Make the mesh's objects, as kubelets and controllers would leave them."""
    for number in range(size.namespaces):
        labels = {"istio.io/dataplane-mode": "ambient"}
        await client.create(NAMESPACES, {"metadata": {"name": f"team-{number}", "labels": labels}})
        await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "default", "namespace": f"team-{number}"}})
    await client.create(NAMESPACES, {"metadata": {"name": "istio-system"}})
    await client.create(SERVICE_ACCOUNTS, {"metadata": {"name": "ztunnel", "namespace": "istio-system"}})
    await _all(_service(client, size, number) for number in range(size.services))
    await _all(_policy(client, size, number) for number in range(size.policies))


async def _all(work: Iterable[Awaitable[None]]) -> None:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(job: Awaitable[None]) -> None:
        async with gate:
            await job

    await asyncio.gather(*map(one, work))


def address(number: int) -> str:
    return f"10.{128 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


async def _service(client: Client, size: Size, number: int) -> None:
    namespace, name = size.namespace(number), f"s{number}"
    spec = {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}
    await client.create(SERVICES, {"metadata": {"name": name, "namespace": namespace}, "spec": spec})
    pods = range(number, size.pods, size.services)
    for pod in pods:
        await _pod(client, namespace, name, pod)
    body = {
        "metadata": {"name": name, "namespace": namespace, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [address(pod)],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": f"node-{pod % 100}",
                "targetRef": {"kind": "Pod", "name": f"p{pod}", "namespace": namespace},
            }
            for pod in pods
        ],
    }
    await client.create(ENDPOINT_SLICES, body)


async def _pod(client: Client, namespace: str, app: str, number: int) -> None:
    metadata = {
        "name": f"p{number}",
        "namespace": namespace,
        "labels": {"app": app, "version": "v1"},
        "annotations": {"ambient.istio.io/redirection": "enabled"},
    }
    spec = {
        "nodeName": f"node-{number % 100}",
        "serviceAccountName": "default",
        "containers": [{"name": "c", "image": "image"}],
    }
    await client.create(PODS, {"metadata": metadata, "spec": spec})
    ip = address(number)
    conditions = [{"type": "Ready", "status": "True"}]
    status = {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions}
    await client.patch(PODS, f"p{number}", {"status": status}, namespace, subresource="status")


async def _policy(client: Client, size: Size, number: int) -> None:
    service = number % size.services
    spec = {
        "selector": {"matchLabels": {"app": f"s{service}"}},
        "rules": [{"from": [{"source": {"principals": [f"cluster.local/ns/team-{number % 20}/sa/default"]}}]}],
    }
    body = {"metadata": {"name": f"a{number}", "namespace": size.namespace(service)}, "spec": spec}
    await client.create(AUTHORIZATION_POLICIES, body)


async def credentials(client: Client) -> tuple[bytes, str]:
    """The root that istiod has published, and a token of ztunnel's account."""
    body = {"spec": {"audiences": ["istio-ca"], "expirationSeconds": 7200}}
    token = (await client.post(SERVICE_ACCOUNTS, "ztunnel", "token", body, "istio-system"))["status"]["token"]
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        found = {c.metadata.name: c for c in (await client.list(CONFIG_MAPS, "istio-system")).items}
        if "istio-ca-root-cert" in found:
            return found["istio-ca-root-cert"].data["root-cert.pem"].encode(), str(token)
        await asyncio.sleep(0.1)
    raise TimeoutError("istiod does not publish its root")


async def changes(client: Client, probe: ztunnels.Crowd, pids: Sequence[int], times: int) -> Mapping[str, Any]:
    """Change one pod's label again and again; ms until the probe was told, and CPU in ms per change of istiod and of the crowd."""
    latencies: list[float] = []
    before = [processes.cpu_seconds((pid,)) for pid in pids]
    for number in range(times):
        began = time.monotonic()
        labels = {"service.istio.io/canonical-revision": f"r{number}"}
        await client.patch(PODS, "p0", {"metadata": {"labels": labels}}, "team-0")
        latencies.append((await probe.told() - began) * 1e3)
        await asyncio.sleep(_BETWEEN)
    spent = [(processes.cpu_seconds((pid,)) - start) / times * 1e3 for pid, start in zip(pids, before, strict=True)]
    return {"latency_ms": latencies, "cpu_ms": spent[0], "clients_cpu_ms": spent[1]}


async def sync(client: Client, number: int, times: int, istiod: Istiod) -> Mapping[str, Any]:
    """Connect so many clients at once and wait until each has everything; then a probe, and changes that it hears of.

    The probe comes last, so that of all clients it is the last to be told.
    """
    root, token = await credentials(client)
    address = f"127.0.0.1:{istiod.xds_port}"
    began, cpu = time.monotonic(), processes.cpu_seconds((istiod.pid,))
    async with ztunnels.following(number, address, root, token, _CROWD_NICENESS) as crowd:
        said = await crowd.synced()
        result = {
            "seconds": said["when"] - began,
            "cpu": processes.cpu_seconds((istiod.pid,)) - cpu,
            "clients_cpu": said["cpu"],
            "resources": said["resources"],
            "attempts": said["attempts"],
            "rss": _rss(istiod.pid),
        }
        if not times:
            return result
        async with ztunnels.following(1, address, root, token, _PROBE_NICENESS) as probe:
            await probe.synced()
            return {**result, **await changes(client, probe, (istiod.pid, crowd.process.pid), times)}


def _rss(pid: int) -> int:
    found = processes.memory(pid)
    return found.rss if found else 0


async def _with(api: Api, istiod: Istiod, clients: int, times: int) -> Mapping[str, Any]:
    async with Client.from_kubeconfig(api.kubeconfig) as client:
        return await sync(client, clients, times, istiod)


async def _build(api: Api, size: Size) -> None:
    async with Client.from_kubeconfig(api.kubeconfig) as client:
        await build(client, size)


def measure(size: Size, clients: int, times: int) -> Mapping[str, Any]:
    """One mesh, freshly made, with an istiod that is started when it is complete."""
    with server.api_server(crds=True) as api:
        began = time.monotonic()
        asyncio.run(_build(api, size))
        built = time.monotonic() - began
        print(f"{size.pods} pods are there after {built:.0f} s", file=sys.stderr)
        began = time.monotonic()
        with server.istiod(api) as istiod:
            ready = time.monotonic() - began
            empty, cpu = _rss(istiod.pid), processes.cpu_seconds((istiod.pid,))
            result = asyncio.run(_with(api, istiod, clients, times))
    took = {"built": built, "ready": ready, "rss_ready": empty, "cpu_ready": cpu}
    return {**vars(size), "clients": clients, **took, **result}


def _row(found: Mapping[str, Any]) -> tuple[object, ...]:
    mesh = f"{found['pods']:,} pods, {found['services']} services, {found['policies']} policies"
    return (
        mesh,
        f"{found['clients']:,}",
        f"{found['attempts']:,}",
        f"{found['ready']:.1f}",
        f"{found['ready'] + found['seconds']:.1f}",
        report.megabytes(found["rss_ready"]),
        report.megabytes(found["rss"]),
        f"{found['cpu_ready']:.1f}",
        f"{found['cpu']:.1f} / {found['clients_cpu']:.1f}",
        _shares(found.get("latency_ms")),
        f"{found['cpu_ms']:.1f} / {found['clients_cpu_ms']:.1f}" if "cpu_ms" in found else "-",
    )


def _shares(values: Sequence[float] | None) -> str:
    return f"{report.percentile(values, 0.5):.0f} / {report.percentile(values, 0.99):.0f}" if values else "-"


def table(results: Iterable[Mapping[str, Any]]) -> str:
    head = (
        "mesh",
        "clients",
        "connection attempts",
        "start to ready, s",
        "start to all synced, s",
        "RSS ready, MB",
        "RSS synced, MB",
        "istiod's CPU to ready, s",
        "CPU until synced, istiod / clients, s",
        "one change to the last client, p50 / p99 ms",
        "CPU per change, istiod / clients, ms",
    )
    return report.table(head, map(_row, results))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.controlplane", description=__doc__)
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--many", type=int, default=5_000, help="clients at once with a small mesh")
    chosen = parser.parse_args(arguments)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
    large = Size(chosen.pods, 500, 500)
    results = [
        measure(large, chosen.clients, 100),
        measure(Size(1000, 50, 50), chosen.clients, 100),
        measure(Size(200, 20, 20), chosen.many, 0),
    ]
    print(table(results))
    report.save("controlplane", {"results": results})
    report.write("controlplane", table(results))


if __name__ == "__main__":
    main()
