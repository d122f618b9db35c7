"""The three listeners of a waypoint: HBONE in, the request in plain, HBONE out.

`connect_terminate` takes the tunnel off, and hands the client's SPIFFE URI, its address and the address it asked for to
`main_internal` as filter state. There a filter chain per target port reads HTTP (or passes opaque TCP), decides policy on that
identity, and picks an endpoint. `connect_originate` puts the tunnel on again, with the waypoint's identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import address_pb2, config_source_pb2, protocol_pb2, substitution_format_string_pb2
from envoy.config.listener.v3 import listener_components_pb2, listener_pb2
from envoy.config.rbac.v3 import rbac_pb2 as rbac_rules_pb2
from envoy.extensions.access_loggers.stream.v3 import stream_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2 as http_rbac_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2 as http_state_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.filters.network.rbac.v3 import rbac_pb2 as network_rbac_pb2
from envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2 as network_state_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from google.protobuf import duration_pb2, struct_pb2, wrappers_pb2
from google.protobuf.message import Message

from tulle.istiod.waypoint_config import names, tls
from tulle.istiod.waypoint_config.clusters import ENDPOINT_METADATA, HBONE_PORT, ORIGINAL_DST, http2_tunnel_options
from tulle.istiod.waypoint_config.pack import pack, parse
from tulle.istiod.waypoint_config.routes import ALLOW_FILTER, DENY_FILTER
from tulle.istiod.waypoint_config.view import PortView, TargetView, WaypointConfigView

_SAN_OVERRIDE = "envoy.network.upstream_subject_alt_names"
_LOCAL_IP = "envoy.filters.listener.original_dst.local_ip"
_REMOTE_IP = "envoy.filters.listener.original_dst.remote_ip"
_STRING = "envoy.string"
_NO_TIMEOUT = duration_pb2.Duration(seconds=0)
_MAX_STREAMS = 200
"""HTTP/2 streams that the server side advertises per tunnel connection (spec D8)."""
_ONCE = value_pb2.FilterStateValue.SharedWithUpstream.ONCE
_NOT_SHARED = value_pb2.FilterStateValue.SharedWithUpstream.NONE

_REQUEST_LOG: Mapping[str, str] = {
    "time": "%START_TIME%",
    "src.addr": "%DOWNSTREAM_REMOTE_ADDRESS%",
    "src.identity": f"%FILTER_STATE({names.PEER_PRINCIPAL}:PLAIN)%",
    "dst.addr": "%DOWNSTREAM_LOCAL_ADDRESS%",
    "dst.service": "%VIRTUAL_CLUSTER_NAME%",
    "method": "%REQ(:METHOD)%",
    "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
    "authority": "%REQ(:AUTHORITY)%",
    "protocol": "%PROTOCOL%",
    "response_code": "%RESPONSE_CODE%",
    "response_code_details": "%RESPONSE_CODE_DETAILS%",
    "response_flags": "%RESPONSE_FLAGS%",
    "upstream": "%UPSTREAM_CLUSTER%",
    "upstream_failure": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "bytes_recv": "%BYTES_RECEIVED%",
    "bytes_sent": "%BYTES_SENT%",
    "duration": "%DURATION%",
}

_NORMALIZATION: Mapping[str, Mapping[str, Any]] = {
    "NONE": {},
    "BASE": {"normalize_path": True},
    "MERGE_SLASHES": {"normalize_path": True, "merge_slashes": True},
    "DECODE_AND_MERGE_SLASHES": {
        "normalize_path": True,
        "merge_slashes": True,
        "path_with_escaped_slashes_action": hcm_pb2.HttpConnectionManager.UNESCAPE_AND_FORWARD,
    },
}
"""The mesh's path normalisation (spec C3) as connection manager options; applied before matching and forwarded."""


def _access_log(fields: Mapping[str, str]) -> accesslog_pb2.AccessLog:
    body = struct_pb2.Struct()
    body.update(dict(fields))
    form = substitution_format_string_pb2.SubstitutionFormatString(json_format=body, omit_empty_values=True)
    return accesslog_pb2.AccessLog(
        name="envoy.access_loggers.stdout", typed_config=pack(stream_pb2.StdoutAccessLog(log_format=form))
    )


