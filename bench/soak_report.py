"""What a soak showed: failures that are nobody's pod's fault, latencies, and which process grew."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench import report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ALLOWED = 0.005
"""The share of its resident memory by which a process may grow in the measured time and still be said not to grow."""
_SHARES = (0.5, 0.9, 0.99, 0.999)
_POINTS = 60


def slope(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The slope of the straight line nearest to the points, and its standard error, as if their scatter were independent."""
    xs, ys = zip(*points, strict=True)
    if len(points) < 3:
        return 0.0, 0.0
    fit = statistics.linear_regression(xs, ys)
    middle = statistics.fmean(xs)
    spread = sum((x - middle) ** 2 for x in xs)
    scatter = sum((y - fit.intercept - fit.slope * x) ** 2 for x, y in points)
    return fit.slope, (scatter / (len(points) - 2) / spread) ** 0.5


def percentiles(latencies: Sequence[tuple[int, int]]) -> list[float]:
    """Milliseconds at each of the shares, and the longest; from tenths of a millisecond and how often each was met."""
    total = sum(count for _, count in latencies)
    found: list[float] = []
    seen = 0
    wanted = [share * total for share in _SHARES]
    for tenths, count in latencies:
        seen += count
        while len(found) < len(wanted) and seen >= wanted[len(found)]:
            found.append(tenths / 10)
    return [*found, latencies[-1][0] / 10] if latencies else []


def _path(found: Mapping[str, Any], deleted: Mapping[str, float]) -> dict[str, Any]:
    on_deleted = [f for f in found["failures"] if f["at"] >= deleted.get(f["pod"], float("inf"))]
    others = Counter(f["how"] for f in found["failures"] if f not in on_deleted)
    return {
        "done": found["done"],
        "rate": found["done"] / found["seconds"],
        "connections": found["connections"],
        "failed_on_deleted": len(on_deleted),
        "failed": dict(others),
        "ms": percentiles(found["latencies"]),
    }


def _growth(samples: Sequence[Mapping[str, Any]], warm_up: float) -> dict[str, dict[str, Any]]:
    """Every process that was there for all of the time after the warm-up, which is in seconds."""
    begun = samples[0]["at"]
    measured = [sample for sample in samples if sample["at"] >= begun + warm_up]
    minutes = (measured[-1]["at"] - measured[0]["at"]) / 60
    names = set.intersection(*(set(sample["processes"]) for sample in measured))
    grown = {}
    for name in sorted(names):
        points = [((s["at"] - begun) / 60, s["processes"][name]) for s in measured]
        rate, error = slope([(minute, found["rss"] / 1e3) for minute, found in points])
        files, _ = slope([(minute, found["files"]) for minute, found in points])
        series = [
            (round((s["at"] - begun) / 60, 2), round(s["processes"][name]["rss"] / 1e6, 2))
            for s in samples[:: max(1, len(samples) // _POINTS)]
            if name in s["processes"]
        ]
        grown[name] = {
            "mb": [points[0][1]["rss"] / 1e6, points[-1][1]["rss"] / 1e6],
            "kb_per_minute": rate,
            "error": error,
            "share": rate * minutes * 1e3 / points[0][1]["rss"],
            "files_per_minute": files,
            "series": series,
        }
        if "given_out" in points[0][1]:
            grown[name]["given_out"] = slope([(minute, found["given_out"] / 1e3) for minute, found in points])
    return grown


def summary(result: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """What is kept of a run."""
    return {
        "seconds": result["seconds"],
        "warm_up": result["warm_up"],
        "most": {places[name]: rate for name, rate in result["most"].items()},
        "paths": {places[name]: _path(found, result["deleted"]) for name, found in result["paths"].items()},
        "replaced": len(result["deleted"]),
        "skipped": result["skipped"],
        "processes": _growth(result["samples"], result["warm_up"]),
    }


def _path_rows(found: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    for name, path in found["paths"].items():
        others = ", ".join(f"{count} {how}" for how, count in path["failed"].items()) or "0"
        milliseconds = (f"{value:.1f}" for value in path["ms"])
        yield (
            name,
            f"{found['most'][name]:,.0f}",
            f"{path['rate']:,.0f}",
            f"{path['done']:,}",
            path["failed_on_deleted"],
            others,
            *milliseconds,
        )


def _process_rows(found: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    for name, process in found["processes"].items():
        begin, end = process["mb"]
        if end < 1:
            continue  # those that hold a pod's namespaces have a page or two
        yield (
            name.rsplit(" ", 1)[0],
            f"{begin:.1f}",
            f"{end:.1f}",
            _with_error((process["kb_per_minute"], process["error"])),
            f"{process['share']:+.2%}",
            "no" if process["share"] <= ALLOWED else "yes",
            _with_error(process["given_out"]) if "given_out" in process else "",
            f"{process['files_per_minute']:+.2f}",
        )


def _with_error(found: Sequence[float]) -> str:
    return "{:+.1f} ± {:.1f}".format(*found)


def tables(found: Mapping[str, Any]) -> str:
    """Paths, then processes."""
    head = ("path", "highest rate", "rate", "requests", "failed, of deleted pods", "failed, others")
    marks = (*(f"p{share * 100:g} ms" for share in _SHARES), "longest")
    minutes = f"{found['seconds'] / 60:.0f}"
    growth = (
        "KB/min",
        f"in {minutes} minutes",
        f"grows by more than {ALLOWED:.1%}",
        "allocator, KB/min",
        "open files/min",
    )
    processes = ("process", "MB after the warm-up", "MB at the end", *growth)
    return "\n".join(
        (
            f"{minutes} minutes after {found['warm_up'] / 60:.0f} of warm-up; {found['replaced']} pods replaced in all, "
            f"{found['skipped']} times too few were Ready to delete one.\n",
            report.table((*head, *marks), _path_rows(found)),
            "",
            report.table(processes, _process_rows(found)),
        )
    )


def page(found: Mapping[str, Any]) -> str:
    """The tables with a chart of memory over time."""

    def draw(axes: Axes) -> None:
        for name, process in found["processes"].items():
            if process["series"][-1][1] >= 10:
                axes.plot(*zip(*process["series"], strict=True), label=name.rsplit(" ", 1)[0])
        axes.axvline(found["warm_up"] / 60, color="grey", linewidth=0.8, linestyle="dotted")
        axes.set_xlabel("minutes; what is left of the dotted line is warm-up")
        axes.set_ylabel("RSS, MB")
        axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))

    return tables(found) + "\n\n" + report.chart("soak", draw)
