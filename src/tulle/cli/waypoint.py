"""`istioctl waypoint`: waypoints as the Gateways they are (spec F)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
import yaml

from tulle.cli import console, unready
from tulle.cli.options import Context, Kubeconfig, Namespace, default_namespace
from tulle.kube.client import Client
from tulle.kube.errors import NotFound
from tulle.kube.objects import Condition, Gateway
from tulle.kube.resources import DEPLOYMENTS, GATEWAYS, NAMESPACES

CLASS = "istio-waypoint"
WAYPOINT_FOR = "istio.io/waypoint-for"
USE_WAYPOINT = "istio.io/use-waypoint"
REVISION = "istio.io/rev"
DATAPLANE_MODE = "istio.io/dataplane-mode"
TRAFFIC_TYPES = ("service", "workload", "all", "none")
FIELD_MANAGER = "istioctl"
_POLL = 0.25

app = typer.Typer(no_args_is_help=True, help="Manage waypoint configuration")

Name = Annotated[str, typer.Option("--name", help="name of the waypoint")]
For = Annotated[str, typer.Option("--for", help=f"traffic the waypoint serves: {', '.join(TRAFFIC_TYPES)}")]
Revision = Annotated[str, typer.Option("--revision", "-r", help="revision to label the waypoint with")]
AllNamespaces = Annotated[bool, typer.Option("--all-namespaces", "-A", help="look in all namespaces")]


def _checked(name: str, traffic: str) -> None:
    if name == "none":
        console.fail(
            'a waypoint cannot be called "none": that name means "no waypoint" in the label istio.io/use-waypoint'
        )
    if traffic and traffic not in TRAFFIC_TYPES:
        console.fail(f"--for {traffic!r} is not a traffic type; accepted are {', '.join(TRAFFIC_TYPES)}")


def manifest(namespace: str, name: str, traffic: str, revision: str) -> dict[str, Any]:
    """The Gateway of a waypoint: one HBONE listener on port 15008 (spec A5)."""
    labels = {key: value for key, value in ((WAYPOINT_FOR, traffic), (REVISION, revision)) if value}
    return {
        "apiVersion": GATEWAYS.api_version,
        "kind": GATEWAYS.kind,
        "metadata": {"name": name, "namespace": namespace, **({"labels": labels} if labels else {})},
        "spec": {"gatewayClassName": CLASS, "listeners": [{"name": "mesh", "port": 15008, "protocol": "HBONE"}]},
    }


@app.command()
def generate(
    namespace: Namespace = "",
    name: Name = "waypoint",
    traffic: For = "",
    revision: Revision = "",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Print a waypoint as YAML."""
    _checked(name, traffic)
    where = namespace or default_namespace(kubeconfig, context)
    console.say(yaml.safe_dump(manifest(where, name, traffic, revision), sort_keys=False).rstrip())


