"""istiod with a large mesh and many proxies: `python -m bench.controlplane`. Real processes, simulated ztunnels.

How long from the start until it serves and until every client has the whole mesh; its memory; how long a change of one pod takes to
every client, and what it costs; and how many clients at once it can bear. The change is timed from the call to the API.
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


async def changes(client: Client, made: Sequence[ztunnels.Ztunnel], pid: int, times: int) -> Mapping[str, Any]:
    """Change one pod's label again and again; ms until each client heard of it, and istiod's CPU in ms per change."""
    latencies: list[float] = []
    first: list[float] = []
    loop = asyncio.get_running_loop()
    before = processes.cpu_seconds((pid,))
    for number in range(times):
        for one in made:
            one.heard = loop.create_future()
        began = time.monotonic()
        labels = {"service.istio.io/canonical-revision": f"r{number}"}
        await client.patch(PODS, "p0", {"metadata": {"labels": labels}}, "team-0")
        heard = await asyncio.wait_for(asyncio.gather(*(one.heard for one in made if one.heard)), _PATIENCE)
        latencies += [(when - began) * 1e3 for when in heard]
        first.append((min(heard) - began) * 1e3)
        await asyncio.sleep(0.02)
    return {
        "latency_ms": latencies,
        "first_ms": first,
        "cpu_ms": (processes.cpu_seconds((pid,)) - before) / times * 1e3,
    }


async def sync(number: int, istiod: Istiod, root: bytes, token: str, work: Any = None) -> Mapping[str, Any]:
    """Connect so many clients at once and wait until each has everything; then `work` with them."""
    began, cpu = time.monotonic(), processes.cpu_seconds((istiod.pid,))
    async with ztunnels.following(number, f"127.0.0.1:{istiod.xds_port}", root, token) as made:
        await asyncio.wait_for(asyncio.gather(*(one.synced.wait() for one in made)), _PATIENCE)
        result = {
            "seconds": time.monotonic() - began,
            "cpu": processes.cpu_seconds((istiod.pid,)) - cpu,
            "resources": sum(one.resources for one in made),
            "attempts": sum(one.attempts for one in made),
            "rss": _rss(istiod.pid),
        }
        return {**result, **(await work(made) if work else {})}


def _rss(pid: int) -> int:
    found = processes.memory(pid)
    return found.rss if found else 0


async def _with(api: Api, istiod: Istiod, clients: int, times: int) -> Mapping[str, Any]:
    async with Client.from_kubeconfig(api.kubeconfig) as client:
        root, token = await credentials(client)
        return await sync(
            clients, istiod, root, token, lambda made: changes(client, made, istiod.pid, times) if times else _nothing()
        )


async def _nothing() -> Mapping[str, Any]:
    return {}


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
            empty = _rss(istiod.pid)
            result = asyncio.run(_with(api, istiod, clients, times))
    return {**vars(size), "clients": clients, "built": built, "ready": ready, "rss_ready": empty, **result}


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
        _shares(found.get("first_ms")),
        _shares(found.get("latency_ms")),
        f"{found['cpu_ms']:.1f}" if "cpu_ms" in found else "-",
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
        "one change to the first client, p50 / p99 ms",
        "to every client",
        "CPU per change, ms",
    )
    return report.table(head, map(_row, results))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.controlplane", description=__doc__)
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--many", type=int, default=5_000, help="clients at once with a small mesh")
    parser.add_argument("--quick", action="store_true", help="a small mesh, and nothing is written")
    chosen = parser.parse_args(arguments)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 65536)), hard))
    if chosen.quick:
        print(table([measure(Size(60, 6, 6, 2), 10, 5)]))
        return
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
