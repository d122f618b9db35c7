"""Where the time of `tulle up` goes, and of what comes after it: `python -m bench.startup`. Each run starts from nothing but cached
image roots.

Three views: the stages that `tulle up` tells of, when each process started and each pod was created and Ready, and the CPU that every
process had used by then; and beside them what its imports alone cost.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import lesson, private, processes, report
from bench.mesh import BIN, STATE, Mesh, run
from tulle.cluster import lifecycle
from tulle.kube.client import Client
from tulle.kube.errors import ApiError, Unreachable
from tulle.kube.objects import Pod
from tulle.kube.resources import PODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MODULES = {
    "tulle": "tulle.cli.main",
    "supervisor": "tulle.cluster.supervisor",
    "control plane": "tulle.cluster.control_plane",
    "node": "tulle.cluster.node.app",
    "istiod": "tulle.istiod.__main__",
    "istio-cni-node": "tulle.cni.__main__",
    "ztunnel": "tulle.ztunnel.__main__",
    "waypoint": "tulle.waypoint.__main__",
}
_POLL = 0.02


def imports(rounds: int) -> Mapping[str, Mapping[str, float]]:
    """For each program: CPU of its imports in ms (the best of the rounds), and how many modules it has then."""
    found: dict[str, Mapping[str, float]] = {}
    for name, module in MODULES.items():
        script = (
            "import sys, time; begun = time.process_time(); "
            f"import {module}; print(time.process_time() - begun, len(sys.modules))"
        )
        runs = [run((sys.executable, "-c", script), os.environ).split() for _ in range(rounds)]
        found[name] = {"ms": min(float(r[0]) for r in runs) * 1e3, "modules": int(runs[0][1])}
    return found


class Timeline:
    """Points in time, in seconds since the start."""

    def __init__(self) -> None:
        self._start, self._boot = time.monotonic(), time.clock_gettime(time.CLOCK_BOOTTIME)
        self.points: dict[str, float] = {}

    def mark(self, what: str) -> None:
        self.points.setdefault(what, time.monotonic() - self._start)

    def mark_start(self, what: str, pid: int) -> None:
        """When a process started, by the kernel."""
        self.points.setdefault(what, processes.started(pid) - self._boot)


def _pod(timeline: Timeline, pod: Pod) -> None:
    name = pod.metadata.labels.get("app") or pod.metadata.labels.get("k8s-app") or pod.metadata.name
    timeline.mark(f"{name} created")
    if any(status.state.running for status in pod.status.container_statuses):
        timeline.mark(f"{name} running")
    if any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions):
        timeline.mark(f"{name} Ready")


async def _watch(timeline: Timeline, state: Path) -> None:
    while not lifecycle.kubeconfig(state).exists():  # noqa: ASYNC110 (a file of another process)
        await asyncio.sleep(_POLL)
    async with Client.from_kubeconfig(str(lifecycle.kubeconfig(state))) as client:
        while True:
            with contextlib.suppress(ApiError, Unreachable):
                listed = await client.list(PODS)
                break
            await asyncio.sleep(_POLL)
        timeline.mark("API answers")
        async for event in client.watch(PODS, resource_version=listed.resource_version):
            if isinstance(event.object, Pod):
                _pod(timeline, event.object)


async def one(mesh: Mesh) -> Mapping[str, Any]:
    """One `tulle up`: the stages as told, the timeline, and CPU by process."""
    timeline = Timeline()
    watching = asyncio.create_task(_watch(timeline, mesh.state))
    process = await asyncio.create_subprocess_exec(
        *(str(BIN / "tulle"), "up", "--no-kubeconfig"), env=dict(mesh.environment), stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    stages: dict[str, float] = {}
    async for line in process.stdout:
        text = line.decode()
        timeline.mark(text.split("(")[0].strip(" ✔\n"))
        if text.startswith("✔"):
            stages[text.split("(")[0].strip(" ✔")] = float(text.rsplit("(", 1)[1].split()[0])
    await process.wait()
    timeline.mark("tulle up ended")
    watching.cancel()
    await asyncio.wait((watching,))
    cpu: dict[str, float] = {}
    for found in mesh.processes():
        name = processes.name(found)
        timeline.mark_start(f"{name} started", found.pid)
        cpu[name] = cpu.get(name, 0.0) + processes.cpu_seconds((found.pid,))
    return {"stages": stages, "points": timeline.points, "cpu": cpu}


def measure(mesh: Mesh, times: int) -> Mapping[str, Any]:
    """Several runs, and the imports."""
    down = (str(BIN / "tulle"), "down")
    runs = []
    try:
        for _ in range(times):
            run(down, mesh.environment)
            runs.append(asyncio.run(one(mesh)))
        after = {"first_pod": asyncio.run(lesson.first_pod(mesh)), "lesson": lesson.walk(mesh)}
    finally:
        run(down, mesh.environment)
    # The first has image roots to make and files to read for the first time.
    return {"runs": runs[1:], "first": runs[0], "imports": imports(3), **after}


def once(mesh: Mesh) -> Mapping[str, Any]:
    """One run, and what of the lesson needs no network; the mesh stays up with the pods of both."""
    up = asyncio.run(one(mesh))
    after = {"first_pod": asyncio.run(lesson.first_pod(mesh)), "lesson": lesson.walk(mesh, lesson.OFFLINE)}
    return {"runs": [up], "first": up, "imports": imports(1), **after}


def total(one_run: Mapping[str, Any]) -> float:
    return float(one_run["points"]["tulle up ended"])


def _median_run(result: Mapping[str, Any]) -> Mapping[str, Any]:
    ordered = sorted(result["runs"], key=total)
    return ordered[len(ordered) // 2]  # type: ignore[no-any-return]


def _rows(result: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    for name, imported in result["imports"].items():
        used = statistics.median(r["cpu"].get(name, 0.0) for r in result["runs"]) * 1e3
        yield name, f"{imported['ms']:.0f}", imported["modules"], f"{used:.0f}" if used else "-"
    envoy = statistics.median(r["cpu"].get("ztunnel's Envoy", 0.0) for r in result["runs"]) * 1e3
    yield "ztunnel's Envoy", "-", "-", f"{envoy:.0f}"


def tables(result: Mapping[str, Any]) -> str:
    """Totals, and CPU by process."""
    seconds = [total(r) for r in result["runs"]]
    said = (
        f"`tulle up` takes {statistics.median(seconds):.1f} s (median of {len(seconds)} runs, "
        f"{min(seconds):.1f} to {max(seconds):.1f}), the first time {total(result['first']):.1f} s. {lesson.said(result)}\n"
    )
    head = ("program", "imports, CPU ms", "modules", "CPU ms until Ready")
    return said + "\n" + report.table(head, _rows(result))


def page(result: Mapping[str, Any]) -> str:
    """The tables and the timeline of the median run."""
    points = _median_run(result)["points"]
    bars = [
        ("tulle up", 0.0, points["tulle up ended"]),
        ("API", points.get("control plane started", 0.0), points["API answers"]),
        ("node", points.get("node started", 0.0), points.get("istiod running", points["tulle up ended"])),
    ]
    for name in ("istiod", "istio-cni-node", "ztunnel"):
        bars.append((f"{name}: pod", points[f"{name} created"], points[f"{name} running"]))
        bars.append((f"{name}: program", points[f"{name} started"], points[f"{name} Ready"]))

    def draw(axes: Axes) -> None:
        for row, (_, begin, end) in enumerate(bars):
            axes.barh(row, max(end - begin, 0.01), left=begin, height=0.6)
        axes.set_yticks(range(len(bars)), [bar[0] for bar in bars])
        axes.invert_yaxis()
        axes.set_xlabel("seconds since the start of the median run")

    return f"{tables(result)}\n\n{report.chart('startup', draw)}\n\n{lesson.page(result)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__)
    parser.add_argument("--times", type=int, default=5)
    chosen = parser.parse_args(arguments)
    lesson.prepare(STATE)
    private.enter()
    result = measure(Mesh(STATE), chosen.times + 1)
    print(tables(result))
    report.save("startup", result)
    report.write("startup", page(result))


if __name__ == "__main__":
    main()
