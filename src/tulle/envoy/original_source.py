"""Connections upstream in the name of whoever is downstream: with the client's address as their own.

Replies go to an address that is not this host's.  They find the socket because the kernel is told to take every packet of
a connection that began with the mark for its own, which is the business of whoever captures the pod.
"""

from __future__ import annotations

from typing import Final

from envoy.config.listener.v3 import listener_components_pb2
from envoy.config.route.v3 import route_components_pb2
from envoy.extensions.filters.http.original_src.v3 import original_src_pb2
from envoy.extensions.filters.listener.original_src.v3 import original_src_pb2 as listener_pb2
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2 as hcm_pb2

from tulle.envoy.wire import pack

_FILTER: Final = "envoy.filters.http.original_src"


def listener_filter(mark: int) -> listener_components_pb2.ListenerFilter:
    """For all connections of a listener."""
    return listener_components_pb2.ListenerFilter(
        name="envoy.filters.listener.original_src", typed_config=pack(listener_pb2.OriginalSrc(mark=mark))
    )


def http_filter(mark: int) -> hcm_pb2.HttpFilter:
    """Off, except on routes that turn it on (`keep_source`)."""
    config = original_src_pb2.OriginalSrc(mark=mark)
    return hcm_pb2.HttpFilter(name=_FILTER, typed_config=pack(config), disabled=True)


def keep_source(route: route_components_pb2.Route) -> route_components_pb2.Route:
    """`route`, to be taken with the client's address."""
    enabled = route_components_pb2.FilterConfig()
    enabled.config.SetInParent()
    route.typed_per_filter_config[_FILTER].CopyFrom(pack(enabled))
    return route
