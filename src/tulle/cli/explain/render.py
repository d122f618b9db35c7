"""Reports on a terminal: one line of what and why, the hops, what else there is to know, and the change."""

from __future__ import annotations

import json
from collections.abc import Iterator

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tulle.cli.explain.report import Report, Row

FORMATS = ("table", "json", "yaml")
_WIDE = 180
_STYLES = {"allow": "green", "deny": "bold red", "asks": "yellow"}
_VERDICTS = {"allowed": "bold green", "refused": "bold red", "undecided": "bold yellow"}


def text(report: Report, output: str) -> str:
    """JSON or YAML."""
    if output == "json":
        return json.dumps(report.as_data(), indent=2, ensure_ascii=False)
    return yaml.safe_dump(report.as_data(), sort_keys=False, allow_unicode=True, width=140).rstrip()


def console() -> Console:
    """Standard output; in a pipe as wide as the table wants to be."""
    found = Console(highlight=False, emoji=False, markup=False)
    return found if found.is_terminal else Console(highlight=False, emoji=False, markup=False, width=_WIDE)


def draw(report: Report, out: Console) -> None:
    """The report for people."""
    out.print(Text(report.summary, style=_VERDICTS[report.verdict]), soft_wrap=True)
    out.print()
    with out.capture() as drawn:
        out.print(_table(report.hops))
    out.file.writelines(f"{line.rstrip()}\n" for line in drawn.get().splitlines())
    for line in _notes(report):
        out.print(line, soft_wrap=True)
    out.print()
    for command in report.change.commands if report.change else ():
        out.print(f"  {command}", soft_wrap=True, style="cyan")
    if report.change:
        out.print(f"  (tried: the client then sees {report.change.verified})", soft_wrap=True, style="dim")
    out.print(Text(report.last, style="bold"), soft_wrap=True)


def _table(rows: tuple[Row, ...]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("HOP", "FROM", "TO", "HOW", "THE FAR END SEES", "VERDICT", "BY"):
        table.add_column(name, overflow="fold")
    for number, row in enumerate(rows, 1):
        by = f"{row.policy} {row.clause}".strip() or row.reason
        table.add_row(
            str(number),
            row.source,
            row.destination,
            row.how,
            row.sees,
            Text(row.verdict, _STYLES.get(row.verdict, "")),
            by,
        )
    return table


def _notes(report: Report) -> Iterator[str]:
    if len(set(report.endpoints.values())) > 1:
        yield ""
        yield from (f"to {name}: {code}" for name, code in report.endpoints.items())
    if report.nearest:
        yield ""
        yield f"Nearest miss: {report.nearest.text}  ({report.nearest.clause})"
    if report.findings:
        yield ""
        yield from (f"{'!' if one.trap else '-'} {one.text}  [{one.id}]" for one in report.findings)
    if report.settings:
        yield ""
        yield from (f"Setting in use: {one}" for one in report.settings)
    if report.assumptions:
        yield ""
        yield from (f"Assumed: {one}" for one in report.assumptions)
