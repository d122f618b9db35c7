"""`istioctl ztunnel-config`: what a node proxy was told, holds and carries (spec F).

What every node proxy knows alike (workloads, services, policies) comes from any of them; certificates and connections belong to one node,
so with several nodes one has to be named.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated
from urllib.parse import urlencode

import typer

from tulle.cli import cobra, console, pods
from tulle.cli.console import CommandError
from tulle.cli.options import Context, IstioNamespace, Kubeconfig, Namespace
from tulle.cli.portforward import PodPort, http_request
from tulle.cli.ztunnel_dump import Dump, parse
from tulle.cli.ztunnel_tables import SECTIONS, Filter, everything
from tulle.kube.client import Client
from tulle.kube.objects import Pod

ADMIN_PORT = 15000
ZTUNNEL = "app=ztunnel"
LEVELS = ("trace", "debug", "info", "warning", "warn", "error", "critical", "off")
_OUTPUTS = ("short", "json", "yaml")
_OF_ONE_NODE = frozenset({"certificate", "connections"})

app = typer.Typer(no_args_is_help=True, help="Update or retrieve current Ztunnel configuration.")

PodName = Annotated[str, typer.Argument(metavar="[POD[.NAMESPACE]]", help="ztunnel pod to ask", show_default=False)]
Output = Annotated[str, typer.Option("--output", "-o", help="one of short, json, yaml")]
Node = Annotated[str, typer.Option("--node", help="ask the ztunnel of this node")]
File = Annotated[str, typer.Option("--file", "-f", help="read a configuration dump from this file (- is stdin)")]
AdminPort = Annotated[int, typer.Option("--proxy-admin-port", help="ztunnel's admin port")]


class Source:
    """Where a command's dump comes from."""

    def __init__(
        self, pod: str, node: str, file: str, port: int, namespace: str, cluster: tuple[str | None, str | None]
    ) -> None:
        if sum(map(bool, (pod, node, file))) > 1:
            console.fail("at most one of --file, --node or a pod's name can be given")
        self._pod, self._node, self._file, self._port = pod, node, file, port
        self._namespace = namespace
        self._cluster = cluster

    def dump(self, *, of_one_node: bool) -> Dump:
        """Read the dump. Ends the command when it cannot be had."""
        return console.run(self._dump(of_one_node))

    async def _dump(self, of_one_node: bool) -> Dump:
        if self._file:
            return parse(console.read(self._file))
        async with console.client(*self._cluster) as client:
            found = await self._pods(client)
            if of_one_node and len(found) > 1 and not self._pod:
                names = ", ".join(pod.metadata.name for pod in found)
                raise CommandError(
                    f"this differs from node to node: give --node or the name of a ztunnel pod ({names})"
                )
            return parse(await self._ask(client, found[0], "/config_dump"))

    async def _pods(self, client: Client) -> tuple[Pod, ...]:
        if self._pod:
            found = await pods.find(client, self._pod, self._namespace)
            others = [pod for pod in found if pod.metadata.labels.get("app") != "ztunnel"]
            if others:
                raise CommandError(f"pod {others[0].metadata.namespace}/{others[0].metadata.name} is no ztunnel pod")
        else:
            found = await pods.labelled(client, ZTUNNEL, self._namespace, self._node)
        if not found:
            where = f"namespace {self._namespace}" + (f" on node {self._node}" if self._node else "")
            raise CommandError(f"no ztunnel pod runs in {where}; -i names another namespace")
        return found

    async def _ask(self, client: Client, pod: Pod, path: str, method: str = "GET") -> bytes:
        target = PodPort(pod.metadata.namespace, pod.metadata.name, self._port)
        return await http_request(client, target, path, method)

    def logging(self, query: str) -> None:
        """Ask, or with a query set, the log levels of the pods, and print the answers."""
        console.run(self._logging(query))

    async def _logging(self, query: str) -> None:
        async with console.client(*self._cluster) as client:
            for pod in await self._pods(client):
                answer = await self._ask(client, pod, f"/logging{query}", "POST")
                console.say(f"{pod.metadata.name}.{pod.metadata.namespace}:\n{answer.decode().rstrip()}\n")


def _show(section: str, source: Source, output: str, wanted: Filter) -> None:
    console.one_of("--output", output, _OUTPUTS)
    dump = source.dump(of_one_node=section in _OF_ONE_NODE)
    if output == "short":
        console.say(SECTIONS[section].table(dump, wanted, datetime.now(UTC)))
    else:
        console.say(console.structured(SECTIONS[section].documents(dump, wanted), output))


def _source(
    pod: str, node: str, file: str, port: int, namespaces: tuple[str, str], kubeconfig: str | None, context: str | None
) -> Source:
    own, istio = namespaces
    return Source(pod, node, file, port, own or istio, (kubeconfig, context))


