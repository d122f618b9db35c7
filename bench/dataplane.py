"""What a path through the mesh costs: `python -m bench.dataplane [--ztunnel PATH]`.

Requests on kept connections (HTTP/1 and HTTP/2), connections, and bytes, for the paths of `topology`, in turns. CPU is read from
/proc for each process, so that the cost of one request is known beside the rate. With `--ztunnel` another program, which speaks the
same protocols, runs in the place of the mesh's ztunnel.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import dataplane_report, load, private, processes, report, topology
from bench.load import Load
from bench.mesh import Mesh, running
from bench.topology import BYTES, HTTP, HTTP2, Route, Topology

POLICIES = (0, 10, 1000)
Measure = Callable[[Route, float], Load]
MEASURES: Mapping[str, Measure] = {
    "requests": lambda p, s: load.requests(p.client.command, f"http://{p.target}:{HTTP}/ok", s),
    "connections": lambda p, s: load.connections(p.client.command, f"http://{p.target}:{HTTP}/ok", s),
    "http2": lambda p, s: load.http2(p.client.command, f"http://{p.target}:{HTTP2}/ok", s),
    "bytes": lambda p, s: load.transfer(p.client.command, p.target, BYTES, s),
}


class Cost:
    """Reads who has used how much CPU, by part."""

    def __init__(self, mesh: Mesh, made: Topology) -> None:
        self.groups: dict[str, list[int]] = {role: list(pids) for role, pids in made.pids.items()}
        names = {
            pod["metadata"]["uid"]: _part(pod) for pod in mesh.get("pods", "-A")["items"] if pod["metadata"].get("uid")
        }
        for process in mesh.processes():
            uid = next((uid for uid in names if f"pod{uid}" in process.cgroup), "")
            part = names.get(uid, "cluster")
            program = Path(process.command[0]).name
            agent = " agent" if part in ("ztunnel", "waypoint") and program.startswith("python") else ""
            self.groups.setdefault(part + agent, []).append(process.pid)

    def read(self) -> dict[str, float]:
        """Seconds so far; `client` is what ended programs of this process used."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        parts = {name: processes.cpu_seconds(pids) for name, pids in self.groups.items()}
        return {**parts, "client": used.ru_utime + used.ru_stime}

    def memory(self) -> dict[str, int]:
        """PSS in bytes."""
        found = {name: [processes.memory(pid) for pid in pids] for name, pids in self.groups.items()}
        return {name: sum(m.pss for m in each if m is not None) for name, each in found.items()}


def _part(pod: Mapping[str, Any]) -> str:
    labels = pod["metadata"].get("labels", {})
    if "gateway.networking.k8s.io/gateway-name" in labels:
        return "waypoint"
    return str(labels.get("app", "")) if labels.get("app") in ("ztunnel", "istiod") else "cluster"


def measure(mesh: Mesh, made: Topology, rounds: int, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Every measure of every path, in turns."""
    cost = Cost(mesh, made)
    idle = cost.memory()
    found: dict[str, Any] = {p.name: {"about": p.about, **{m: [] for m in MEASURES}} for p in made.paths}
    for path in made.paths:
        load.requests(
            path.client.command, f"http://{path.target}:{HTTP}/ok", 1
        )  # connections are open, certificates there
    for number in range(rounds):
        for path in made.paths:
            for name, run in MEASURES.items():
                before = cost.read()
                result = run(path, seconds)
                after = cost.read()
                spent = {part: (after[part] - before[part]) / result.done * 1e6 for part in after}
                row = {"rate": result.rate, "p50": result.p50, "p99": result.p99, "done": result.done, "cpu_us": spent}
                found[path.name][name].append(row)
            say(f"round {number + 1} of {rounds}: {path.name}")
    return {"paths": found, "memory": {"idle": idle, "loaded": cost.memory()}}


def check_program(path: Path) -> Path:
    """Ends the program with a reason unless the path can be run."""
    if not path.is_file() or not os.access(path, os.X_OK):
        sys.exit(f"--ztunnel {path}: not an executable file; name a ztunnel that was built for this machine")
    return path.resolve()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.dataplane", description=__doc__)
    parser.add_argument("--ztunnel", type=Path, help="a program to run in the place of the mesh's ztunnel")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each run")
    parser.add_argument(
        "--policies", type=int, nargs="*", default=POLICIES, help="waypoints with so many policies each"
    )
    parser.add_argument("--only", nargs="*", help="these paths alone, by name; nothing is written")
    chosen = parser.parse_args(arguments)
    program = check_program(chosen.ztunnel) if chosen.ztunnel else None
    private.enter()
    with running("--profile", "istio", "--nodes", "2") as mesh:
        if program:
            topology.replace_ztunnel(mesh, program, nodes=2)
        with topology.paths(mesh, tuple(chosen.policies)) as made:
            made.paths = [path for path in made.paths if not chosen.only or path.name in chosen.only]
            result = measure(mesh, made, chosen.rounds, chosen.seconds, lambda text: print(text, file=sys.stderr))
    print(dataplane_report.tables(result))
    if not chosen.only:
        name = "dataplane-other" if program else "dataplane"
        report.save(name, {**result, "rounds": chosen.rounds, "seconds": chosen.seconds})
        if not program:
            report.write("dataplane", dataplane_report.page(result))


if __name__ == "__main__":
    main()