def _state(key: str, factory: str, value: str, shared: int) -> value_pb2.FilterStateValue:
    """A filter state entry; a value that is missing becomes "-", which no identity equals."""
    form = substitution_format_string_pb2.SubstitutionFormatString()
    form.text_format_source.inline_string = value
    return value_pb2.FilterStateValue(
        object_key=key, factory_key=factory, format_string=form, shared_with_upstream=shared
    )


def _http_filter(name: str, config: Message) -> hcm_pb2.HttpFilter:
    return hcm_pb2.HttpFilter(name=name, typed_config=pack(config))


def _network_filter(name: str, config: Message) -> listener_components_pb2.Filter:
    return listener_components_pb2.Filter(name=name, typed_config=pack(config))


def _router() -> hcm_pb2.HttpFilter:
    return _http_filter("envoy.filters.http.router", router_pb2.Router(suppress_envoy_headers=True))


def _rds(route: str) -> hcm_pb2.Rds:
    ads = config_source_pb2.ConfigSource(
        ads=config_source_pb2.AggregatedConfigSource(), resource_api_version=config_source_pb2.ApiVersion.V3
    )
    return hcm_pb2.Rds(config_source=ads, route_config_name=route)


def _original_dst() -> listener_components_pb2.ListenerFilter:
    return listener_components_pb2.ListenerFilter(name=ORIGINAL_DST, typed_config=pack(original_dst_pb2.OriginalDst()))


def connect_terminate(view: WaypointConfigView) -> listener_pb2.Listener:
    """HBONE in on port 15008."""
    hand_over = http_state_pb2.Config(
        on_request_headers=[
            _state(names.PEER_PRINCIPAL, _STRING, "%DOWNSTREAM_PEER_URI_SAN%", _ONCE),
            _state(_LOCAL_IP, _LOCAL_IP, "%REQ(:AUTHORITY)%", _ONCE),
            _state(_REMOTE_IP, _REMOTE_IP, "%DOWNSTREAM_REMOTE_ADDRESS%", _ONCE),
        ]
    )
    options = http2_tunnel_options()
    options.max_concurrent_streams.value = _MAX_STREAMS
    manager = hcm_pb2.HttpConnectionManager(
        stat_prefix=names.CONNECT_TERMINATE,
        codec_type=hcm_pb2.HttpConnectionManager.HTTP2,
        http2_protocol_options=options,
        rds=_rds(names.CONNECT_TERMINATE),
        http_filters=[_http_filter("envoy.filters.http.set_filter_state", hand_over), _router()],
        upgrade_configs=[hcm_pb2.HttpConnectionManager.UpgradeConfig(upgrade_type="CONNECT")],
        stream_idle_timeout=_NO_TIMEOUT,
    )
    chain = listener_components_pb2.FilterChain(
        name=names.CONNECT_TERMINATE,
        filters=[_network_filter("envoy.filters.network.http_connection_manager", manager)],
        transport_socket=tls.downstream(view.identity, view.trust_domain),
    )
    return listener_pb2.Listener(
        name=names.CONNECT_TERMINATE,
        address=tls.socket_address("0.0.0.0", HBONE_PORT),
        filter_chains=[chain],
    )


def _http_manager(view: WaypointConfigView, route: str) -> listener_components_pb2.Filter:
    manager = hcm_pb2.HttpConnectionManager(
        stat_prefix=names.MAIN_INTERNAL,
        codec_type=hcm_pb2.HttpConnectionManager.AUTO,
        rds=_rds(route),
        http_filters=[
            _http_filter(DENY_FILTER, http_rbac_pb2.RBAC()),
            _http_filter(ALLOW_FILTER, http_rbac_pb2.RBAC()),
            _router(),
        ],
        http_protocol_options=protocol_pb2.Http1ProtocolOptions(accept_http_10=True),
        upgrade_configs=[hcm_pb2.HttpConnectionManager.UpgradeConfig(upgrade_type="websocket")],
        internal_address_config=hcm_pb2.HttpConnectionManager.InternalAddressConfig(),
        use_remote_address=wrappers_pb2.BoolValue(value=False),
        skip_xff_append=True,
        server_header_transformation=hcm_pb2.HttpConnectionManager.PASS_THROUGH,
        stream_idle_timeout=_NO_TIMEOUT,
        access_log=[_access_log(_REQUEST_LOG)],
    )
    for option, value in _NORMALIZATION[view.path_normalization].items():
        if isinstance(value, bool) and option == "normalize_path":
            manager.normalize_path.value = value
        else:
            setattr(manager, option, value)
    return _network_filter("envoy.filters.network.http_connection_manager", manager)


