"""`istioctl proxy-status`: how far every proxy is with what istiod sent it, and one of them compared with it (spec F)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
import typer

from tulle.cli import console, envoy_admin, pods, proxy_diff
from tulle.cli.console import CommandError
from tulle.cli.options import Context, IstioNamespace, Kubeconfig, Namespace
from tulle.cli.portforward import PodPort, http_request
from tulle.kube.client import Client
from tulle.kube.resources import PODS

MONITORING_PORT = 15014
ADMIN_PORT = 15000
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


def parse(page: bytes, istiod: str) -> tuple[Proxy, ...]:
    """Read `/debug/syncz` of an istiod. Raises CommandError."""
    try:
        return tuple(_proxy(one, istiod) for one in msgspec.json.decode(page, type=list[dict[str, Any]]))
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError) as error:
        raise CommandError(f"/debug/syncz of istiod {istiod} is not understood: {error!r}") from error


def _proxy(document: Mapping[str, Any], istiod: str) -> Proxy:
    states = {_short(type_url): _status(one) for type_url, one in document["resources"].items()}
    order = [*_ORDER, *sorted(states.keys() - set(_ORDER))]
    return Proxy(
        document["proxy"],
        document.get("cluster_id", ""),
        istiod,
        document.get("istio_version", ""),
        {name: states[name] for name in order if name in states},
    )


def _status(resource: Mapping[str, str]) -> str:
    if resource.get("lastError"):
        return "ERROR"
    sent = resource.get("sent")
    if not sent:
        return "NOT_SENT"
    return "SYNCED" if resource.get("acked") == sent else "STALE"


def _short(type_url: str) -> str:
    full = type_url.rpartition("/")[2]
    return SHORT_NAMES.get(full, full)


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
    """Retrieve the synchronization status of each proxy in the mesh, or the difference between one and istiod."""
    console.one_of("--output", output, ("table", "json", "yaml"))
    pages = console.run(_pages(console.client(kubeconfig, context), istio_namespace))
    try:
        proxies = [proxy for istiod, page in pages.items() for proxy in parse(page, istiod)]
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
        for proxy in filter(_is_envoy, chosen if pod else ()):
            found = console.run(_difference(console.client(kubeconfig, context), istio_namespace, proxy))
            console.say(f"\n{found}")
        return
    names = {one.name for one in chosen}
    documents = [
        {"pilot": istiod, **one}
        for istiod, page in pages.items()
        for one in msgspec.json.decode(page)
        if one["proxy"] in names
    ]
    console.say(console.structured(documents, output))


def _wanted(name: str, pod: str, namespace: str) -> bool:
    if pod:
        return name == pod or name.partition(".")[0] == pod
    return not namespace or name.rpartition(".")[2] == namespace


def _is_envoy(proxy: Proxy) -> bool:
    """Whether it takes its configuration from istiod as Envoy's own; ztunnel makes it of what it is told of the mesh."""
    return "CDS" in proxy.types


async def _difference(client: Client, namespace: str, proxy: Proxy) -> str:
    """What the proxy's istiod means it to have, compared with what its Envoy has."""
    async with client:
        istiod = PodPort(namespace, proxy.istiod, MONITORING_PORT)
        meant = await http_request(client, istiod, f"/debug/config_dump?proxyID={quote(proxy.name)}")
        pod, _, where = proxy.name.rpartition(".")
        had = await envoy_admin.request(client, await client.get(PODS, pod, where), ADMIN_PORT, "/config_dump")
        return proxy_diff.compare(meant, had)


async def _pages(client: Client, namespace: str) -> dict[str, bytes]:
    """What each istiod says, by its pod's name."""
    async with client:
        found = await pods.labelled(client, ISTIOD, namespace)
        if not found:
            raise CommandError(f"no istiod pod runs in namespace {namespace}; -i names another namespace")
        names = [pod.metadata.name for pod in found]
        return {
            name: await http_request(client, PodPort(namespace, name, MONITORING_PORT), "/debug/syncz")
            for name in names
        }
