"""`tulle`: the mesh on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

import tulle
from tulle import manifests
from tulle.cli import cobra, console, install, lab, up
from tulle.cli.explain.command import explain_
from tulle.cli.kubeconfig import KubeconfigError
from tulle.cli.policy import command as policy
from tulle.cluster import lifecycle
from tulle.cluster.lifecycle import ClusterError, ClusterSpec
from tulle.kube.config import ConfigError
from tulle.kube.errors import ApiError

app = typer.Typer(
    name="tulle",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="An ambient service mesh on one machine: identities, mTLS and policy, driven by kubectl and istioctl.",
)
State = Annotated[
    Path, typer.Option("--state-dir", envvar="TULLE_STATE_DIR", help="where everything of the cluster lives")
]


def _terminal() -> Console:
    return Console(highlight=False, soft_wrap=True)


@app.command("up")
def up_(
    profile: Annotated[str, typer.Option(help=f"one of {', '.join(sorted(manifests.PROFILES))}")] = "lesson",
    port: Annotated[int, typer.Option(help="port of the Kubernetes API on 127.0.0.1")] = lifecycle.DEFAULT_PORT,
    nodes: Annotated[
        int, typer.Option(min=1, max=lifecycle.MAX_NODES, help="how many nodes, each with pods and proxies of its own")
    ] = 1,
    kubeconfig: Annotated[
        bool, typer.Option("--kubeconfig/--no-kubeconfig", help="add the context `tulle` to your kubeconfig")
    ] = True,
    dns_capture: install.DnsCapture = True,
    timeout: Annotated[float, typer.Option(help="seconds to wait until the mesh is ready")] = 120,
    state_dir: State = lifecycle.DEFAULT_STATE,
) -> None:
    """Start a Kubernetes with the mesh on this machine."""
    spec = ClusterSpec(str(state_dir.absolute()), port, profile, nodes)
    try:
        up.up(spec, merge=kubeconfig, dns_capture=dns_capture, wait_seconds=timeout, console=_terminal())
    except (
        ClusterError,
        KubeconfigError,
        manifests.UnknownProfileError,
        console.CommandError,
        ApiError,
        ConfigError,
    ) as error:
        console.fail(str(error))


@app.command("down")
def down_(
    images: Annotated[bool, typer.Option("--images", help="remove the cached image roots too")] = False,
    state_dir: State = lifecycle.DEFAULT_STATE,
) -> None:
    """Stop the mesh and its Kubernetes and remove everything they made."""
    try:
        up.down(state_dir.absolute(), images=images, console=_terminal())
    except (ClusterError, KubeconfigError) as error:
        console.fail(str(error))


@app.command("status")
def status_(state_dir: State = lifecycle.DEFAULT_STATE) -> None:
    """Say what runs, and whether the mesh is ready (exit code 1 if not)."""
    try:
        ready = up.status(state_dir.absolute(), _terminal())
    except ConfigError as error:
        console.fail(str(error))
    if not ready:
        raise typer.Exit(1)


@app.command("kubeconfig")
def kubeconfig_(state_dir: State = lifecycle.DEFAULT_STATE) -> None:
    """Print the path of the mesh's own kubeconfig."""
    if lifecycle.find(state_dir) is None:
        console.fail(f"there is no cluster in {state_dir}; `tulle up` starts one")
    console.say(str(lifecycle.kubeconfig(state_dir.absolute())))


@app.command("lab")
def lab_(
    auto: Annotated[bool, typer.Option("--auto", help="run every step without asking")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="leave the lesson's namespaces in place at the end")] = False,
    state_dir: State = lifecycle.DEFAULT_STATE,
) -> None:
    """Walk through the lesson on ambient security: each command, what happened, and why."""
    spec = lifecycle.find(state_dir)
    if spec is None:
        console.fail(f"there is no cluster in {state_dir}; `tulle up` starts one")
    try:
        walk = lab.Lab(
            spec.profile, lifecycle.kubeconfig(state_dir.absolute()), interactive=not auto, console=_terminal()
        )
    except lab.MissingToolError as error:
        console.fail(str(error))
    passed = walk.walk()
    if not keep:
        walk.clean()
    if not passed:
        raise typer.Exit(1)


app.command("explain")(explain_)
app.add_typer(install.manifest, name="manifest", cls=cobra.CobraGroup)
app.command("install")(install.install)
app.command("uninstall")(install.uninstall)
app.add_typer(policy.app, name="policy")


@app.command("version")
def version_() -> None:
    """Print Tulle's version."""
    console.say(tulle.__version__)


if __name__ == "__main__":
    app()