def _tcp_filters(target: TargetView, port: PortView) -> list[listener_components_pb2.Filter]:
    filters = []
    for action, rules in (("deny", target.rules.tcp_deny), ("allow", target.rules.tcp_allow)):
        if rules is not None:
            config = network_rbac_pb2.RBAC(
                rules=parse(rbac_rules_pb2.RBAC, rules), stat_prefix=f"{names.MAIN_INTERNAL}_{action}_"
            )
            filters.append(_network_filter("envoy.filters.network.rbac", config))
    onward = tcp_proxy_pb2.TcpProxy(
        stat_prefix=names.MAIN_INTERNAL,
        cluster=names.target_port(target, port.port),
        idle_timeout=_NO_TIMEOUT,
        access_log=[_access_log({k: v for k, v in _REQUEST_LOG.items() if "REQ(" not in v})],
    )
    filters.append(_network_filter("envoy.filters.network.tcp_proxy", onward))
    return filters


def _chain(view: WaypointConfigView, target: TargetView, port: PortView) -> listener_components_pb2.FilterChain:
    name = names.target_port(target, port.port)
    ranges = [
        address_pb2.CidrRange(
            address_prefix=address, prefix_len=wrappers_pb2.UInt32Value(value=128 if ":" in address else 32)
        )
        for address in target.addresses
    ]
    return listener_components_pb2.FilterChain(
        name=name,
        filter_chain_match=listener_components_pb2.FilterChainMatch(
            prefix_ranges=ranges, destination_port=wrappers_pb2.UInt32Value(value=port.port)
        ),
        filters=[_http_manager(view, name)] if port.protocol == "HTTP" else _tcp_filters(target, port),
    )


def main_internal(view: WaypointConfigView) -> listener_pb2.Listener:
    """The request in plain: a chain per target port; an address that no chain serves is closed."""
    chains = [_chain(view, t, p) for t in view.targets if t.addresses for p in t.ports]
    return listener_pb2.Listener(
        name=names.MAIN_INTERNAL,
        internal_listener=listener_pb2.Listener.InternalListenerConfig(),
        listener_filters=[_original_dst()],
        filter_chains=chains,
    )


def connect_originate() -> listener_pb2.Listener:
    """HBONE out: CONNECT to the endpoint's address, whose certificate must carry the identity named in its metadata."""
    expect = network_state_pb2.Config(
        on_new_connection=[
            _state(_SAN_OVERRIDE, _SAN_OVERRIDE, f"%DYNAMIC_METADATA({ENDPOINT_METADATA}:identity)%", _NOT_SHARED)
        ]
    )
    tunnel = tcp_proxy_pb2.TcpProxy(
        stat_prefix=names.CONNECT_ORIGINATE,
        cluster=names.CONNECT_ORIGINATE,
        tunneling_config=tcp_proxy_pb2.TcpProxy.TunnelingConfig(hostname="%DOWNSTREAM_LOCAL_ADDRESS%"),
        idle_timeout=_NO_TIMEOUT,
    )
    chain = listener_components_pb2.FilterChain(
        name=names.CONNECT_ORIGINATE,
        filters=[
            _network_filter("envoy.filters.network.set_filter_state", expect),
            _network_filter("envoy.filters.network.tcp_proxy", tunnel),
        ],
    )
    return listener_pb2.Listener(
        name=names.CONNECT_ORIGINATE,
        internal_listener=listener_pb2.Listener.InternalListenerConfig(),
        listener_filters=[_original_dst()],
        filter_chains=[chain],
    )
