"""How costs grow: `python -m bench.curves`. With the pods of one node (1, 10, 50, as many as fit), and with policies (0 to 5,000).

For each size: what Envoy is configured with, the memory of each program, and what one change costs then: one more pod until it is
reached through the mesh, one policy until it is enforced, one pod's changed label until a policy that selects it is enforced. A
change's price is given as time, as CPU of each program, and as the part of Envoy's configuration that it renewed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from bench import envoy_config, policy, private, processes, report
from bench.curves_report import PROGRAMS, page, tables
from bench.mesh import Mesh, MeshError, Pod, running
from bench.topology import HTTP, Route
from tulle.kube.client import Client
from tulle.kube.objects import Pod as PodObject
from tulle.kube.resources import AUTHORIZATION_POLICIES, PODS

PODS_PER_NODE = (1, 10, 50, 110)
POLICIES = (0, 10, 100, 1000, 5000)
ON_ONE_POD = 1000
"""As many policies of one pod are tried at most."""
NAMESPACE = "curves"
_AT_ONCE = 16
_PATIENCE = 600.0
_SETTLE = 3.0
_NOBODY = [{"from": [{"source": {"principals": ["cluster.local/ns/nowhere/sa/nobody"]}}]}]
_EVERYBODY: list[dict[str, Any]] = [{"from": [{"source": {"namespaces": [NAMESPACE]}}]}]
_SERVE = f"mkdir -p /tmp/www; echo ok > /tmp/www/ok; exec httpd -f -p {HTTP} -h /tmp/www"


def pod(name: str, command: Sequence[str]) -> dict[str, Any]:
    """A small pod on the first node, with itself as its app."""
    return {
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": {"app": name}},
        "spec": {
            "nodeName": "node1",
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "app", "image": "busybox", "command": list(command)}],
        },
    }


def denial(name: str, app: Mapping[str, str], rules: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    spec = {"selector": {"matchLabels": dict(app)}, "action": "DENY", "rules": list(rules)}
    return {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


class Place:
    """A mesh with a client and a server, and whatever is added to them."""

    def __init__(self, mesh: Mesh, client: Client, settle: float) -> None:
        self.mesh, self.client, self.settle = mesh, client, settle
        self.policies = 0
        self._fillers = 0

    async def start(self) -> None:
        self.mesh.captured_namespace(NAMESPACE)
        await self.client.create(PODS, pod("client", ("sleep", "infinity")), NAMESPACE)
        await self.client.create(PODS, pod("server", ("sh", "-c", _SERVE)), NAMESPACE)
        await self._ready()
        by_label = denial("by-label", {"blocked": "yes"}, _EVERYBODY)
        await self.client.create(AUTHORIZATION_POLICIES, by_label, NAMESPACE)

    async def _ready(self) -> None:
        async with asyncio.timeout(_PATIENCE):
            while not all(map(_is_ready, (await self.client.list(PODS, NAMESPACE)).items)):  # noqa: ASYNC110
                await asyncio.sleep(0.2)

    async def grow(self, pods: int) -> int:
        """Have so many pods on the node, or as many as fit beside those of the mesh and one more; how many there are."""
        listed = [found for found in (await self.client.list(PODS)).items if isinstance(found, PodObject)]
        most = int(self.mesh.get("node", "node1")["status"]["allocatable"]["pods"])
        more = min(pods, most - 1) - sum(found.spec.node_name == "node1" for found in listed)
        added = range(self._fillers, self._fillers + max(0, more))
        self._fillers = added.stop
        bodies = [pod(f"filler-{number}", ("sleep", "infinity")) for number in added]
        await _each(bodies, lambda body: self.client.create(PODS, body, NAMESPACE))
        await self._ready()
        return len(listed) + len(bodies)

    async def one_more(self) -> str:
        """A server beside the others, as soon as it has an address."""
        made = await self.client.create(PODS, pod("more", ("sh", "-c", _SERVE)), NAMESPACE)
        version = made.metadata.resource_version
        async for event in self.client.watch(PODS, NAMESPACE, resource_version=version):
            found = event.object
            if isinstance(found, PodObject) and found.metadata.name == "more" and found.status.pod_ip:
                return found.status.pod_ip
        raise MeshError("the API server ended the watch before pod curves/more had an address")

    async def one_less(self) -> None:
        await self.client.delete(PODS, "more", NAMESPACE)
        while any(p.metadata.name == "more" for p in (await self.client.list(PODS, NAMESPACE)).items):  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def add_policies(self, total: int, app: Mapping[str, str] | None) -> None:
        """Have so many policies, all for one app or each for an app of its own that nobody is."""
        added = range(self.policies, total)
        self.policies = max(total, self.policies)
        bodies = [denial(f"p{number}", app or {"app": f"nobody-{number}"}, _NOBODY) for number in added]
        await _each(bodies, lambda body: self.client.create(AUTHORIZATION_POLICIES, body, NAMESPACE))

    async def remove_policies(self) -> None:
        names = [f"p{number}" for number in range(self.policies)]
        self.policies = 0
        await _each(names, lambda name: self.client.delete(AUTHORIZATION_POLICIES, name, NAMESPACE))


def _is_ready(found: object) -> bool:
    conditions = found.status.conditions if isinstance(found, PodObject) else ()
    return any(c.type == "Ready" and c.status == "True" for c in conditions)


async def _each(what: Sequence[Any], do: Callable[[Any], Awaitable[Any]]) -> None:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(item: Any) -> None:
        async with gate:
            await do(item)

    await asyncio.gather(*map(one, what))


class Meter:
    """CPU of each program since it was made, in ms for each of a number of changes."""

    def __init__(self, mesh: Mesh) -> None:
        self._pids: dict[str, list[int]] = {name: [] for name in PROGRAMS}
        for process in mesh.processes():
            name = processes.name(process)
            if name in self._pids:
                self._pids[name].append(process.pid)
        self._before = self._read()

    def _read(self) -> dict[str, float]:
        return {name: processes.cpu_seconds(pids) for name, pids in self._pids.items()}

    def each(self, changes: int) -> dict[str, float]:
        now = self._read()
        return {name: (now[name] - self._before[name]) * 1e3 / changes for name in now}

    def memory(self) -> dict[str, dict[str, int]]:
        found = {name: [processes.memory(pid) for pid in pids] for name, pids in self._pids.items()}
        return {
            name: {"rss": sum(m.rss for m in each if m), "pss": sum(m.pss for m in each if m)}
            for name, each in found.items()
        }


Change = Callable[[], Awaitable[Any]]


async def _timed(prober: policy.Prober, there: Change, back: Change, times: int) -> list[float]:
    """Milliseconds until the path was closed by `there`; `back` opens it again."""
    found = []
    for _ in range(times):
        begun = time.monotonic()
        await there()
        found.append((await prober.until("closed") - begun) * 1e3)
        await back()
        await prober.until("open")
        await asyncio.sleep(0.05)
    return found


async def _change(place: Place, prober: policy.Prober, there: Change, back: Change, times: int) -> dict[str, Any]:
    """What one change costs; the first one shows what of Envoy's configuration it renews."""
    before = time.time()
    await _timed(prober, there, back, 1)
    renewed = envoy_config.renewed(envoy_config.read(place.mesh), before)
    meter = Meter(place.mesh)
    found = await _timed(prober, there, back, times)
    # There and back are two changes.
    return {"ms": found, "cpu_ms": meter.each(2 * times), "renewed": renewed}


