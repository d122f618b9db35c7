"""How long until a policy holds: `python -m bench.policy`. From the API call's start to the first request it decides.

A client in a captured pod asks again and again, about every millisecond; meanwhile a policy that denies it is created and deleted.
At layer 4 each request has a connection of its own; at a waypoint all are on one.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from bench import private, report, topology
from bench.mesh import Mesh, running
from bench.topology import HTTP, Route
from tulle.kube.client import Client
from tulle.kube.resources import AUTHORIZATION_POLICIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PATIENCE = 20.0
_PAUSE = 0.02


class Prober:
    """The lines of a running `bench.prober`."""

    def __init__(self, lines: asyncio.StreamReader) -> None:
        self._lines = lines

    async def until(self, state: str) -> float:
        """When the path came into that state. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE):
            while True:
                when, found = (await self._lines.readline()).decode().split()
                if found == state:
                    return float(when)


@asynccontextmanager
async def probing(path: Route, how: str) -> AsyncIterator[Prober]:
    """A prober in the path's client pod, which has found the path open."""
    command = path.client.command(sys.executable, "-m", "bench.prober", how, path.target, str(HTTP))
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, cwd=report.ROOT)
    assert process.stdout is not None
    prober = Prober(process.stdout)
    try:
        await prober.until("open")
        yield prober
    finally:
        process.kill()
        await process.wait()


def _policy(namespace: str, *, waypoint: bool) -> dict[str, Any]:
    where: dict[str, Any] = (
        {"targetRefs": [{"kind": "Service", "group": "", "name": "near"}]}
        if waypoint
        else {"selector": {"matchLabels": {"app": "near"}}}
    )
    rules = [{"from": [{"source": {"namespaces": ["inside"]}}]}]
    return {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "denied", "namespace": namespace},
        "spec": {**where, "action": "DENY", "rules": rules},
    }


async def _times(client: Client, path: Route, namespace: str, how: str, times: int) -> Mapping[str, list[float]]:
    body = _policy(namespace, waypoint=how == "kept")
    found: dict[str, list[float]] = {"created": [], "deleted": [], "answered": []}
    async with probing(path, how) as prober:
        for _ in range(times):
            began = time.monotonic()
            await client.create(AUTHORIZATION_POLICIES, body, namespace)
            found["answered"].append(time.monotonic() - began)
            found["created"].append(await prober.until("closed") - began)
            await asyncio.sleep(_PAUSE)
            began = time.monotonic()
            await client.delete(AUTHORIZATION_POLICIES, "denied", namespace)
            found["deleted"].append(await prober.until("open") - began)
            await asyncio.sleep(_PAUSE)
    return found


async def measure(mesh: Mesh, made: topology.Topology, times: int) -> Mapping[str, Any]:
    """Milliseconds, per path and direction."""
    paths = {path.name: path for path in made.paths}
    async with Client.from_kubeconfig(str(mesh.state / "kubeconfig")) as client:
        l4 = await _times(client, paths["l4"], "inside", "new", times)
        l7 = await _times(client, paths["waypoint-0"], "waypoint-0", "kept", times)
    return {
        where: {kind: [value * 1e3 for value in values] for kind, values in found.items()}
        for where, found in (("ztunnel", l4), ("waypoint", l7))
    }


def _rows(result: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    words = {"answered": "the API's answer", "created": "policy holds", "deleted": "policy is gone"}
    for where, found in result.items():
        for kind, what in words.items():
            values = found[kind]
            shares = (f"{report.percentile(values, share):.1f}" for share in (0.5, 0.9, 0.99))
            yield (f"{where}: {what}", *shares, f"{max(values):.1f}")


def table(result: Mapping[str, Any]) -> str:
    return report.table(("ms", "p50", "p90", "p99", "longest"), _rows(result))


def page(result: Mapping[str, Any]) -> str:
    """Table and histogram."""

    def draw(axes: Axes) -> None:
        for where, found in result.items():
            axes.hist(found["created"], bins=50, histtype="step", label=where)
        axes.set_xlabel("ms from the API call until the policy decides a request")
        axes.set_ylabel("of the times")
        axes.legend(frameon=False)

    return table(result) + "\n\n" + report.chart("policy", draw)


@contextmanager
def place() -> Iterator[tuple[Mesh, topology.Topology]]:
    """A mesh with a path without and one with a waypoint."""
    with (
        running("--profile", "istio") as mesh,
        topology.paths(mesh, (0,), two_nodes=False, tunnel=False) as made,
    ):
        yield mesh, made


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.policy", description=__doc__)
    parser.add_argument("--times", type=int, default=200)
    chosen = parser.parse_args(arguments)
    os.environ.setdefault("PYTHONPATH", str(report.ROOT))
    private.enter()
    with place() as (mesh, made):
        result = asyncio.run(measure(mesh, made, chosen.times))
    print(table(result))
    report.save("policy", result)
    report.write("policy", page(result))


if __name__ == "__main__":
    main()