@app.command()
def apply(
    namespace: Namespace = "",
    name: Name = "waypoint",
    traffic: For = "",
    enroll_namespace: Annotated[
        bool, typer.Option("--enroll-namespace", help="label the namespace to use the waypoint")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the namespace's present label")] = False,
    revision: Revision = "",
    wait: Annotated[bool, typer.Option("--wait", "-w", help="wait until the waypoint is ready")] = False,
    timeout: Annotated[float, typer.Option("--waypoint-timeout", help="seconds to wait")] = 90,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Apply a waypoint to a namespace."""
    _checked(name, traffic)
    where = namespace or default_namespace(kubeconfig, context)
    console.run(
        _apply(
            console.client(kubeconfig, context),
            manifest(where, name, traffic, revision),
            enroll=enroll_namespace,
            overwrite=overwrite,
            timeout=timeout if wait else None,
        )
    )


async def _apply(
    client: Client, gateway: Mapping[str, Any], *, enroll: bool, overwrite: bool, timeout: float | None
) -> None:
    namespace, name = gateway["metadata"]["namespace"], gateway["metadata"]["name"]
    async with client:
        labels = (await client.get(NAMESPACES, namespace)).metadata.labels
        used = labels.get(USE_WAYPOINT)
        if enroll and used not in (None, name) and not overwrite:
            console.warn(
                f"namespace {namespace} already has the label {USE_WAYPOINT}={used}, so nothing was applied; "
                "use --overwrite to replace it"
            )
            return
        if enroll and labels.get(DATAPLANE_MODE) != "ambient":
            console.warn(
                f"namespace {namespace} is not ambient, so its pods are not behind the waypoint; "
                f"to change that: kubectl label namespace {namespace} {DATAPLANE_MODE}=ambient"
            )
        await client.patch(
            GATEWAYS, name, dict(gateway), namespace, kind="apply", field_manager=FIELD_MANAGER, force=True
        )
        console.say(f"✅ waypoint {namespace}/{name} applied")
        if timeout is not None:
            await _until_ready(client, namespace, name, timeout)
        if enroll:
            await client.patch(NAMESPACES, namespace, {"metadata": {"labels": {USE_WAYPOINT: name}}})
            console.say(f'✅ namespace {namespace} labeled with "{USE_WAYPOINT}: {name}"')


async def _until_ready(client: Client, namespace: str, name: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        programmed = condition(await client.get(GATEWAYS, name, namespace), "Programmed")
        if programmed is not None and programmed.status == "True":
            console.say(f"✅ waypoint {namespace}/{name} is ready!")
            return
        if time.monotonic() > deadline:
            why = (
                "istiod has not reported on it" if programmed is None else f"{programmed.reason}: {programmed.message}"
            )
            title = f"waypoint {namespace}/{name} is not ready after {timeout:g} s ({why})"
            console.fail("\n".join((title, *await _unready(client, namespace, name))))
        await asyncio.sleep(_POLL)


async def _unready(client: Client, namespace: str, name: str) -> Sequence[str]:
    """What keeps a waypoint's pods."""
    try:
        deployment = await client.get(DEPLOYMENTS, name, namespace)
    except NotFound:
        return (f"it has no Deployment {namespace}/{name} yet: see the log of istiod",)
    return await unready.reasons(client, deployment)


def condition(gateway: Gateway, kind: str) -> Condition | None:
    """The Gateway's condition of that type."""
    return next((c for c in gateway.status.conditions if c.type == kind), None)


async def _waypoints(client: Client, namespace: str | None) -> tuple[Gateway, ...]:
    async with client:
        found = (await client.list(GATEWAYS, namespace)).items
    return tuple(
        sorted(
            (g for g in found if g.spec.gateway_class_name == CLASS),
            key=lambda g: (g.metadata.namespace, g.metadata.name),
        )
    )


def _programmed(gateway: Gateway) -> str:
    found = condition(gateway, "Programmed")
    return "False" if found is None else found.status.title()


@app.command("list")
def list_(
    namespace: Namespace = "",
    all_namespaces: AllNamespaces = False,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """List waypoints."""
    where = None if all_namespaces else namespace or default_namespace(kubeconfig, context)
    found = console.run(_waypoints(console.client(kubeconfig, context), where))
    if not found:
        console.say("No waypoints found.")
        return
    header = ["NAME", "REVISION", "TRAFFIC TYPE", "PROGRAMMED"]
    console.say(
        console.table(
            ["NAMESPACE", *header] if all_namespaces else header,
            (_row(g, [g.metadata.name, *_revision_and_type(g), _programmed(g)], all_namespaces) for g in found),
        )
    )


def _revision_and_type(gateway: Gateway) -> tuple[str, str]:
    labels = gateway.metadata.labels
    return labels.get(REVISION, "default"), labels.get(WAYPOINT_FOR, "none")


def _row(gateway: Gateway, cells: Sequence[str], all_namespaces: bool) -> list[str]:
    return [gateway.metadata.namespace, *cells] if all_namespaces else list(cells)


@app.command()
def status(
    namespace: Namespace = "",
    all_namespaces: AllNamespaces = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", "-w", help="wait until waypoints are ready")] = True,
    timeout: Annotated[float, typer.Option("--waypoint-timeout", help="seconds to wait")] = 90,
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show the status of waypoints."""
    where = None if all_namespaces else namespace or default_namespace(kubeconfig, context)
    deadline = time.monotonic() + (timeout if wait else 0)
    while True:
        found = console.run(_waypoints(console.client(kubeconfig, context), where))
        if all(_programmed(g) == "True" for g in found) or time.monotonic() >= deadline:
            break
        time.sleep(_POLL)
    if not found:
        console.say("No waypoints found.")
        return
    header = ["NAME", "STATUS", "TYPE", "REASON", "MESSAGE"]
    rows = (
        _row(g, [g.metadata.name, c.status, c.type, c.reason, c.message], all_namespaces)
        for g in found
        for c in _conditions(g)
    )
    console.say(console.table(["NAMESPACE", *header] if all_namespaces else header, rows))
    if not all(_programmed(g) == "True" for g in found):
        raise typer.Exit(1)


def _conditions(gateway: Gateway) -> Iterable[Condition]:
    programmed = condition(gateway, "Programmed")
    return gateway.status.conditions if programmed is None else (programmed,)


@app.command()
def delete(
    names: Annotated[list[str] | None, typer.Argument(help="waypoints to delete")] = None,
    all_waypoints: Annotated[bool, typer.Option("--all", help="delete every waypoint of the namespace")] = False,
    revision: Revision = "",
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Delete waypoints of a namespace."""
    if bool(names) == (all_waypoints or bool(revision)):
        console.fail("name the waypoints to delete, or give --all or --revision, but not both")
    where = namespace or default_namespace(kubeconfig, context)
    console.run(_delete(console.client(kubeconfig, context), where, names, revision))


async def _delete(client: Client, namespace: str, names: Sequence[str] | None, revision: str) -> None:
    async with client:
        if not names:
            found = (await client.list(GATEWAYS, namespace)).items
            names = [
                g.metadata.name
                for g in found
                if g.spec.gateway_class_name == CLASS and revision in ("", g.metadata.labels.get(REVISION, "default"))
            ]
        missing = False
        for name in names:
            try:
                await client.delete(GATEWAYS, name, namespace)
                console.say(f"waypoint {namespace}/{name} deleted")
            except NotFound:
                missing = True
                console.say(f"waypoint {namespace}/{name} not found")
        if missing:
            raise typer.Exit(1)
