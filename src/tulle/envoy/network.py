"""Network filters and listener filters: TCP proxying, CONNECT termination, original destinations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from envoy.config.accesslog.v3 import accesslog_pb2
from envoy.config.core.v3 import base_pb2, extension_pb2, proxy_protocol_pb2
from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.route.v3 import route_pb2
from envoy.extensions.filters.http.router.v3 import router_pb2
from envoy.extensions.filters.listener.original_dst.v3 import original_dst_pb2
from envoy.extensions.filters.listener.tls_inspector.v3 import tls_inspector_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.filters.network.tcp_proxy.v3 import tcp_proxy_pb2
from envoy.extensions.http.early_header_mutation.header_mutation.v3 import header_mutation_pb2

from tulle.envoy.bootstrap import ADS_CLUSTER
from tulle.envoy.wire import extension, from_ads, from_own_stream, pack, seconds

#: HTTP/2 windows and limits between proxies: 4 MiB per stream, 16 MiB per connection (spec D8).
STREAM_WINDOW: Final = 4 << 20
CONNECTION_WINDOW: Final = 16 << 20
MAX_STREAMS_SERVED: Final = 200


@dataclass(frozen=True)
class Header:
    """A header to set, as name and format string."""

    name: str
    value: str

    def option(self) -> base_pb2.HeaderValueOption:
        return base_pb2.HeaderValueOption(
            header=base_pb2.HeaderValue(key=self.name, value=self.value), append_action="OVERWRITE_IF_EXISTS_OR_ADD"
        )


@dataclass(frozen=True)
class Tunnel:
    """HTTP/2 CONNECT instead of plain TCP: `authority` is a format string."""

    authority: str
    headers: tuple[Header, ...] = ()


def original_destination() -> listener_components_pb2.ListenerFilter:
    """Restores the address that a redirected connection was made to."""
    return listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.original_dst", typed_config=pack(original_dst_pb2.OriginalDst())
    )


def peek_first_bytes() -> listener_components_pb2.ListenerFilter:
    """Looks at the first bytes without taking them off the socket, so the chain is chosen once they are there."""
    return listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.tls_inspector", typed_config=pack(tls_inspector_pb2.TlsInspector())
    )


def tcp_proxy(
    cluster: str,
    *,
    stat_prefix: str,
    tunnel: Tunnel | None = None,
    on_demand_timeout: float | None = None,
    connect_attempts: int = 1,
    retry_backoff: float = 0.0,
    logs: Sequence[accesslog_pb2.AccessLog] = (),
    log_opened: bool = False,
    proxy_tlv: tuple[int, str] | None = None,
) -> listener_components_pb2.Filter:
    """Copies bytes between the accepted connection and one to `cluster` (or to what filter state says instead).

    on_demand_timeout: seconds to wait for a cluster that is not known yet and is asked for by name; None: do not ask.
    retry_backoff: seconds of the first pause between connect attempts (jittered).
    log_opened: `logs` get a line when a connection is established too, not only when it ends.
    proxy_tlv: type and format string of a TLV for a PROXY header, if the cluster sends one.
    """
    config = tcp_proxy_pb2.TcpProxy(stat_prefix=stat_prefix, cluster=cluster, access_log=logs)
    config.access_log_options.flush_access_log_on_connected = log_opened
    config.idle_timeout.CopyFrom(seconds(0))
    if tunnel is not None:
        config.tunneling_config.hostname = tunnel.authority
        config.tunneling_config.headers_to_add.extend(header.option() for header in tunnel.headers)
    if on_demand_timeout is not None:
        config.on_demand.odcds_config.CopyFrom(from_own_stream(ADS_CLUSTER))
        config.on_demand.timeout.CopyFrom(seconds(on_demand_timeout))
    if proxy_tlv is not None:
        entry: proxy_protocol_pb2.TlvEntry = config.proxy_protocol_tlvs.add(type=proxy_tlv[0])
        entry.format_string.text_format_source.inline_string = proxy_tlv[1]
    if connect_attempts > 1:
        config.max_connect_attempts.value = connect_attempts
        config.backoff_options.base_interval.CopyFrom(seconds(retry_backoff))
    return listener_components_pb2.Filter(name="envoy.filters.network.tcp_proxy", typed_config=pack(config))


@dataclass(frozen=True)
class Http:
    """An HTTP connection manager.

    codec: "AUTO", "HTTP1" or "HTTP2".  routes: inline routes, or the name of an RDS resource.  early_headers: set
    before the route is chosen, so that routes can match on facts of the connection.  local_reply: format string of the body
    of answers that Envoy makes itself.  local_status: the status of those of them that are errors; 0 leaves it alone.
    log_opened: `logs` get a line when a tunnel is established too, not only when it ends.  requests: after so many a connection
    is brought to its end; 0: never.
    """

    stat_prefix: str
    routes: route_pb2.RouteConfiguration | str
    codec: str = "HTTP2"
    early_headers: tuple[Header, ...] = ()
    local_reply: str = ""
    local_status: int = 0
    filters: tuple[hcm_pb2.HttpFilter, ...] = ()
    logs: tuple[accesslog_pb2.AccessLog, ...] = ()
    log_opened: bool = False
    requests: int = 0

    def network_filter(self) -> listener_components_pb2.Filter:
        config = hcm_pb2.HttpConnectionManager(
            stat_prefix=self.stat_prefix, codec_type=self.codec, access_log=self.logs
        )
        config.access_log_options.flush_log_on_tunnel_successfully_established = self.log_opened
        if isinstance(self.routes, str):
            config.rds.route_config_name = self.routes
            config.rds.config_source.CopyFrom(from_ads())
        else:
            config.route_config.CopyFrom(self.routes)
        config.generate_request_id.value = False
        # The client is who is connected, whatever headers say.
        config.use_remote_address.value = True
        config.skip_xff_append = True
        config.server_header_transformation = hcm_pb2.HttpConnectionManager.PASS_THROUGH
        config.stream_idle_timeout.CopyFrom(seconds(0))
        if self.requests:
            config.common_http_protocol_options.max_requests_per_connection.value = self.requests
        config.http_protocol_options.accept_http_10 = True
        config.http2_protocol_options.allow_connect = True
        # Of Envoy's two codecs the one that takes less CPU for each frame and each stream.
        config.http2_protocol_options.use_oghttp2_codec.value = False
        config.http2_protocol_options.max_concurrent_streams.value = MAX_STREAMS_SERVED
        config.http2_protocol_options.initial_stream_window_size.value = STREAM_WINDOW
        config.http2_protocol_options.initial_connection_window_size.value = CONNECTION_WINDOW
        config.upgrade_configs.add(upgrade_type="CONNECT")
        if self.local_reply:
            config.local_reply_config.body_format.text_format_source.inline_string = self.local_reply
        if self.local_status:
            config.local_reply_config.mappers.append(_errors_as(self.local_status))
        if self.early_headers:
            config.early_header_mutation_extensions.append(_early(self.early_headers))
        config.http_filters.extend(self.filters)
        router = hcm_pb2.HttpFilter(name="envoy.filters.http.router", typed_config=pack(_router()))
        config.http_filters.append(router)
        return listener_components_pb2.Filter(
            name="envoy.filters.network.http_connection_manager", typed_config=pack(config)
        )


def _router() -> router_pb2.Router:
    return router_pb2.Router(suppress_envoy_headers=True)


def _errors_as(status: int) -> hcm_pb2.ResponseMapper:
    """Every local reply of 400 and above gets this status."""
    mapper = hcm_pb2.ResponseMapper()
    comparison = mapper.filter.status_code_filter.comparison
    comparison.op = accesslog_pb2.ComparisonFilter.GE
    comparison.value.default_value = 400
    comparison.value.runtime_key = "tulle.local_reply_from"
    mapper.status_code.value = status
    return mapper


def _early(headers: tuple[Header, ...]) -> extension_pb2.TypedExtensionConfig:
    mutation = header_mutation_pb2.HeaderMutation()
    for header in headers:
        mutation.mutations.add().append.CopyFrom(header.option())
    return extension("envoy.http.early_header_mutation.header_mutation", mutation)
