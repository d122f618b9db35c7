"""How much memory the mesh takes with the lesson's pods: `python -m bench.memory`. Each process, and all together.

RSS counts a page once for each process that has it; PSS divides it among them, so that its sum is what the machine really gives.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench import private, processes, report
from bench.mesh import BIN, Mesh, run, running

_CLIENT = "kubectl run curl --image=curlimages/curl -n test --restart=Never --command -- sleep infinity"


def lesson(mesh: Mesh) -> None:
    """The lesson's namespaces, pods and waypoint, captured."""
    for namespace in ("test", "hello"):
        mesh.kubectl("create", "namespace", namespace)
        mesh.kubectl("label", "namespace", namespace, "istio.io/dataplane-mode=ambient")
    run(_CLIENT.split(), mesh.environment)
    mesh.kubectl("apply", "-n", "hello", "-f", str(report.ROOT / "src/tulle/cli/lesson/helloworld.yaml"))
    command = (str(BIN / "istioctl"), "waypoint", "apply", "-n", "hello", "--enroll-namespace", "--wait")
    run(command, mesh.environment)
    mesh.ready("test", "pod", "--all")
    mesh.ready("hello", "pod", "--all")
    mesh.kubectl("exec", "-n", "test", "curl", "--", "curl", "-sS", "http://helloworld.hello:5000/hello")


def measure(mesh: Mesh) -> list[dict[str, Any]]:
    """Every process of the mesh and its pods, in bytes."""
    found = ((processes.name(p), processes.memory(p.pid)) for p in mesh.processes())
    return [{"name": name, **asdict(memory)} for name, memory in found if memory is not None]


def _rows(result: Sequence[Mapping[str, Any]]) -> Iterator[tuple[object, ...]]:
    kinds = ("rss", "pss", "uss")
    for found in sorted(result, key=lambda r: -r["pss"]):
        yield found["name"], *(f"{found[kind] / 1e6:.1f}" for kind in kinds)
    yield "**all**", *(f"**{sum(found[kind] for found in result) / 1e6:.0f}**" for kind in kinds)


def table(result: Sequence[Mapping[str, Any]]) -> str:
    return report.table(("process (MB)", "RSS", "PSS", "private"), _rows(result))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.parse_args(arguments)
    private.enter()
    with running() as mesh:
        lesson(mesh)
        result = measure(mesh)
    print(table(result))
    report.save("memory", {"processes": result})
    report.write("memory", table(result))


if __name__ == "__main__":
    main()
