"""`istioctl proxy-config`: what a waypoint's Envoy is configured with (spec F)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from tulle.cli import cobra, console, pods
from tulle.cli.console import CommandError
from tulle.cli.envoy_admin import CONFIG_DUMP, request
from tulle.cli.envoy_dump import EnvoyDump, EnvoyDumpError, parse
from tulle.cli.envoy_tables import SECTIONS, Filter, versions
from tulle.cli.options import Context, Kubeconfig, Namespace, default_namespace
from tulle.kube.client import Client
from tulle.kube.objects import Pod

ADMIN_PORT = 15000
_OUTPUTS = ("short", "json", "yaml")
_LEVELS = ("trace", "debug", "info", "warning", "error", "critical", "off")

app = typer.Typer(no_args_is_help=True, help="Retrieve information about proxy configuration from Envoy")

PodName = Annotated[
    str, typer.Argument(metavar="[[TYPE/]NAME[.NAMESPACE]]", help="waypoint pod to ask", show_default=False)
]
Output = Annotated[str, typer.Option("--output", "-o", help="one of short, json, yaml")]
File = Annotated[str, typer.Option("--file", "-f", help="read a configuration dump from this file (- is stdin)")]
AdminPort = Annotated[int, typer.Option("--proxy-admin-port", help="Envoy's admin port, where it has one")]
Port = Annotated[int, typer.Option("--port", help="only those on this port")]


def _dump(pod: str, file: str, port: int, namespace: str, kubeconfig: str | None, context: str | None) -> EnvoyDump:
    if bool(pod) == bool(file):
        console.fail("name a pod as NAME.NAMESPACE, or give --file, but not both")
    if file:
        try:
            return parse(console.read(file))
        except EnvoyDumpError as error:
            console.fail(f"--file {file}: {error}")
    where = namespace or default_namespace(kubeconfig, context)
    return console.run(_from_pod(console.client(kubeconfig, context), pod, where, port))


async def _from_pod(client: Client, reference: str, namespace: str, port: int) -> EnvoyDump:
    async with client:
        return parse(await request(client, await _pod(client, reference, namespace, "all"), port, CONFIG_DUMP))


async def _pod(client: Client, reference: str, namespace: str, instead: str) -> Pod:
    """The proxy that is asked. Raises CommandError."""
    found = await pods.find(client, reference, namespace)
    if not found:
        raise CommandError(f"{reference!r} in namespace {namespace} has no running pod")
    if found[0].metadata.labels.get("app") == "ztunnel":
        name = found[0].metadata.name
        raise CommandError(f"pod {name} is a ztunnel, which has istioctl ztunnel-config {instead} {name} for this")
    return found[0]


def _show(section: str, dump: EnvoyDump, wanted: Filter, output: str) -> None:
    if output == "short":
        console.say(SECTIONS[section].table(dump, wanted, datetime.now(UTC)))
    else:
        console.say(console.structured(list(SECTIONS[section].resources(dump, wanted)), output))


@cobra.command(app, "listener", "listeners", "l")
def listener(
    pod: PodName = "",
    name: Annotated[str, typer.Option("--name", help="only the one of this name")] = "",
    port: Port = 0,
    output: Output = "short",
    file: File = "",
    admin: AdminPort = ADMIN_PORT,
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Retrieve listeners."""
    console.one_of("--output", output, _OUTPUTS)
    wanted = Filter(name, str(port or ""))
    _show("listener", _dump(pod, file, admin, namespace, kubeconfig, context), wanted, output)