@cobra.command(app, "workload", "w", "workloads")
def workload(
    pod: PodName = "",
    address: Annotated[str, typer.Option("--address", help="only the workload with this address")] = "",
    workload_namespace: Annotated[str, typer.Option("--workload-namespace", help="only this namespace's")] = "",
    workload_node: Annotated[str, typer.Option("--workload-node", help="only this node's")] = "",
    output: Output = "short",
    node: Node = "",
    file: File = "",
    port: AdminPort = ADMIN_PORT,
    namespace: Namespace = "",
    istio_namespace: IstioNamespace = "istio-system",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Retrieve workload configuration."""
    source = _source(pod, node, file, port, (namespace, istio_namespace), kubeconfig, context)
    _show("workload", source, output, Filter(workload_namespace, workload_node, address))


@cobra.command(app, "service", "s", "svc", "services")
def service(
    pod: PodName = "",
    service_namespace: Annotated[str, typer.Option("--service-namespace", help="only this namespace's")] = "",
    output: Output = "short",
    node: Node = "",
    file: File = "",
    port: AdminPort = ADMIN_PORT,
    namespace: Namespace = "",
    istio_namespace: IstioNamespace = "istio-system",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Retrieve services."""
    source = _source(pod, node, file, port, (namespace, istio_namespace), kubeconfig, context)
    _show("service", source, output, Filter(service_namespace))


@cobra.command(app, "policy", "p", "pol", "policies")
def policy(
    pod: PodName = "",
    policy_namespace: Annotated[str, typer.Option("--policy-namespace", help="only this namespace's")] = "",
    output: Output = "short",
    node: Node = "",
    file: File = "",
    port: AdminPort = ADMIN_PORT,
    namespace: Namespace = "",
    istio_namespace: IstioNamespace = "istio-system",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Retrieve policies."""
    source = _source(pod, node, file, port, (namespace, istio_namespace), kubeconfig, context)
    _show("policy", source, output, Filter(policy_namespace))


@cobra.command(app, "certificate", "cert", "certs", "certificates")
def certificate(
    pod: PodName = "",
    output: Output = "short",
    node: Node = "",
    file: File = "",
    port: AdminPort = ADMIN_PORT,
    namespace: Namespace = "",
    istio_namespace: IstioNamespace = "istio-system",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Retrieve the certificates of a node's workloads."""
    source = _source(pod, node, file, port, (namespace, istio_namespace), kubeconfig, context)
    _show("certificate", source, output, Filter())


@cobra.command(app, "connections", "cons")
def connections(
    pod: PodName = "",
    direction: Annotated[str, typer.Option("--direction", help="only inbound or only outbound ones")] = "",
    raw: Annotated[bool, typer.Option("--raw", help="addresses instead of names")] = False,
    workload_namespace: Annotated[str, typer.Option("--workload-namespace", help="only this namespace's")] = "",
    output: Output = "short",
    node: Node = "",
    file: File = "",
    port: AdminPort = ADMIN_PORT,
    namespace: Namespace = "",
    istio_namespace: IstioNamespace = "istio-system",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Retrieve the open connections of a node's workloads."""
    console.one_of("--direction", direction.lower() or "inbound", ("inbound", "outbound"))
    source = _source(pod, node, file, port, (namespace, istio_namespace), kubeconfig, context)
    _show("connections", source, output, Filter(workload_namespace, direction=direction, raw=raw))


@cobra.command(app, "all")
def all_(
    pod: PodName = "",
    with_headers: Annotated[bool, typer.Option("--with-headers", help="a title over every table")] = False,
    output: Output = "short",
    node: Node = "",
    file: File = "",
    port: AdminPort = ADMIN_PORT,
    namespace: Namespace = "",
    istio_namespace: IstioNamespace = "istio-system",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Retrieve everything."""
    console.one_of("--output", output, _OUTPUTS)
    source = _source(pod, node, file, port, (namespace, istio_namespace), kubeconfig, context)
    dump = source.dump(of_one_node=False)
    if output == "short":
        console.say(everything(dump, datetime.now(UTC), headers=with_headers))
    else:
        console.say(console.structured(dump.raw, output))


def log_query(level: str, reset: bool) -> str:
    """The query that sets log levels: one level for all, or `logger:level` pairs. Raises CommandError."""
    if reset and level:
        raise CommandError("--level cannot be combined with --reset")
    if reset:
        return "?" + urlencode({"level": "info", "reset": ""})
    if not level:
        return ""
    return "?" + urlencode({"level": ",".join(map(_level, level.split(",")))}, safe=",=:")


def _level(given: str) -> str:
    """One part of --level. A logger's own name may hold `::`, which does not separate."""
    *logger, level = re.split(r"(?<!:)[:=](?!:)", given)
    if len(logger) > 1 or level not in LEVELS:
        raise CommandError(
            f"--level: unrecognized logging level {given!r}; accepted is [LOGGER:]LEVEL of {', '.join(LEVELS)}"
        )
    plain = {"warning": "warn", "critical": "error"}.get(level, level)
    return "=".join((*logger, plain))


@cobra.command(app, "log", "o")
def log(
    pod: PodName = "",
    level: Annotated[str, typer.Option("--level", help="[LOGGER:]LEVEL,... to set")] = "",
    reset: Annotated[bool, typer.Option("--reset", "-r", help="set the default level again")] = False,
    output: Annotated[str, typer.Option("--output", "-o", help="short, which is all there is")] = "short",
    node: Node = "",
    port: AdminPort = ADMIN_PORT,
    namespace: Namespace = "",
    istio_namespace: IstioNamespace = "istio-system",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Show, and change, the log levels of ztunnel pods (of all if none is named)."""
    if output != "short":
        console.fail(f"--output {output!r} is not applicable for this command: its answer is ztunnel's own text")
    try:
        query = log_query(level, reset)
    except CommandError as error:
        console.fail(str(error))
    _source(pod, node, "", port, (namespace, istio_namespace), kubeconfig, context).logging(query)
