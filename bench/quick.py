"""Every part of the suite once, briefly: `python -m bench.quick [PART ...]`. It shows that each still runs; nothing is written.

The parts that need a mesh share one, which is what makes this quick: it has one node, and on it whatever the parts before have left.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench import (
    api,
    certificates,
    controlplane,
    curves,
    curves_report,
    dataplane,
    dataplane_report,
    memory,
    policy,
    private,
    report,
    server,
    startup,
    topology,
)
from bench.mesh import BIN, STATE, Mesh, run

LOADS = ("wrk", "h2load", "iperf3", "haproxy")
"""The programs without which no path can be loaded."""
_TIMES = 2
_PODS, _POLICIES = (1, 24), (0, 10)
"""The first number is that of the pods that are there anyway, which are fewer than the second."""
_SETTLE = 0.5
_SECONDS = 1.0


def _startup(mesh: Mesh) -> str:
    return startup.tables(startup.once(mesh))


def _memory(mesh: Mesh) -> str:
    return memory.table(memory.measure(mesh))


def _dataplane(mesh: Mesh) -> str:
    """The paths of one node, and policy on two of them."""
    with topology.paths(mesh, (0,), two_nodes=False) as made:
        found = dataplane.measure(mesh, made, 1, _SECONDS, lambda _: None)
        held = asyncio.run(policy.measure(mesh, made, _TIMES))
    return dataplane_report.tables(found) + "\n\n" + policy.table(held)


def _curves(mesh: Mesh) -> str:
    return curves_report.tables(asyncio.run(curves.both(mesh, _PODS, _POLICIES, _TIMES, _SETTLE)))


def _certificates() -> str:
    with tempfile.TemporaryDirectory() as folder:
        return certificates.table(certificates.measure(100, Path(folder)))


def _controlplane() -> str:
    return controlplane.table([controlplane.measure(controlplane.Size(60, 6, 6, 2), 10, 5)])


def _api() -> str:
    with server.api_server() as started:
        return api.table(asyncio.run(api.measure(started, 40, 5)))


ON_A_MESH: Mapping[str, Callable[[Mesh], str]] = {
    "startup": _startup,
    "memory": _memory,
    "dataplane": _dataplane,
    "curves": _curves,
}
"""In their order: the first brings the mesh up and walks through the lesson, whose pods the second is about."""
ALONE: Mapping[str, Callable[[], str]] = {
    "certificates": _certificates,
    "controlplane": _controlplane,
    "api": _api,
}


def left_out(program: Callable[[str], str | None] = shutil.which) -> Mapping[str, str]:
    """Parts that this machine cannot run, and why."""
    missing = [name for name in LOADS if program(name) is None]
    return {"dataplane": f"{', '.join(missing)} not found; `make debian-bench` installs them"} if missing else {}


def _tell(name: str, part: Callable[[], str]) -> None:
    begun = time.monotonic()
    text = part()
    print(f"== {name}: {time.monotonic() - begun:.1f} s\n{text}\n", flush=True)


def _on_a_mesh(parts: Mapping[str, Callable[[Mesh], str]]) -> None:
    mesh = Mesh(STATE)
    down = (str(BIN / "tulle"), "down")
    run(down, mesh.environment)
    try:
        for name, part in parts.items():
            _tell(name, lambda part=part: part(mesh))  # type: ignore[misc]
    finally:
        run(down, mesh.environment)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the parts that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m bench.quick", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join((*ON_A_MESH, *ALONE))}; all if none is named"
    )
    chosen = parser.parse_args(arguments)
    os.environ.setdefault("PYTHONPATH", str(report.ROOT))
    wanted = chosen.parts or (*ON_A_MESH, *ALONE)
    if unknown := set(wanted) - ON_A_MESH.keys() - ALONE.keys():
        parser.error(f"{', '.join(sorted(unknown))}: no such part; accepted are {', '.join((*ON_A_MESH, *ALONE))}")
    if ON_A_MESH.keys() & set(wanted):
        private.enter()
        out = left_out()
        _on_a_mesh({name: part for name, part in ON_A_MESH.items() if name in {"startup", *wanted} and name not in out})
        for name, why in out.items():
            print(f"== {name}: left out, because {why}", file=sys.stderr)
    for name, alone in ALONE.items():
        if name in wanted:
            _tell(name, alone)


if __name__ == "__main__":
    main()
