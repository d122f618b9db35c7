"""Results on disk: JSON for programs, and tables and charts in `docs/performance.md` for people.

A page's text is written by hand around marked regions, and only what is between the marks is replaced.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
PAGE = ROOT / "docs" / "performance.md"
CHARTS = ROOT / "docs" / "performance"


class NoRegionError(Exception):
    """The page has no region of that name."""


def machine() -> Mapping[str, Any]:
    """What a figure depends on: cores, kernel, Python, and how busy the machine was."""
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "cpu": model[0].split(":", 1)[1].strip() if model else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%d"),
    }


def save(name: str, result: Mapping[str, Any], directory: Path = RESULTS) -> None:
    """Keep a result, with the machine it was measured on."""
    directory.mkdir(parents=True, exist_ok=True)
    document = {"machine": machine(), **result}
    (directory / f"{name}.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def load(name: str, directory: Path = RESULTS) -> Mapping[str, Any] | None:
    """A kept result, if there is one."""
    file = directory / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else None


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; the first column is to the left, the others to the right."""
    marks = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, marks, *rows))


def write(name: str, body: str, page: Path = PAGE) -> None:
    """Replace the page's region `name`. Raises NoRegionError."""
    text = page.read_text()
    begin, end = f"<!-- bench {name} -->", f"<!-- /bench {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise NoRegionError(f"{page} has no region {name}: add the lines {begin} and {end} where its table belongs")
    measured = machine()
    note = (
        f"_{measured['date']}, {measured['cores']} cores ({measured['cpu']}), Linux {measured['kernel']}, "
        f"Python {measured['python']}; load average at the end {measured['load']:.1f}._"
    )
    page.write_text(f"{before}{begin}\n{body}\n\n{note}\n{end}{after}")


def chart(name: str, draw: Callable[[Axes], None], size: tuple[float, float] = (8.0, 3.2)) -> str:
    """Draw `docs/performance/<name>.svg` and return the Markdown that shows it."""
    try:
        import matplotlib as mpl  # noqa: PLC0415 (of the dependency group `bench` only)
        from matplotlib import pyplot as plt  # noqa: PLC0415
    except ImportError:
        sys.exit("charts need the dependency group `bench`: uv sync --group bench")
    mpl.use("svg")
    # The same data give the same file.
    mpl.rcParams.update({"svg.hashsalt": "tulle", "svg.fonttype": "none", "font.size": 9})
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    CHARTS.mkdir(parents=True, exist_ok=True)
    figure.savefig(CHARTS / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)
    return f"![{name}](performance/{name}.svg)"


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of all (0 to 1) do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def median(values: Iterable[float]) -> float:
    return statistics.median(values)


def megabytes(count: float) -> str:
    return f"{count / 1e6:.0f}"
