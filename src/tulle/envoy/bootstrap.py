"""What Envoy is told at start: who it is, where its configuration comes from, and which runtime guards are set.

Everything else reaches it by xDS from the process that started it, so a bootstrap never changes while Envoy runs.  The result is
a plain dict in protobuf's JSON form (envoy.config.bootstrap.v3.Bootstrap), ready for `EnvoyProcess`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ADS_CLUSTER = "tulle-ads"
_TYPE = "type.googleapis.com/"
_UPSTREAM_TLS = _TYPE + "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
_HTTP_OPTIONS = _TYPE + "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_INTERNAL_LISTENER = _TYPE + "envoy.extensions.bootstrap.internal_listener.v3.InternalListener"


@dataclass(frozen=True)
class UnixSocket:
    """A stream socket in the file system; the address of a local xDS server or of the admin interface."""

    path: str

    def address(self) -> dict[str, Any]:
        return {"pipe": {"path": self.path, "mode": 0o600}}


@dataclass(frozen=True)
class TcpSocket:
    """A TCP address; for the admin interface only a loopback address is sensible."""

    host: str
    port: int

    def address(self) -> dict[str, Any]:
        return {"socket_address": {"address": self.host, "port_value": self.port}}


@dataclass(frozen=True)
class TlsServer:
    """An xDS server reached over TLS: verified against `ca_path` and the exact DNS name `server_name`."""

    host: str
    port: int
    ca_path: str
    server_name: str


@dataclass(frozen=True)
class NodeInfo:
    """Envoy's node: `id` and `cluster` appear in logs and xDS requests, `metadata` travels with the first request."""

    id: str
    cluster: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


def bootstrap(
    node: NodeInfo,
    *,
    xds: UnixSocket | TlsServer,
    admin: UnixSocket | TcpSocket,
    runtime: Mapping[str, Any] | None = None,
    static_clusters: Sequence[Mapping[str, Any]] = (),
    static_listeners: Sequence[Mapping[str, Any]] = (),
    keep_statistics: Sequence[str] = (),
) -> dict[str, Any]:
    """The bootstrap of an Envoy that takes listeners, clusters, routes, endpoints and secrets from one delta ADS stream.

    runtime: runtime keys and feature guards of the only layer, e.g. {"envoy.reloadable_features.x": False}.
    keep_statistics: prefixes of the statistics to keep; every other statistic is never created, which saves most of the memory
    that a cluster costs.  Empty keeps all.
    """
    result: dict[str, Any] = {
        "node": {"id": node.id, "cluster": node.cluster, "metadata": dict(node.metadata)},
        "admin": {"address": admin.address()},
        "dynamic_resources": {
            "ads_config": {
                "api_type": "DELTA_GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": ADS_CLUSTER}, "timeout": "0s"}],
                "set_node_on_first_message_only": True,
            },
            "lds_config": ads_source(),
            "cds_config": ads_source(),
        },
        "static_resources": {"clusters": [xds_cluster(ADS_CLUSTER, xds), *map(dict, static_clusters)]},
        "bootstrap_extensions": [
            {"name": "envoy.bootstrap.internal_listener", "typed_config": {"@type": _INTERNAL_LISTENER}}
        ],
        "layered_runtime": {"layers": [{"name": "static", "static_layer": dict(runtime or {})}]},
    }
    if static_listeners:
        result["static_resources"]["listeners"] = list(map(dict, static_listeners))
    if keep_statistics:
        patterns = [{"prefix": prefix} for prefix in keep_statistics]
        result["stats_config"] = {"stats_matcher": {"inclusion_list": {"patterns": patterns}}}
    return result


def ads_source() -> dict[str, Any]:
    """The ConfigSource "the ADS stream of the bootstrap", in JSON form."""
    return {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}


def xds_cluster(name: str, server: UnixSocket | TlsServer) -> dict[str, Any]:
    """A static HTTP/2 cluster for a gRPC xDS server, in JSON form."""
    if isinstance(server, UnixSocket):
        address: dict[str, Any] = {"pipe": {"path": server.path}}
        kind = "STATIC"
    else:
        address = {"socket_address": {"address": server.host, "port_value": server.port}}
        kind = "STRICT_DNS"
    keepalive = {"interval": "30s", "timeout": "10s"}
    cluster: dict[str, Any] = {
        "name": name,
        "type": kind,
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _HTTP_OPTIONS,
                "explicit_http_config": {"http2_protocol_options": {"connection_keepalive": keepalive}},
            }
        },
    }
    if isinstance(server, TlsServer):
        cluster["transport_socket"] = {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": _UPSTREAM_TLS,
                "sni": server.server_name,
                "common_tls_context": {
                    "alpn_protocols": ["h2"],
                    "validation_context": {
                        "trusted_ca": {"filename": server.ca_path},
                        "match_typed_subject_alt_names": [
                            {"san_type": "DNS", "matcher": {"exact": server.server_name}}
                        ],
                    },
                },
            },
        }
    return cluster
