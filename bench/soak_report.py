"""What a soak showed: failures that are nobody's pod's fault, latencies, and which process grew."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench import report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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


def _growth(samples: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Every process that was there for all of the second half."""
    half = samples[len(samples) // 2 :]
    begun = samples[0]["at"]
    names = set.intersection(*(set(sample["processes"]) for sample in half))
    grown = {}
    for name in sorted(names):
        points = [((s["at"] - begun) / 60, s["processes"][name]) for s in half]
        rate, error = slope([(minute, found["rss"] / 1e3) for minute, found in points])
        files, _ = slope([(minute, found["files"]) for minute, found in points])
        series = [
            (round((s["at"] - begun) / 60, 2), round(s["processes"][name]["rss"] / 1e6, 2))
            for s in samples[:: max(1, len(samples) // _POINTS)]
            if name in s["processes"]
        ]
        grown[name] = {"kb_per_minute": rate, "error": error, "files_per_minute": files, "series": series}
    return grown


def summary(result: Mapping[str, Any], places: Mapping[str, str]) -> dict[str, Any]:
    """What is kept of a run."""
    return {
        "seconds": result["seconds"],
        "most": {places[name]: rate for name, rate in result["most"].items()},
        "paths": {places[name]: _path(found, result["deleted"]) for name, found in result["paths"].items()},
        "replaced": len(result["deleted"]),
        "skipped": result["skipped"],
        "processes": _growth(result["samples"]),
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
        series = process["series"]
        if series[-1][1] < 1:
            continue  # those that hold a pod's namespaces have a page or two
        yield (
            name.rsplit(" ", 1)[0],
            f"{series[len(series) // 2][1]:.1f}",
            f"{series[-1][1]:.1f}",
            f"{process['kb_per_minute']:+.1f} ± {process['error']:.1f}",
            f"{_late(series):+.1f}",
            f"{process['files_per_minute']:+.2f}",
        )


def _late(series: Sequence[tuple[float, float]]) -> float:
    """KB a minute in the last quarter, when memory that has a bound has reached it."""
    return slope([(minute, megabytes * 1e3) for minute, megabytes in series if minute >= series[-1][0] * 0.75])[0]


def tables(found: Mapping[str, Any]) -> str:
    """Paths, then processes."""
    head = ("path", "highest rate", "rate", "requests", "failed, of deleted pods", "failed, others")
    marks = (*(f"p{share * 100:g} ms" for share in _SHARES), "longest")
    rates = ("KB/min in the second half", "in the last quarter", "open files/min")
    processes = ("process", "MB at half time", "MB at the end", *rates)
    return "\n".join(
        (
            f"{found['seconds'] / 60:.0f} minutes; {found['replaced']} pods replaced, {found['skipped']} times too few were "
            "Ready to delete one.\n",
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
        axes.set_xlabel("minutes")
        axes.set_ylabel("RSS, MB")
        axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))

    return tables(found) + "\n\n" + report.chart("soak", draw)