@cobra.command(app, "cluster", "clusters", "c")
def cluster(
    pod: PodName = "",
    fqdn: Annotated[str, typer.Option("--fqdn", help="only those of this host")] = "",
    port: Port = 0,
    output: Output = "short",
    file: File = "",
    admin: AdminPort = ADMIN_PORT,
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Retrieve clusters."""
    console.one_of("--output", output, _OUTPUTS)
    wanted = Filter(fqdn, str(port or ""))
    _show("cluster", _dump(pod, file, admin, namespace, kubeconfig, context), wanted, output)


@cobra.command(app, "route", "routes", "r")
def route(
    pod: PodName = "",
    name: Annotated[str, typer.Option("--name", help="only the configuration of this name")] = "",
    output: Output = "short",
    file: File = "",
    admin: AdminPort = ADMIN_PORT,
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Retrieve routes."""
    console.one_of("--output", output, _OUTPUTS)
    _show("route", _dump(pod, file, admin, namespace, kubeconfig, context), Filter(name), output)


@cobra.command(app, "endpoint", "endpoints", "ep")
def endpoint(
    pod: PodName = "",
    cluster_name: Annotated[str, typer.Option("--cluster", help="only those of this cluster")] = "",
    output: Output = "short",
    file: File = "",
    admin: AdminPort = ADMIN_PORT,
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Retrieve endpoints."""
    console.one_of("--output", output, _OUTPUTS)
    _show("endpoint", _dump(pod, file, admin, namespace, kubeconfig, context), Filter(cluster_name), output)


@cobra.command(app, "secret", "secrets", "s")
def secret(
    pod: PodName = "",
    output: Output = "short",
    file: File = "",
    admin: AdminPort = ADMIN_PORT,
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Retrieve certificates. Private keys are not in the dump."""
    console.one_of("--output", output, _OUTPUTS)
    _show("secret", _dump(pod, file, admin, namespace, kubeconfig, context), Filter(), output)


@cobra.command(app, "ecds", "ec")
def ecds(
    pod: PodName = "",
    output: Output = "short",
    file: File = "",
    admin: AdminPort = ADMIN_PORT,
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Retrieve extensions that are configured by themselves: filters of policies and tokens."""
    console.one_of("--output", output, _OUTPUTS)
    _show("ecds", _dump(pod, file, admin, namespace, kubeconfig, context), Filter(), output)


@cobra.command(app, "bootstrap", "b")
def bootstrap(
    pod: PodName = "",
    output: Output = "json",
    file: File = "",
    admin: AdminPort = ADMIN_PORT,
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Retrieve what the proxy was started with."""
    console.one_of("--output", output, _OUTPUTS)
    dump = _dump(pod, file, admin, namespace, kubeconfig, context)
    if not dump.bootstrap:
        console.fail("the configuration dump holds no bootstrap")
    console.say(versions(dump) if output == "short" else console.structured({"bootstrap": dump.bootstrap}, output))


@cobra.command(app, "log", "o")
def log(
    pod: PodName = "",
    level: Annotated[str, typer.Option("--level", help="[LOGGER:]LEVEL,... to set")] = "",
    reset: Annotated[bool, typer.Option("--reset", "-r", help="set the default level (warning) again")] = False,
    output: Annotated[str, typer.Option("--output", "-o", help="short, which is all there is")] = "short",
    admin: AdminPort = ADMIN_PORT,
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show, and change, the log levels of a proxy."""
    if output != "short":
        console.fail(f"--output {output!r} is not applicable for this command: its answer is Envoy's own text")
    try:
        paths = log_paths(level, reset)
    except CommandError as error:
        console.fail(str(error))
    if not pod:
        console.fail("name a pod as NAME.NAMESPACE")
    where = namespace or default_namespace(kubeconfig, context)
    console.say(console.run(_log(console.client(kubeconfig, context), pod, where, admin, paths)))


def log_paths(level: str, reset: bool) -> tuple[str, ...]:
    """The requests that set log levels; the last one's answer shows them all. Raises CommandError."""
    if reset and level:
        raise CommandError("--level cannot be combined with --reset")
    wanted = "warning" if reset else level
    if not wanted:
        return ("/logging",)
    return tuple(f"/logging?{_logger_level(one)}" for one in wanted.split(","))


def _logger_level(given: str) -> str:
    logger, _, level = given.replace(":", "=").rpartition("=")
    if level not in _LEVELS:
        raise CommandError(f"--level: found {given!r}; accepted is [LOGGER:]LEVEL of {', '.join(_LEVELS)}")
    return f"{logger or 'level'}={level}"


async def _log(client: Client, reference: str, namespace: str, port: int, paths: Sequence[str]) -> str:
    async with client:
        found = await _pod(client, reference, namespace, "log")
        answers = [await request(client, found, port, path, "POST") for path in paths]
        return f"{found.metadata.name}.{found.metadata.namespace}:\n{answers[-1].decode().rstrip()}"


@cobra.command(app, "all", "a")
def all_(
    pod: PodName = "",
    output: Output = "short",
    file: File = "",
    admin: AdminPort = ADMIN_PORT,
    namespace: Namespace = "",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Retrieve everything."""
    console.one_of("--output", output, _OUTPUTS)
    dump = _dump(pod, file, admin, namespace, kubeconfig, context)
    if output == "short":
        tables = (section.table(dump, Filter(), datetime.now(UTC)) for section in SECTIONS.values())
        console.say("\n\n".join(tables))
    else:
        console.say(console.structured(dump.raw, output))
