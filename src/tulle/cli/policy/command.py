"""The command line of `tulle policy`."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from tulle.cli import console
from tulle.cli.explain import authorizers
from tulle.cli.explain.command import Authorizers, Files, IstioNamespace, Profile, reads_stdin, world_of
from tulle.cli.explain.documents import InputError
from tulle.cli.options import Context, Kubeconfig
from tulle.cli.policy.compiled import TARGETS, compile_policies
from tulle.cli.policy.decided import FIELDS, decide_lines

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="What policies come to: compile them, or decide requests by them."
)


@app.command("compile")
def compile_(
    file: Files = None,
    target: Annotated[str, typer.Option("--target", help=f"only {' or '.join(TARGETS)}")] = "",
    output: Annotated[str, typer.Option("--output", "-o", help="yaml or json")] = "yaml",
    profile: Profile = "",
    istio_namespace: IstioNamespace = "istio-system",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Print what proxies are sent for policies (protobuf JSON), and on stderr what was dropped and why.

    Without -f the policies of the cluster are compiled.
    """
    if target not in ("", *TARGETS):
        console.fail(f"--target {target!r}: accepted are {', '.join(TARGETS)}")
    if output not in ("yaml", "json"):
        console.fail(f"-o {output!r}: accepted are yaml and json")
    compiled = compile_policies(world_of(file, profile, kubeconfig, context, istio_namespace))
    parts: dict[str, Any] = {"ztunnel": list(compiled.ztunnel), "waypoint": list(compiled.waypoint)}
    chosen = {name: value for name, value in parts.items() if target in ("", name)}
    if output == "json":
        console.say(json.dumps(chosen, indent=2))
    else:
        console.say(yaml.safe_dump(chosen, sort_keys=False, width=140).rstrip())
    for remark in compiled.remarks:
        sys.stderr.write(f"{remark}\n")


_REQUEST_HELP = "JSON lines of requests; - is standard input. Fields: " + "; ".join(
    f"{name}: {text}" for name, text in FIELDS.items()
)


@app.command("decide")
def decide_(
    request: Annotated[str, typer.Option("--request", help=_REQUEST_HELP)] = "-",
    file: Files = None,
    authorizer: Authorizers = None,
    profile: Profile = "",
    istio_namespace: IstioNamespace = "istio-system",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Decide requests by policies: JSON lines in, JSON lines out (allowed, verdict, sees, curl, where, policy, clause, reason).

    Exit code 1 if a line was no request; whether requests are allowed does not matter for it.
    """
    if request == "-" and reads_stdin(file or ()):
        console.fail(
            "standard input cannot be both the requests and -f -; name a file for one of them (--request PATH)"
        )
    world = world_of(file, profile, kubeconfig, context, istio_namespace)
    try:
        answers = authorizers.read(authorizer or [], world.settings)
    except InputError as error:
        console.fail(str(error))
    failed = False
    for decision in decide_lines(world, _lines(request), time.time(), answers):
        failed = failed or "error" in decision
        console.say(json.dumps(decision, ensure_ascii=False))
    if failed:
        raise typer.Exit(1)


def _lines(request: str) -> Iterator[str]:
    """The lines of a file or of standard input, as they come. Bytes that are no UTF-8 are left to the line that holds them."""
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if request == "-" else Path(request).open("rb") as source:
            for line in source:
                yield line.decode(errors="surrogateescape")
    except OSError as error:
        console.fail(f"--request {request}: {error.strerror}")
