"""The embedded API server: `python -m bench.api`. Writes, lists, and how soon a watcher hears of a change.

What is acknowledged is on disk, so a write costs the disk's time as well; several at once share it.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from bench import processes, report, server
from bench.server import Api
from tulle.kube.client import Client
from tulle.kube.objects import ConfigMap
from tulle.kube.resources import CONFIG_MAPS, NAMESPACES

_AT_ONCE = (1, 32)
_WATCHERS = 50
_SPACE = "bench"


def _body(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": _SPACE, "labels": {"app": "bench"}}, "data": {"key": "x" * 500}}


async def _creates(client: Client, number: int, at_once: int) -> list[float]:
    """Milliseconds of each create."""
    times: list[float] = []
    names = iter([f"c{at_once}-{index}" for index in range(number)])

    async def worker() -> None:
        for name in names:
            began = time.monotonic()
            await client.create(CONFIG_MAPS, _body(name))
            times.append((time.monotonic() - began) * 1e3)

    await asyncio.gather(*(worker() for _ in range(at_once)))
    return times


async def writes(client: Client, pid: int, number: int) -> Mapping[str, Any]:
    """Creates one after another, and many at once."""
    found = {}
    for at_once in _AT_ONCE:
        cpu, began = processes.cpu_seconds((pid,)), time.monotonic()
        times = await _creates(client, number, at_once)
        seconds = time.monotonic() - began
        found[f"create, {at_once} at once"] = {
            "rate": number / seconds,
            "ms": times,
            "cpu_ms": (processes.cpu_seconds((pid,)) - cpu) / number * 1e3,
        }
    return found


async def lists(client: Client, pid: int, times: int) -> Mapping[str, Any]:
    """All objects of a namespace at once, again and again."""
    took, cpu, count = [], processes.cpu_seconds((pid,)), 0
    for _ in range(times):
        began = time.monotonic()
        count = len((await client.list(CONFIG_MAPS, _SPACE)).items)
        took.append((time.monotonic() - began) * 1e3)
    used = (processes.cpu_seconds((pid,)) - cpu) / times * 1e3
    return {f"list of {count:,} objects": {"rate": 1e3 * times / sum(took), "ms": took, "cpu_ms": used}}


async def watches(client: Client, pid: int, watchers: int, times: int) -> Mapping[str, Any]:
    """From a create's start until each watcher has its event."""
    version = (await client.list(CONFIG_MAPS, _SPACE)).resource_version
    heard: asyncio.Queue[tuple[str, float]] = asyncio.Queue()

    async def watch() -> None:
        async for event in client.watch(CONFIG_MAPS, _SPACE, resource_version=version):
            if isinstance(event.object, ConfigMap):
                heard.put_nowait((event.object.metadata.name, time.monotonic()))

    tasks = [asyncio.create_task(watch()) for _ in range(watchers)]
    took, cpu = [], processes.cpu_seconds((pid,))
    try:
        for index in range(times):
            began = time.monotonic()
            await client.create(CONFIG_MAPS, _body(f"w{index}"))
            for _ in range(watchers):
                _, when = await heard.get()
                took.append((when - began) * 1e3)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    used = (processes.cpu_seconds((pid,)) - cpu) / times * 1e3
    return {f"event to {watchers} watchers": {"rate": 1e3 * len(took) / sum(took), "ms": took, "cpu_ms": used}}


async def measure(api: Api, number: int, watchers: int) -> Mapping[str, Any]:
    """All three."""
    async with Client.from_kubeconfig(api.kubeconfig) as client:
        await client.create(NAMESPACES, {"metadata": {"name": _SPACE}})
        written = await writes(client, api.pid, number)
        listed = await lists(client, api.pid, 10)
        watched = await watches(client, api.pid, watchers, max(number // 20, 5))
    return {**written, **listed, **watched}


def table(result: Mapping[str, Any]) -> str:
    """Rates are of operations for writes and lists; a watch's figures are of single events."""
    rows = (
        (
            what,
            f"{found['rate']:,.0f}" if not what.startswith("event") else "-",
            f"{report.percentile(found['ms'], 0.5):.1f}",
            f"{report.percentile(found['ms'], 0.99):.1f}",
            f"{found['cpu_ms']:.2f}",
        )
        for what, found in result.items()
    )
    return report.table(("", "per second", "p50 ms", "p99 ms", "server's CPU each, ms"), rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.api", description=__doc__)
    parser.add_argument("--number", type=int, default=2500)
    chosen = parser.parse_args(arguments)
    with server.api_server() as api:
        result = asyncio.run(measure(api, chosen.number, _WATCHERS))
    print(table(result))
    report.save("api", {"operations": result})
    report.write("api", table(result))


if __name__ == "__main__":
    main()
