"""Routes of CONNECT requests, which is all that proxies say to each other."""

from __future__ import annotations

from envoy.config.route.v3 import route_components_pb2, route_pb2
from google.protobuf.message import Message
from xds.type.matcher.v3 import matcher_pb2

from tulle.envoy import filter_state
from tulle.envoy.wire import pack, seconds


def terminate_connect(name: str, cluster: str) -> route_components_pb2.Route:
    """CONNECT ends here: its bytes go to `cluster` as plain TCP."""
    route = forward_connect(name, cluster)
    route.route.upgrade_configs[0].connect_config.SetInParent()
    return route


def forward_connect(name: str, cluster: str) -> route_components_pb2.Route:
    """CONNECT is passed on to `cluster`, which must speak HTTP/2."""
    route = _connect(name)
    route.route.cluster = cluster
    route.route.timeout.CopyFrom(seconds(0))
    route.route.upgrade_configs.add(upgrade_type="CONNECT")
    return route


def refuse_connect(name: str, status: int) -> route_components_pb2.Route:
    """CONNECT is answered with an HTTP status."""
    route = _connect(name)
    route.direct_response.status = status
    return route


def answer(name: str, status: int, body: str = "") -> route_components_pb2.Route:
    """Any request that has a path is answered with a status and a body."""
    route = route_components_pb2.Route(name=name)
    route.match.prefix = "/"
    route.direct_response.status = status
    if body:
        route.direct_response.body.inline_string = body
    return route


def with_filter_state(route: route_components_pb2.Route, *values: filter_state.Value) -> route_components_pb2.Route:
    """`route`, with filter state that is set only on it (the HTTP filter must be in the chain)."""
    config: Message = filter_state.http_config(*values)
    route.typed_per_filter_config[filter_state.HTTP_FILTER].CopyFrom(pack(config))
    return route


def table(name: str, *routes: route_components_pb2.Route) -> route_pb2.RouteConfiguration:
    """A route table that tries `routes` in order for every host."""
    host = route_components_pb2.VirtualHost(name="all", domains=["*"], routes=routes)
    return route_pb2.RouteConfiguration(name=name, virtual_hosts=[host], ignore_port_in_host_matching=False)


def matched_table(name: str, matcher: matcher_pb2.Matcher) -> route_pb2.RouteConfiguration:
    """A route table that is a decision tree over request headers."""
    host = route_components_pb2.VirtualHost(name="all", domains=["*"], matcher=matcher)
    return route_pb2.RouteConfiguration(name=name, virtual_hosts=[host])


def _connect(name: str) -> route_components_pb2.Route:
    route = route_components_pb2.Route(name=name)
    route.match.connect_matcher.SetInParent()
    return route
