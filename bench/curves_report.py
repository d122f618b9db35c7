"""The cost curves as tables and charts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench import report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROGRAMS = ("ztunnel's Envoy", "ztunnel", "istiod", "istio-cni-node", "node", "control plane")
_CURVES = {
    "pods": "pods on the node",
    "spread": "policies, each for another app that nobody is",
    "stacked": "policies, all for one pod",
}
_CHANGES = {"pod": "one more pod", "policy": "one policy", "label": "one pod's label"}
Steps = Sequence[Mapping[str, Any]]


def _programs(steps: Steps) -> tuple[str, ...]:
    return tuple(program for program in PROGRAMS if program in steps[0]["memory"])


def _sizes(steps: Steps) -> Iterator[tuple[object, ...]]:
    for step in steps:
        config = step["config"]
        sizes = (step["memory"][program] for program in _programs(steps))
        memory = (f"{found['rss'] / 1e6:.0f} / {found['pss'] / 1e6:.0f}" for found in sizes)
        yield f"{step['number']:,}", config["listeners"], f"{config['bytes'] / 1e3:,.0f}", *memory


def _per_one(steps: Steps) -> Iterator[tuple[object, ...]]:
    """What each step adds, divided by how many it adds."""
    for before, after in itertools.pairwise(steps):
        added = after["number"] - before["number"]
        grown = (
            (after["memory"][name]["pss"] - before["memory"][name]["pss"]) / added / 1e3 for name in _programs(steps)
        )
        config = (after["config"]["bytes"] - before["config"]["bytes"]) / added / 1e3
        between = f"{before['number']:,} to {after['number']:,}"
        yield between, f"{config:.2f}", *(f"{value:.1f}" for value in grown)


def _changes(steps: Steps) -> Iterator[tuple[object, ...]]:
    for kind, said in _CHANGES.items():
        for step in (step for step in steps if kind in step):
            found = step[kind]
            times = found["ms"]
            cpu = (f"{found['cpu_ms'][program]:.1f}" for program in _programs(steps))
            renewed = found["renewed"]
            sent = f"{renewed['resources']} ({renewed['bytes'] / 1e3:.1f})"
            yield said, f"{step['number']:,}", f"{report.median(times):.0f} / {max(times):.0f}", sent, *cpu


def tables(result: Mapping[str, Any]) -> str:
    """For each curve: sizes, what one more adds, and what a change costs."""
    parts = []
    for name, said in _CURVES.items():
        steps = result.get(name, ())
        if not steps:
            continue
        programs = _programs(steps)
        loads = ", ".join(f"{step['load']:.0f}" for step in steps)
        parts += [
            f"**By {said}** (load average at each step: {loads}). Memory in MB, RSS / PSS:\n",
            report.table((said.split(",")[0], "listeners", "Envoy's configuration, KB", *programs), _sizes(steps)),
            "\nWhat one more adds, in KB (PSS):\n",
            report.table(("from", "Envoy's configuration", *programs), _per_one(steps)),
            "\nWhat one change costs; CPU in ms by program:\n",
            report.table(
                ("change", said.split(",")[0], "ms, median / longest", "resources renewed (KB)", *programs),
                _changes(steps),
            ),
            "",
        ]
    return "\n".join(parts)


def _chart(result: Mapping[str, Any], name: str) -> str:
    steps = result[name]
    numbers = [step["number"] for step in steps]

    def memory(axes: Axes) -> None:
        for program in _programs(steps):
            axes.plot(numbers, [step["memory"][program]["pss"] / 1e6 for step in steps], marker="o", label=program)
        axes.set_xlabel(_CURVES[name])
        axes.set_ylabel("PSS, MB")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))

    def latency(axes: Axes) -> None:
        for kind, said in _CHANGES.items():
            if kind in steps[0]:
                axes.plot(numbers, [report.median(step[kind]["ms"]) for step in steps], marker="o", label=said)
        axes.set_xlabel(_CURVES[name])
        axes.set_ylabel("ms until it holds, median")
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False)

    return report.chart(f"curves-{name}-memory", memory) + "\n\n" + report.chart(f"curves-{name}-latency", latency)


def page(result: Mapping[str, Any]) -> str:
    """The tables with the charts."""
    return tables(result) + "\n" + "\n\n".join(_chart(result, name) for name in _CURVES if result.get(name))