async def _pods(place: Place, times: int) -> dict[str, Any]:
    """One more pod: from its creation until it has an address, and until it is reached."""
    addressed, reached = [], []
    async with _first(place.mesh.pod(NAMESPACE, "client")) as (addresses, prober):

        async def one() -> None:
            begun = time.monotonic()
            address = await place.one_more()
            addressed.append((time.monotonic() - begun) * 1e3)
            addresses.write(f"{address}\n".encode())
            reached.append((await prober.until("open") - begun) * 1e3)

        before = time.time()
        await one()
        renewed = envoy_config.renewed(envoy_config.read(place.mesh), before)
        await place.one_less()
        addressed.clear()
        reached.clear()
        meter = Meter(place.mesh)
        for _ in range(times):
            await one()
            await place.one_less()
    return {"ms": reached, "addressed_ms": addressed, "cpu_ms": meter.each(times), "renewed": renewed}


@asynccontextmanager
async def _first(client: Pod) -> AsyncIterator[tuple[asyncio.StreamWriter, policy.Prober]]:
    command = client.command(sys.executable, "-m", "bench.prober", "first", "-", str(HTTP))
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, cwd=report.ROOT)
    assert process.stdin is not None and process.stdout is not None  # noqa: PT018 (both are pipes)
    try:
        yield process.stdin, policy.Prober(process.stdout)
    finally:
        process.kill()
        await process.wait()


