"""Where the time goes after `tulle up`: until the first pod is Ready, and step by step through the lesson. Part of `startup`."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import report
from bench.mesh import Mesh, MeshError
from tulle.cli import lab
from tulle.cli.lesson import PARTS, Part
from tulle.cluster.node.images.names import parse
from tulle.cluster.node.images.store import ImageStore
from tulle.kube.client import Client
from tulle.kube.objects import Pod
from tulle.kube.resources import PODS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PROFILE = "lesson"
_STAGES = (
    ("created", "kubectl, until the pod is created"),
    ("scheduled", "scheduling"),
    ("addressed", "network, capture, sandbox"),
    ("running", "image and process"),
    ("Ready", "until it is Ready"),
)
_LONGEST = 48
OFFLINE = tuple(part for part in PARTS if not any("apt-get" in step.command for step in part.steps))
"""The parts of the lesson in which no pod fetches anything."""


def prepare(state: Path) -> None:
    """Make the image of the lesson that may need packages, while the machine's network is still this process's."""
    ImageStore(state / "images").pull(parse("nginx"))


def _reached(pod: Pod) -> set[str]:
    conditions = {c.type for c in pod.status.conditions if c.status == "True"}
    states = {
        "created": True,
        "scheduled": bool(pod.spec.node_name),
        "addressed": bool(pod.status.pod_ip),
        "running": any(status.state.running for status in pod.status.container_statuses),
        "Ready": "Ready" in conditions,
    }
    return {name for name, reached in states.items() if reached}


async def first_pod(mesh: Mesh) -> dict[str, float]:
    """Seconds since `kubectl run` began, for a captured pod, the first on the mesh."""
    mesh.captured_namespace("first")
    command = ["kubectl", "run", "first", "-n", "first", "--image=busybox", "--command", "--", "sleep", "infinity"]
    points: dict[str, float] = {}
    async with Client.from_kubeconfig(str(mesh.state / "kubeconfig")) as client:
        listed = await client.list(PODS, "first")
        begun = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *command, env=dict(mesh.environment), stdout=asyncio.subprocess.DEVNULL
        )
        async for event in client.watch(PODS, "first", resource_version=listed.resource_version):
            if isinstance(event.object, Pod):
                for name in _reached(event.object):
                    points.setdefault(name, time.monotonic() - begun)
            if "Ready" in points:
                break
        await process.wait()
    return points


def walk(mesh: Mesh, parts: Sequence[Part] = PARTS) -> list[dict[str, Any]]:
    """Every command of these parts, and how long it took until its outcome was there. Raises MeshError."""
    environment = lab.environment(mesh.state / "kubeconfig")
    found = []
    with tempfile.TemporaryDirectory(prefix="tulle-lesson-") as folder:
        lab.write_manifests(Path(folder))
        steps = [step for part in parts for step in part.steps if _PROFILE in step.outcome]
        for step in steps:
            begun = time.monotonic()
            wanted = step.outcome[_PROFILE]
            result = lab.attempt(step, wanted, lambda command: lab.run(command, Path(folder), environment))
            if not result.meets(wanted):
                raise MeshError(f"`{step.command}` came out otherwise than the lesson says: {result.output.strip()}")
            found.append({"command": step.command, "seconds": time.monotonic() - begun})
    return found


def _bars(axes: Axes, bars: Sequence[tuple[str, float, float]], label: str) -> None:
    for row, (_, begin, end) in enumerate(bars):
        axes.barh(row, max(end - begin, 0.005), left=begin, height=0.6)
    axes.set_yticks(range(len(bars)), [bar[0].replace("$", r"\$") for bar in bars])
    axes.invert_yaxis()
    axes.set_xlabel(label)


def said(result: Mapping[str, Any]) -> str:
    """Both totals in a sentence."""
    lesson = sum(step["seconds"] for step in result["lesson"])
    return (
        f"The first pod is Ready {result['first_pod']['Ready']:.1f} s after `kubectl run` began; the lesson's "
        f"{len(result['lesson'])} commands take {lesson:.1f} s."
    )


def page(result: Mapping[str, Any]) -> str:
    """The charts."""
    points = result["first_pod"]
    ends = [points[name] for name, _ in _STAGES]
    pod = [(text, begin, end) for (_, text), begin, end in zip(_STAGES, [0.0, *ends], ends, strict=False)]
    steps, now = [], 0.0
    for step in result["lesson"]:
        command = step["command"].splitlines()[0]
        short = command if len(command) <= _LONGEST else command[: _LONGEST - 1] + "…"
        steps.append((short, now, now + step["seconds"]))
        now += step["seconds"]
    first = report.chart("first-pod", lambda axes: _bars(axes, pod, "seconds since kubectl run began"), (8.0, 2.0))
    size = (8.0, 0.6 + 0.17 * len(steps))
    walked = report.chart("lesson", lambda axes: _bars(axes, steps, "seconds since the first command"), size)
    return f"{first}\n\n{walked}"
