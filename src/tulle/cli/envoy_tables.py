"""The tables of `istioctl proxy-config`: an Envoy's dump in, text out (spec F)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from tulle.cli import console
from tulle.cli.envoy_dump import EnvoyDump, Raw, address, certificates, joined
from tulle.cli.ztunnel_tables import zulu

_HTTP = "envoy.filters.network.http_connection_manager"
_TCP = "envoy.filters.network.tcp_proxy"
_DNS = "envoy.cluster.dns"


@dataclass(frozen=True)
class Filter:
    """What to show; an empty field lets everything pass. `name` is the resource's own, or the host in a cluster's name."""

    name: str = ""
    port: str = ""


@dataclass(frozen=True)
class Section:
    """One type of resource: which of them a filter leaves, and their table."""

    resources: Callable[[EnvoyDump, Filter], Sequence[Raw]]
    header: Sequence[str]
    rows: Callable[[Raw, datetime], Iterable[Sequence[str]]]

    def table(self, dump: EnvoyDump, wanted: Filter, now: datetime) -> str:
        """The resources that the filter leaves, as a table."""
        found = sorted(self.resources(dump, wanted), key=lambda raw: str(raw.get("name") or raw.get("cluster_name")))
        # Within a resource the order is kept: of routes and filter chains the first that matches counts.
        return console.table(self.header, [row for raw in found for row in self.rows(raw, now)])


# Listeners


def _listener_rows(listener: Raw, _now: datetime) -> Iterator[Sequence[str]]:
    host, port = address(listener.get("address", {}))
    internal = "internal_listener" in listener
    default = listener.get("default_filter_chain")
    for chain in (*listener.get("filter_chains", ()), *((default,) if default else ())):
        match = chain_match(chain.get("filter_chain_match", {}))
        yield (
            listener.get("name", ""),
            "internal" if internal else host,
            "-" if internal else port,
            match,
            _target(chain),
        )


def chain_match(match: Raw) -> str:
    """The conditions of a filter chain in words; ALL if it has none."""
    ranges = ",".join(_range(one) for one in match.get("prefix_ranges", ()))
    port = match.get("destination_port")
    parts = {
        "Trans": match.get("transport_protocol", ""),
        "App": ",".join(match.get("application_protocols", ())),
        "SNI": ",".join(match.get("server_names", ())),
        "Addr": joined(ranges or "*", "" if port is None else str(port)) if ranges or port is not None else "",
    }
    return "; ".join(f"{key}: {value}" for key, value in parts.items() if value) or "ALL"


def _range(one: Raw) -> str:
    prefix, length = str(one.get("address_prefix", "")), one.get("prefix_len", 0)
    whole = 128 if ":" in prefix else 32
    return prefix if length == whole else f"{prefix}/{length}"


def _target(chain: Raw) -> str:
    for part in chain.get("filters", ()):
        config = part.get("typed_config", {})
        if part.get("name") == _HTTP:
            inline = config.get("route_config")
            return (
                f"Inline Route: {inline.get('name', '')}"
                if inline
                else f"Route: {config.get('rds', {}).get('route_config_name')}"
            )
        if part.get("name") == _TCP:
            clusters = [one["name"] for one in config.get("weighted_clusters", {}).get("clusters", ())]
            return f"Cluster: {','.join(clusters) or config.get('cluster', '')}"
    return "Non-HTTP/Non-TCP"


# Clusters


@dataclass(frozen=True)
class ClusterName:
    """What a cluster's name says. Istio's form is `direction|port|subset|host`; this mesh's is `Kind/namespace/name|port`."""

    host: str
    port: str = "-"
    subset: str = "-"
    direction: str = "-"


def cluster_name(name: str) -> ClusterName:
    """Read a cluster's name; one that follows no form stands for itself."""
    parts = name.split("|")
    if len(parts) == 4:
        direction, port, subset, host = parts
        return ClusterName(host, port, subset or "-", direction)
    if len(parts) == 2:
        return ClusterName(parts[0], parts[1])
    return ClusterName(name)


def _cluster_rows(cluster: Raw, _now: datetime) -> Iterator[Sequence[str]]:
    name = cluster_name(cluster.get("name", ""))
    rule = str(cluster.get("metadata", {}).get("filter_metadata", {}).get("istio", {}).get("config", ""))
    yield (name.host, name.port, name.subset, name.direction, cluster_kind(cluster), _rule(rule))


def cluster_kind(cluster: Raw) -> str:
    """How a cluster finds its endpoints. Those that look names up have one form by now, and still the two names of before."""
    made = cluster.get("cluster_type", {})
    if made.get("name") == _DNS:
        logical = made.get("typed_config", {}).get("all_addresses_in_single_endpoint", False)
        return "LOGICAL_DNS" if logical else "STRICT_DNS"
    return str(cluster.get("type") or made.get("name") or "STATIC")


def _rule(path: str) -> str:
    """`name.namespace` of the object that a resource was made from, given by its API path."""
    parts = path.split("/")
    return f"{parts[-1]}.{parts[-3]}" if len(parts) > 3 else ""


# Routes


def _route_rows(configuration: Raw, _now: datetime) -> Iterator[Sequence[str]]:
    for host in configuration.get("virtual_hosts", ()):
        domains = ", ".join(host.get("domains", ()))
        for route in _routes(host):
            owner = _rule(str(route.get("metadata", {}).get("filter_metadata", {}).get("istio", {}).get("config", "")))
            where = owner or str(route.get("direct_response", {}).get("status", ""))
            yield (
                configuration.get("name", ""),
                host.get("name", ""),
                domains,
                route_match(route.get("match", {})),
                where,
            )