async def size(place: Place, times: int, *, pods: bool = True) -> dict[str, Any]:
    """Everything that is measured at one size; `pods`: one more pod too."""
    await asyncio.sleep(place.settle)
    found: dict[str, Any] = {"memory": Meter(place.mesh).memory()}
    found["config"] = envoy_config.sizes(envoy_config.read(place.mesh))
    server = place.mesh.pod(NAMESPACE, "server")
    route = Route("server", "", place.mesh.pod(NAMESPACE, "client"), server.address)
    api = place.client
    blocked, free = ({"metadata": {"labels": {"blocked": value}}} for value in ("yes", None))
    body = denial("denied", {"app": "server"}, _EVERYBODY)
    async with policy.probing(route, "new") as prober:
        found["policy"] = await _change(
            place,
            prober,
            lambda: api.create(AUTHORIZATION_POLICIES, body, NAMESPACE),
            lambda: api.delete(AUTHORIZATION_POLICIES, "denied", NAMESPACE),
            times,
        )
        found["label"] = await _change(
            place,
            prober,
            lambda: api.patch(PODS, "server", blocked, NAMESPACE),
            lambda: api.patch(PODS, "server", free, NAMESPACE),
            times,
        )
    if pods:
        found["pod"] = await _pods(place, max(1, times // 4))
    found["load"] = os.getloadavg()[0]
    return found


@asynccontextmanager
async def _place(mesh: Mesh, settle: float) -> AsyncIterator[Place]:
    async with Client.from_kubeconfig(str(mesh.state / "kubeconfig")) as client:
        place = Place(mesh, client, settle)
        await place.start()
        yield place


async def pods_curve(place: Place, pods: Sequence[int], times: int) -> dict[str, Any]:
    """By the node's pods."""
    nodes = []
    for number in pods:
        have = await place.grow(number)
        nodes.append({"number": have, **await size(place, times)})
        print(f"{have} pods on the node", file=sys.stderr)
    return {"pods": nodes}


async def policies_curve(place: Place, policies: Sequence[int], times: int) -> dict[str, Any]:
    """By policies, with two pods: once for apps of their own, once all for one pod."""
    spread, stacked = [], []
    for number in (number for number in policies if 0 < number <= ON_ONE_POD):
        await place.add_policies(number, {"app": "server"})
        stacked.append({"number": number, **await size(place, max(2, times // 4), pods=False)})
        print(f"{number} policies for one pod", file=sys.stderr)
    await place.remove_policies()
    for number in policies:
        await place.add_policies(number, None)
        spread.append({"number": number, **await size(place, times)})
        print(f"{number} policies for other apps", file=sys.stderr)
    return {"spread": spread, "stacked": stacked}


async def _alone(mesh: Mesh, curve: Callable[[Place], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    async with _place(mesh, _SETTLE) as place:
        return await curve(place)


async def both(mesh: Mesh, pods: Sequence[int], policies: Sequence[int], times: int, settle: float) -> dict[str, Any]:
    """Both curves in one place, the second with the pods of the first."""
    async with _place(mesh, settle) as place:
        return {**await pods_curve(place, pods, times), **await policies_curve(place, policies, times)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.curves", description=__doc__)
    parser.add_argument(
        "--pods", type=int, nargs="*", default=PODS_PER_NODE, help="of the node, with those of the mesh"
    )
    parser.add_argument("--policies", type=int, nargs="*", default=POLICIES)
    parser.add_argument("--times", type=int, default=10, help="that each change is made")
    parser.add_argument("--only", choices=("pods", "policies"), help="one curve; the other stays as it was")
    chosen = parser.parse_args(arguments)
    os.environ.setdefault("PYTHONPATH", str(report.ROOT))
    pods, policies = tuple(chosen.pods), tuple(chosen.policies)
    private.enter()
    result = dict((chosen.only and report.load("curves")) or {})
    result.pop("machine", None)
    if chosen.only != "policies":
        with running("--profile", "istio") as mesh:
            result |= asyncio.run(_alone(mesh, lambda place: pods_curve(place, pods, chosen.times)))
    if chosen.only != "pods":
        with running("--profile", "istio") as mesh:
            result |= asyncio.run(_alone(mesh, lambda place: policies_curve(place, policies, chosen.times)))
    print(tables(result))
    if (pods, policies) == (PODS_PER_NODE, POLICIES):
        report.save("curves", result)
        report.write("curves", page(result))


if __name__ == "__main__":
    main()
