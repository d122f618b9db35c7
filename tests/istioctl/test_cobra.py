"""Flags as istioctl's own command line takes them."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from tulle.cli import cobra
from tulle.cli.cobra import Flag, persistent_last, without_values

WAIT = Flag(("--wait", "-w"), ("--no-wait",))
ALL = Flag(("--all-namespaces", "-A"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--wait"], ["--wait"]),
        (["--wait=true"], ["--wait"]),
        (["--wait=false"], ["--no-wait"]),
        (["-w=0"], ["--no-wait"]),
        (["-A=T"], ["--all-namespaces"]),
        (["-A=false"], []),
        (["-A", "x", "--all-namespaces=False"], ["x"]),
        (["--wait=false", "--wait=true"], ["--wait"]),
        (["--name=wait", "x=true"], ["--name=wait", "x=true"]),
        (["--", "--wait=false"], ["--", "--wait=false"]),
    ],
)
def test_values_of_boolean_flags(given: list[str], expected: list[str]) -> None:
    assert without_values(given, [WAIT, ALL]) == expected


def test_a_value_that_is_none() -> None:
    with pytest.raises(typer.BadParameter, match="flag --wait: found 'maybe'; accepted are true and false"):
        without_values(["--wait=maybe"], [WAIT])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["-n", "a", "waypoint", "list"], ["waypoint", "list", "-n", "a"]),
        (["--namespace=a", "-c", "f", "x", "--", "y"], ["x", "--namespace=a", "-c", "f", "--", "y"]),
        (["x", "-n", "a"], ["x", "-n", "a"]),
        (["--help"], ["--help"]),
        (["-n", "a"], ["-n", "a"]),
        ([], []),
    ],
)
def test_options_before_the_subcommand(given: list[str], expected: list[str]) -> None:
    assert persistent_last(given) == expected


def test_both_through_a_real_command_line() -> None:
    seen: list[tuple[str, bool, bool]] = []
    app = typer.Typer(cls=cobra.CobraGroup)
    inner = typer.Typer()

    @cobra.command(inner, "show", "s")
    def show(
        namespace: str = typer.Option("", "-n"), wait: bool = True, everything: bool = typer.Option(False, "-A")
    ) -> None:
        seen.append((namespace, wait, everything))

    cobra.command(inner, "other")(lambda: None)
    cobra.group(app, inner, "outer", "o")
    for line in ("-n a outer show --wait=false -A=true", "o s --wait=true", "-n b o s -A=false"):
        result = CliRunner().invoke(app, line.split())
        assert result.exit_code == 0, result.output
    assert seen == [("a", False, True), ("", True, False), ("b", True, False)]
    refused = CliRunner().invoke(app, ["outer", "show", "--wait=x"])
    assert refused.exit_code == 2
    assert "found 'x'" in refused.output
