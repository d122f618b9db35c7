"""`istioctl proxy-status`: how far every proxy is with what istiod sent it (spec F)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import typer

from tulle.cli import console, pods
from tulle.cli.console import CommandError
from tulle.cli.options import Context, IstioNamespace, Kubeconfig, Namespace
from tulle.cli.portforward import PodPort, http_request
from tulle.kube.client import Client

MONITORING_PORT = 15014
ISTIOD = "app=istiod"
SHORT_NAMES: Mapping[str, str] = {
    "envoy.config.cluster.v3.Cluster": "CDS",
    "envoy.config.listener.v3.Listener": "LDS",
    "envoy.config.endpoint.v3.ClusterLoadAssignment": "EDS",
    "envoy.config.route.v3.RouteConfiguration": "RDS",
    "envoy.config.core.v3.TypedExtensionConfig": "ECDS",
    "envoy.extensions.transport_sockets.tls.v3.Secret": "SDS",
    "istio.security.Authorization": "WADS",
    "istio.workload.Address": "WDS",
    "istio.workload.Workload": "WDS",
}
"""What the types are called in the table."""
_ORDER = tuple(dict.fromkeys(SHORT_NAMES.values()))
"""The order in which the table names them."""


@dataclass(frozen=True)
class Proxy:
    """One proxy as one istiod sees it; `types` is short name -> status."""

    name: str
    cluster: str
    istiod: str
    version: str
    types: Mapping[str, str]


def parse(page: bytes) -> tuple[Proxy, ...]:
    """Read istiod's `/debug/syncz`. Raises CommandError."""
    try:
        document = msgspec.json.decode(page, type=dict[str, Any])
        istiod, version = document["controlPlane"]["id"], document["controlPlane"]["version"]
        return tuple(_proxy(one, istiod, version) for one in document["resources"])
    except (msgspec.DecodeError, KeyError, TypeError) as error:
        raise CommandError(f"istiod's /debug/syncz is not understood: {error!r}") from error


def _proxy(document: Mapping[str, Any], istiod: str, version: str) -> Proxy:
    node = document["node"]
    metadata = node.get("metadata") or {}
    states = {_short(one["typeUrl"]): one["configStatus"] for one in document.get("genericXdsConfigs") or ()}
    order = [*_ORDER, *sorted(states.keys() - set(_ORDER))]
    return Proxy(
        _name(node["id"]),
        metadata.get("CLUSTER_ID", ""),
        istiod,
        metadata.get("ISTIO_VERSION", version),
        {name: states[name] for name in order if name in states},
    )


def _short(type_url: str) -> str:
    full = type_url.rpartition("/")[2]
    return SHORT_NAMES.get(full, full)


def _name(node: str) -> str:
    """The pod in a node id `type~address~pod.namespace~domain`."""
    parts = node.split("~")
    return parts[2] if len(parts) == 4 else node


def table(proxies: Sequence[Proxy], *, verbose: bool) -> str:
    """One row per proxy: what it subscribes to, or with `verbose` the status of every type."""
    ordered = sorted(proxies, key=lambda one: (one.name, one.istiod))
    if not verbose:
        rows: Iterable[Sequence[str]] = (
            (one.name, one.cluster, one.istiod, one.version, f"{len(one.types)} ({','.join(one.types)})")
            for one in ordered
        )
        return console.table(["NAME", "CLUSTER", "ISTIOD", "VERSION", "SUBSCRIBED TYPES"], rows)
    present = [name for name in _ORDER if any(name in one.types for one in proxies)]
    rows = (
        (
            one.name,
            one.cluster,
            *(one.types.get(name, "IGNORED").replace("_", " ") for name in present),
            one.istiod,
            one.version,
        )
        for one in ordered
    )
    return console.table(["NAME", "CLUSTER", *present, "ISTIOD", "VERSION"], rows)


def show(
    pod: Annotated[str, typer.Argument(metavar="[POD[.NAMESPACE]]", help="only this proxy", show_default=False)] = "",
    verbosity: Annotated[int, typer.Option("--verbosity", "-v", help="0: subscribed types; 1: status of each")] = 0,
    output: Annotated[str, typer.Option("--output", "-o", help="one of table, json, yaml")] = "table",
    namespace: Namespace = "",
    istio_namespace: IstioNamespace = "istio-system",
    kubeconfig: Kubeconfig = None,
    context: Context = None,
) -> None:
    """Retrieve the synchronization status of each proxy in the mesh."""
    console.one_of("--output", output, ("table", "json", "yaml"))
    pages = console.run(_pages(console.client(kubeconfig, context), istio_namespace))
    try:
        proxies = [proxy for page in pages for proxy in parse(page)]
    except CommandError as error:
        console.fail(str(error))
    wanted = ".".join(pods.split(pod, namespace)).rstrip(".") if pod else ""
    chosen = [one for one in proxies if _wanted(one.name, wanted, "" if pod else namespace)]
    if pod and not chosen:
        console.fail(
            f"no proxy {pod!r} is connected to istiod; connected are {', '.join(sorted(p.name for p in proxies))}"
        )
    if output == "table":
        console.say(table(chosen, verbose=verbosity > 0))
        return
    names = {one.name for one in chosen}
    documents = [_only(msgspec.json.decode(page), names) for page in pages]
    console.say(console.structured(documents[0] if len(documents) == 1 else documents, output))


def _wanted(name: str, pod: str, namespace: str) -> bool:
    if pod:
        return name == pod or name.partition(".")[0] == pod
    return not namespace or name.rpartition(".")[2] == namespace


def _only(document: dict[str, Any], names: set[str]) -> dict[str, Any]:
    kept = [one for one in document["resources"] if _name(one["node"]["id"]) in names]
    return {**document, "resources": kept}


async def _pages(client: Client, namespace: str) -> tuple[bytes, ...]:
    async with client:
        found = await pods.labelled(client, ISTIOD, namespace)
        if not found:
            raise CommandError(f"no istiod pod runs in namespace {namespace}; -i names another namespace")
        targets = (PodPort(pod.metadata.namespace, pod.metadata.name, MONITORING_PORT) for pod in found)
        return tuple([await http_request(client, target, "/debug/syncz") for target in targets])
