"""Filter state: what a connection carries from the listener that accepted it to the sockets that are opened for it.

The identity and the netns of the client pod travel this way, so that clusters can be shared by all pods.  Both must be
*hashable* objects: only those take part in the key of Envoy's connection pools.  With a plain string the pool of one
identity is handed to another, and a denied workload rides on an allowed one's connection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from envoy.config.listener.v3 import listener_components_pb2
from envoy.extensions.filters.common.set_filter_state.v3 import value_pb2
from envoy.extensions.filters.http.set_filter_state.v3 import set_filter_state_pb2 as http_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2
from envoy.extensions.filters.network.set_filter_state.v3 import set_filter_state_pb2 as network_pb2
from google.protobuf import json_format

from tulle.envoy.wire import pack, pack_untyped

NETNS: Final = "envoy.network.upstream_bind_override.network_namespace"
CLIENT_CERTIFICATE: Final = "envoy.tls.certificate_mappers.on_demand_secret"
TCP_CLUSTER: Final = "envoy.tcp_proxy.cluster"
_TARGET: Final = "envoy.network.transport_socket.original_dst_address"
_ACCEPTED_AT: Final = "envoy.filters.listener.original_dst.local_ip"
_ACCEPTED_FROM: Final = "envoy.filters.listener.original_dst.remote_ip"

_HASHABLE: Final = "envoy.hashable_string"


@dataclass(frozen=True)
class Value:
    """One object: `key`, and an Envoy format string for its text."""

    key: str
    text: str
    factory: str = _HASHABLE
    upstream: str = "TRANSITIVE"

    def message(self) -> value_pb2.FilterStateValue:
        value = value_pb2.FilterStateValue(
            object_key=self.key, factory_key=self.factory, shared_with_upstream=self.upstream
        )
        value.format_string.text_format_source.inline_string = self.text
        return value


def netns(path: str) -> Value:
    """Upstream sockets of this connection open in the network namespace at `path`."""
    return Value(NETNS, literal(path))


def client_certificate(secret: str) -> Value:
    """mTLS connections opened for this connection present the SDS secret of that name; part of the pool key."""
    return Value(CLIENT_CERTIFICATE, literal(secret))


def tcp_cluster(format_text: str) -> Value:
    """The cluster that tcp_proxy uses for this connection, as a format string."""
    return Value(TCP_CLUSTER, format_text, factory=TCP_CLUSTER, upstream="NONE")


def target(address: str) -> Value:
    """An original-destination cluster connects there (a format string) instead."""
    return Value(_TARGET, address, factory=_TARGET, upstream="ONCE")


def ends(own: str, peer: str) -> tuple[Value, Value]:
    """Both ends (format strings) that an internal listener takes its connection to have."""
    return (
        Value(_ACCEPTED_AT, own, factory=_ACCEPTED_AT, upstream="ONCE"),
        Value(_ACCEPTED_FROM, peer, factory=_ACCEPTED_FROM, upstream="ONCE"),
    )


def literal(text: str) -> str:
    """`text` escaped for a format string."""
    return text.replace("%", "%%")


def network_filter(*values: Value, after_handshake: Sequence[Value] = ()) -> listener_components_pb2.Filter:
    """A network filter that sets the values when a connection is accepted, and others when TLS knows the peer."""
    config = network_pb2.Config(on_new_connection=[value.message() for value in values])
    packed = pack(config)
    if after_handshake:
        late = network_pb2.Config(on_new_connection=[value.message() for value in after_handshake])
        in_json = {**_json(config), "on_downstream_tls_handshake": _json(late)["on_new_connection"]}
        packed = pack_untyped(config.DESCRIPTOR.full_name, in_json)
    return listener_components_pb2.Filter(name="envoy.filters.network.set_filter_state", typed_config=packed)


def _json(config: network_pb2.Config) -> dict[str, Any]:
    return json_format.MessageToDict(config, preserving_proto_field_name=True)


def http_filter(*values: Value) -> hcm_pb2.HttpFilter:
    """An HTTP filter that sets the values when a request's headers arrive; routes may override it."""
    return hcm_pb2.HttpFilter(name=HTTP_FILTER, typed_config=pack(http_config(*values)))


def http_config(*values: Value) -> http_pb2.Config:
    """The configuration of `http_filter`, also for `typed_per_filter_config` of a route under `HTTP_FILTER`."""
    return http_pb2.Config(on_request_headers=[value.message() for value in values])


HTTP_FILTER: Final = "envoy.filters.http.set_filter_state"
