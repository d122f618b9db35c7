"""What istioctl's tables need of an Envoy's configuration dump, taken out of its JSON.

A dump holds protobuf messages of any version as JSON; only the fields that are shown are read, and whatever is not understood is shown as
it is named rather than left out.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography import x509

from tulle.cli.console import CommandError

Raw = Mapping[str, Any]


class EnvoyDumpError(CommandError):
    """A document that is no configuration dump of an Envoy."""


@dataclass(frozen=True)
class EnvoyDump:
    """The resources of each type as they stand: lists of the resources' own JSON. Secrets keep their status beside them."""

    listeners: tuple[Raw, ...]
    clusters: tuple[Raw, ...]
    routes: tuple[Raw, ...]
    endpoints: tuple[Raw, ...]
    secrets: tuple[Raw, ...]
    extensions: tuple[Raw, ...]
    bootstrap: Raw
    raw: Raw


def parse(data: bytes | str) -> EnvoyDump:
    """Read a dump. Raises EnvoyDumpError."""
    try:
        raw = json.loads(data)
        parts = {one["@type"].rpartition(".")[2]: one for one in raw["configs"]}
    except (ValueError, KeyError, TypeError) as error:
        raise EnvoyDumpError(f"this is no configuration dump of an Envoy: {error!r}") from error
    return EnvoyDump(
        tuple(_listeners(parts.get("ListenersConfigDump", {}))),
        _all(parts.get("ClustersConfigDump", {}), "cluster", ("static_clusters", "dynamic_active_clusters")),
        _all(parts.get("RoutesConfigDump", {}), "route_config", ("static_route_configs", "dynamic_route_configs")),
        _all(
            parts.get("EndpointsConfigDump", {}),
            "endpoint_config",
            ("static_endpoint_configs", "dynamic_endpoint_configs"),
        ),
        tuple(_secrets(parts.get("SecretsConfigDump", {}))),
        _all(parts.get("EcdsConfigDump", {}), "ecds_filter", ("ecds_filters",)),
        parts.get("BootstrapConfigDump", {}).get("bootstrap", {}),
        raw,
    )


def _all(part: Raw, key: str, lists: Iterable[str]) -> tuple[Raw, ...]:
    return tuple(entry[key] for name in lists for entry in part.get(name, ()) if key in entry)


def _listeners(part: Raw) -> Iterator[Raw]:
    yield from _all(part, "listener", ("static_listeners",))
    for entry in part.get("dynamic_listeners", ()):
        if "active_state" in entry:
            yield entry["active_state"]["listener"]


def _secrets(part: Raw) -> Iterator[Raw]:
    for status in ("active", "warming"):
        for entry in part.get(f"dynamic_{status}_secrets", ()):
            yield {**entry, "status": status.upper()}


def address(raw: Raw) -> tuple[str, str]:
    """Host and port of an address; a path or an internal listener has no port."""
    if "socket_address" in raw:
        found = raw["socket_address"]
        return str(found.get("address", "")), str(found.get("port_value", found.get("named_port", "0")))
    if "pipe" in raw:
        return str(raw["pipe"].get("path", "")), ""
    internal = raw.get("envoy_internal_address", {})
    listener, endpoint = internal.get("server_listener_name", ""), internal.get("endpoint_id", "")
    return f"envoy://{listener}/{endpoint}", ""


def joined(host: str, port: str) -> str:
    """`host:port`, or the host alone where there is no port."""
    if not port:
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def certificates(secret: Raw) -> tuple[x509.Certificate, ...]:
    """The certificates of a secret: its own chain, or those it trusts. Raises EnvoyDumpError."""
    held = secret.get("secret", {})
    source = held.get("tls_certificate", {}).get("certificate_chain") or held.get("validation_context", {}).get(
        "trusted_ca", {}
    )
    try:
        pem = base64.b64decode(source.get("inline_bytes", "")) or source.get("inline_string", "").encode()
        return tuple(x509.load_pem_x509_certificates(pem)) if pem else ()
    except ValueError as error:
        raise EnvoyDumpError(f"secret {secret.get('name')}: no certificate can be read from it: {error}") from error
