"""The data plane's results as tables and a chart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench import report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BASE = {"l4-2": "direct2", "direct2": "direct2"}
"""What a path is compared with; every other one with `direct`."""
_BETWEEN = ("haproxy", "ztunnel", "ztunnel agent", "waypoint", "waypoint agent")
"""`ztunnel` and `waypoint` are their Envoys here, and the agents the Python that configures them."""
_PARTS = ("client", "server", *_BETWEEN)


def _median(rows: Sequence[Mapping[str, Any]], key: str = "rate") -> float:
    return report.median(row[key] for row in rows)


def ratio(paths: Mapping[str, Any], name: str, measure: str) -> float:
    """The median rate of a path against that of no mesh between the same nodes."""
    base = paths.get(_BASE.get(name, "direct"))
    return _median(paths[name][measure]) / _median(base[measure]) if base else float("nan")


def _rates(paths: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    for name, found in paths.items():

        def cell(measure: str, scale: float, digits: int, name: str = name, found: Any = found) -> str:
            return f"{_median(found[measure]) / scale:,.{digits}f} ({ratio(paths, name, measure):.2f})"

        latency = f"{_median(found['requests'], 'p50'):.2f} / {_median(found['requests'], 'p99'):.2f}"
        yield (
            found["about"],
            cell("requests", 1, 0),
            latency,
            cell("connections", 1, 0),
            cell("http2", 1, 0),
            cell("bytes", 1e9, 2),
        )


def _costs(paths: Mapping[str, Any], measure: str) -> Iterator[tuple[object, ...]]:
    for found in paths.values():
        parts = {part: report.median(row["cpu_us"].get(part, 0.0) for row in found[measure]) for part in _PARTS}
        between = sum(parts[part] for part in _BETWEEN)
        yield (found["about"], *(f"{parts[part]:.1f}" for part in _PARTS), f"{between:.1f}")


def tables(result: Mapping[str, Any]) -> str:
    """Rates, CPU per request and per connection, and memory."""
    paths, memory = result["paths"], result["memory"]
    head = ("path", "requests/s", "p50 / p99 ms", "connections/s", "HTTP/2 requests/s", "Gbit/s")
    costs = ("path", *_PARTS, "all between")
    sizes = [
        (part, report.megabytes(memory["idle"].get(part, 0)), report.megabytes(memory["loaded"].get(part, 0)))
        for part in (*_BETWEEN, "istiod")
    ]
    return "\n".join(
        (
            "In brackets: against no mesh between the same nodes.\n",
            report.table(head, _rates(paths)),
            "\nCPU in microseconds per request:\n",
            report.table(costs, _costs(paths, "requests")),
            "\nCPU in microseconds per connection:\n",
            report.table(costs, _costs(paths, "connections")),
            "\nMemory in MB (PSS), all of a kind together:\n",
            report.table(("", "idle", "after the load"), sizes),
        )
    )


def page(result: Mapping[str, Any]) -> str:
    """The tables with the chart."""
    paths = result["paths"]
    labels = [found["about"].removeprefix("Tulle, ") for found in paths.values()]

    def draw(axes: Axes) -> None:
        for shift, measure in enumerate(("requests", "connections", "bytes")):
            values = [ratio(paths, name, measure) for name in paths]
            axes.barh([row + 0.27 * (shift - 1) for row in range(len(labels))], values, 0.25, label=measure)
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.set_xlabel("against no mesh between the same nodes")
        axes.legend(frameon=False)

    return tables(result) + "\n\n" + report.chart("dataplane", draw, (8.0, 4.2))
