"""The command line of `tulle explain`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated

import typer

from tulle.cli import console
from tulle.cli.explain import authorizers, documents, live, render
from tulle.cli.explain.documents import InputError
from tulle.cli.explain.report import explain
from tulle.cli.explain.route import Ask
from tulle.cli.explain.world import World
from tulle.cli.explain.world import live as live_world
from tulle.cli.explain.world import offline as offline_world
from tulle.cli.options import Context, Kubeconfig, Namespace, default_namespace

REFUSED = 3
Files = Annotated[
    list[str] | None,
    typer.Option(
        "--file", "-f", help="YAML instead of a cluster: file, folder, NAMESPACE=PATH, or - (may be repeated)"
    ),
]
Profile = Annotated[
    str, typer.Option("--profile", help="with -f: settings if the files have no mesh configuration: lesson or istio")
]
Authorizers = Annotated[
    list[str] | None,
    typer.Option(
        "--authorizer", help="NAME=allow or NAME=deny: assume an external authorizer's answer (may be repeated)"
    ),
]
IstioNamespace = Annotated[str, typer.Option("--istioNamespace", "-i", help="istiod's namespace")]
_METHOD_NOTE = "HTTP method, e.g. GET; - for a port that is not HTTP"


def world_of(
    files: Sequence[str] | None, profile: str, kubeconfig: str | None, context: str | None, istio_namespace: str
) -> World:
    """The world that a command is about: YAML if any is given, else the cluster. Ends the command for what cannot be read."""
    try:
        if files:
            return offline_world(documents.load(files, _stdin(files)), profile)
        if profile:
            console.fail("--profile goes with -f only; a cluster has its own mesh configuration")
        found = console.run(live.load(console.client(kubeconfig, context), istio_namespace))
        return live_world(found)
    except InputError as error:
        console.fail(str(error))


def reads_stdin(files: Sequence[str]) -> bool:
    """Whether one of the paths stands for standard input."""
    return any(one == "-" or one.endswith("=-") for one in files)


def _stdin(files: Sequence[str]) -> str | None:
    if not reads_stdin(files):
        return None
    try:
        return console.read("-").decode()
    except UnicodeDecodeError as error:
        raise InputError(f"-f -: this is no UTF-8: {error}") from error


def explain_(
    client: Annotated[str, typer.Argument(help="pod/NAME, deployment/NAME, serviceaccount/NAME, kubelet or outside")],
    method: Annotated[str, typer.Argument(help=_METHOD_NOTE)],
    url: Annotated[str, typer.Argument(help="as curl takes it; NAME.NAMESPACE.pod addresses a pod by its name")],
    namespace: Namespace = "",
    file: Files = None,
    header: Annotated[list[str] | None, typer.Option("--header", "-H", help="`Name: value` (may be repeated)")] = None,
    jwt: Annotated[str, typer.Option("--jwt", help="bearer token of the request")] = "",
    authorizer: Authorizers = None,
    output: Annotated[str, typer.Option("--output", "-o", help="table, json or yaml")] = "table",
    check: Annotated[bool, typer.Option("--check", help=f"exit code {REFUSED} unless the request is allowed")] = False,
    profile: Profile = "",
    istio_namespace: IstioNamespace = "istio-system",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Say what becomes of a request, hop by hop, and the smallest change that would let it pass."""
    if output not in render.FORMATS:
        console.fail(f"-o {output!r}: accepted are {', '.join(render.FORMATS)}")
    world = world_of(file, profile, kubeconfig, context, istio_namespace)
    where = namespace or ("default" if file else default_namespace(kubeconfig, context))
    address = f"tcp://{url}" if method == "-" and "://" not in url else url
    try:
        answers = authorizers.read(authorizer or [], world.settings)
        report = explain(world, Ask(client, where, method, address, _headers(header or ()), jwt, time.time(), answers))
    except InputError as error:
        console.fail(str(error))
    if output == "table":
        render.draw(report, render.console())
    else:
        console.say(render.text(report, output))
    if check and not report.allowed:
        raise typer.Exit(REFUSED)


def _headers(given: Sequence[str]) -> tuple[tuple[str, str], ...]:
    found = []
    for one in given:
        name, colon, value = one.partition(":")
        if not colon or not name.strip():
            raise InputError(f"-H {one!r}: accepted is `Name: value`")
        found.append((name.strip(), value.strip()))
    return tuple(found)
