"""The filter chains of the listener where a waypoint sees what is inside the tunnels: one or two for each port of a target.

A port declared HTTP has one that reads requests, a port declared TCP one that passes bytes on. A port that declares nothing has both,
and the first bytes of each connection choose. In both, policies come in the order of spec C4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoy.config.core.v3 import extension_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from envoy.extensions.filters.http.jwt_authn.v3 import config_pb2 as jwt_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2
from google.protobuf.message import Message

from tulle.envoy import network
from tulle.envoy.wire import extension, from_ads, pack, seconds
from tulle.istiod.waypoint_config import authorizers, logs, names, rbac
from tulle.istiod.waypoint_config.view import ANY_PORT, PortView, TargetView, WaypointConfigView

_HTTP = ("http/1.0", "http/1.1", "h2c")
"""What the first bytes of a connection are called when they are HTTP."""
_NORMALIZATION: Mapping[str, Mapping[str, Any]] = {
    "NONE": {},
    "BASE": {"normalize_path": {"value": True}},
    "MERGE_SLASHES": {"normalize_path": {"value": True}, "merge_slashes": True},
    "DECODE_AND_MERGE_SLASHES": {
        "normalize_path": {"value": True},
        "merge_slashes": True,
        "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD",
    },
}
"""The mesh's path normalisation (spec C3) as connection manager options; applied before matching and forwarded."""
_ENVOY_HEADERS = "x-envoy-"
"""Headers that Envoy itself would believe (how often to retry, what the path was); no client may set them (CVE-2023-27487)."""


def of_port(view: WaypointConfigView, target: TargetView, port: PortView) -> list[listener_components_pb2.FilterChain]:
    """The chains for connections to one port of a target."""
    name = names.target_port(target, port.port)
    made = []
    if port.protocol != "TCP":
        chain = _chain(name if port.protocol == "HTTP" else f"{name}|http", target, port)
        chain.filters.append(_http_manager(view, target, name))
        if port.protocol == "AUTO":
            chain.filter_chain_match.application_protocols.extend(_HTTP)
        made.append(chain)
    if port.protocol != "HTTP":
        chain = _chain(name if port.protocol == "TCP" else f"{name}|tcp", target, port)
        chain.filters.extend(_opaque(view, target, name))
        made.append(chain)
    return made


def _chain(name: str, target: TargetView, port: PortView) -> listener_components_pb2.FilterChain:
    chain = listener_components_pb2.FilterChain(name=name)
    if port.port != ANY_PORT:
        chain.filter_chain_match.destination_port.value = port.port
    for address in target.addresses:
        prefix = chain.filter_chain_match.prefix_ranges.add(address_prefix=address)
        prefix.prefix_len.value = 128 if ":" in address else 32
    return chain


def _http_manager(view: WaypointConfigView, target: TargetView, routes: str) -> listener_components_pb2.Filter:
    manager = hcm_pb2.HttpConnectionManager(
        stat_prefix=names.MAIN_INTERNAL,
        codec_type="AUTO",
        http_filters=_filters(target),
        internal_address_config=hcm_pb2.HttpConnectionManager.InternalAddressConfig(),
        skip_xff_append=True,
        server_header_transformation="PASS_THROUGH",
        stream_idle_timeout=seconds(0),
        access_log=[logs.of_requests(target)],
        **_NORMALIZATION[view.path_normalization],
    )
    manager.rds.route_config_name = routes
    manager.rds.config_source.CopyFrom(from_ads())
    manager.use_remote_address.value = False
    manager.http_protocol_options.accept_http_10 = True
    manager.upgrade_configs.add(upgrade_type="websocket")
    manager.early_header_mutation_extensions.append(_without_envoy_headers())
    return listener_components_pb2.Filter(
        name="envoy.filters.network.http_connection_manager", typed_config=pack(manager)
    )


def _without_envoy_headers() -> extension_pb2.TypedExtensionConfig:
    config = header_mutation_pb2.HeaderMutation()
    matcher = config.mutations.add().remove_on_match.key_matcher
    matcher.prefix = _ENVOY_HEADERS
    return extension("envoy.http.early_header_mutation.header_mutation", config)


def _filters(target: TargetView) -> list[hcm_pb2.HttpFilter]:
    """CUSTOM, tokens, AUDIT, DENY, ALLOW, and on (spec C4).

    What is not in the routes comes as extension resources, for the same reason: to change it must not drain the listener.
    """
    return [
        _policies(names.CUSTOM_FILTER),
        _discovered(names.custom(target), http_rbac_pb2.RBAC(), ext_authz_pb2.ExtAuthz()),
        _discovered(names.tokens(target), jwt_pb2.JwtAuthentication()),
        _policies(names.AUDIT_FILTER),
        _policies(names.DENY_FILTER),
        _policies(names.ALLOW_FILTER),
        hcm_pb2.HttpFilter(
            name="envoy.filters.http.router", typed_config=pack(router_pb2.Router(suppress_envoy_headers=True))
        ),
    ]


def _policies(name: str) -> hcm_pb2.HttpFilter:
    """A filter that a request passes through only if its route has policies for it."""
    return hcm_pb2.HttpFilter(name=name, typed_config=pack(http_rbac_pb2.RBAC()), disabled=True)


def _discovered(name: str, *kinds: Message) -> hcm_pb2.HttpFilter:
    """A filter whose configuration comes by name; until it has come, the listener does not serve."""
    made = hcm_pb2.HttpFilter(name=name)
    made.config_discovery.config_source.CopyFrom(from_ads())
    made.config_discovery.type_urls.extend(pack(kind).type_url for kind in kinds)
    return made


def _opaque(view: WaypointConfigView, target: TargetView, cluster: str) -> list[listener_components_pb2.Filter]:
    rules = target.rules
    asked = authorizers.of_connections(view, rules)
    filters = []
    for config in rbac.of_connections(rules.tcp, deny_custom=asked is None):
        filters.append(_network(names.TCP_RBAC, config))
        if asked is not None and config.shadow_rules_stat_prefix == names.CUSTOM_PREFIX:
            filters.append(_network("envoy.filters.network.ext_authz", asked))
    filters.append(network.tcp_proxy(cluster, stat_prefix=names.MAIN_INTERNAL, logs=[logs.of_connections(target)]))
    return filters


def _network(name: str, config: Message) -> listener_components_pb2.Filter:
    return listener_components_pb2.Filter(name=name, typed_config=pack(config))