def _routes(host: Raw) -> Iterator[Raw]:
    """The routes in their order; of a choice by client only the last resort, since the others differ in their policies alone."""
    yield from host.get("routes", ())
    last = host.get("matcher", {}).get("on_no_match", {}).get("action", {}).get("typed_config")
    if last:
        yield last


def route_match(match: Raw) -> str:
    """The path of a route, and that it looks at headers."""
    words: Mapping[str, Callable[[Raw], str]] = {
        "prefix": lambda m: f"{m['prefix'].removesuffix('/')}/*",
        "path": lambda m: str(m["path"]),
        "path_separated_prefix": lambda m: f"{m['path_separated_prefix']}*",
        "safe_regex": lambda m: f"regex {m['safe_regex'].get('regex', '')}",
        "connect_matcher": lambda _m: "CONNECT",
    }
    path = next((word(match) for key, word in words.items() if key in match), "*")
    return f"{path} (headers)" if match.get("headers") else path


# Endpoints


def _endpoint_rows(assignment: Raw, _now: datetime) -> Iterator[Sequence[str]]:
    for locality in assignment.get("endpoints", ()):
        for one in locality.get("lb_endpoints", ()):
            where = joined(*address(one.get("endpoint", {}).get("address", {})))
            status = one.get("health_status", "UNKNOWN")
            yield (where, status, "OK", assignment.get("cluster_name", ""))


# Secrets


def _secret_rows(secret: Raw, now: datetime) -> Iterator[Sequence[str]]:
    name, status = secret.get("name", ""), secret.get("status", "")
    trusted = "validation_context" in secret.get("secret", {})
    found = certificates(secret)
    if not found:
        yield (name, "", status, "false", "", "", "")
    for certificate in found if trusted else found[:1]:
        yield (name, "CA" if trusted else "Cert Chain", status, *_certificate_cells(certificate, now))


def _certificate_cells(one: x509.Certificate, now: datetime) -> Sequence[str]:
    valid = one.not_valid_before_utc <= now < one.not_valid_after_utc
    times = (one.not_valid_after_utc, one.not_valid_before_utc)
    return (str(valid).lower(), f"{one.serial_number:x}", *map(zulu, times))


# Extensions


def _extension_rows(extension: Raw, _now: datetime) -> Iterator[Sequence[str]]:
    kind = str(extension.get("typed_config", {}).get("@type", ""))
    yield (extension.get("name", ""), kind.rpartition("/")[2])


def versions(dump: EnvoyDump) -> str:
    """Which proxy it is, from what it was started with."""
    node = dump.bootstrap.get("node", {})
    number = node.get("user_agent_build_version", {}).get("version", {})
    build = ".".join(str(number.get(part, 0)) for part in ("major_number", "minor_number", "patch"))
    rows = (
        ("Node:", str(node.get("id", ""))),
        ("Istio Version:", str(node.get("metadata", {}).get("ISTIO_VERSION", ""))),
        ("Envoy Version:", build),
    )
    return "\n".join(f"{what:<15}{value or 'unknown'}" for what, value in rows)


def _pass(wanted: str, found: str) -> bool:
    return not wanted or wanted == found


def _clusters(dump: EnvoyDump, wanted: Filter) -> Sequence[Raw]:
    def passes(raw: Raw) -> bool:
        name = cluster_name(raw.get("name", ""))
        named = not wanted.name or wanted.name in (name.host, raw.get("name"))
        return named and _pass(wanted.port, name.port)

    return [one for one in dump.clusters if passes(one)]


def _listeners(dump: EnvoyDump, wanted: Filter) -> Sequence[Raw]:
    return [
        one
        for one in dump.listeners
        if _pass(wanted.name, one.get("name", "")) and _pass(wanted.port, address(one.get("address", {}))[1])
    ]


def _named(resources: Sequence[Raw], key: str, wanted: Filter) -> Sequence[Raw]:
    return [one for one in resources if _pass(wanted.name, one.get(key, ""))]


SECTIONS: Mapping[str, Section] = {
    "cluster": Section(
        _clusters, ["SERVICE FQDN", "PORT", "SUBSET", "DIRECTION", "TYPE", "DESTINATION RULE"], _cluster_rows
    ),
    "listener": Section(_listeners, ["NAME", "ADDRESSES", "PORT", "MATCH", "DESTINATION"], _listener_rows),
    "route": Section(
        lambda dump, wanted: _named(dump.routes, "name", wanted),
        ["NAME", "VHOST NAME", "DOMAINS", "MATCH", "VIRTUAL SERVICE"],
        _route_rows,
    ),
    "endpoint": Section(
        lambda dump, wanted: _named(dump.endpoints, "cluster_name", wanted),
        ["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"],
        _endpoint_rows,
    ),
    "secret": Section(
        lambda dump, wanted: _named(dump.secrets, "name", wanted),
        ["RESOURCE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"],
        _secret_rows,
    ),
    "ecds": Section(
        lambda dump, wanted: _named(dump.extensions, "name", wanted), ["ECDS NAME", "TYPE"], _extension_rows
    ),
}
"""Every type, in the order in which `all` shows them."""
