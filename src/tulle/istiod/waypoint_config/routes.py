"""Which authorities a waypoint accepts, and per target port the policy that each request must pass.

Policy lives in the routes and not in the listeners: a changed route applies to the next request on every open connection and closes
none, where a changed listener would drain them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envoy.config.core.v3 import base_pb2
from envoy.config.rbac.v3 import rbac_pb2 as rbac_rules_pb2
from envoy.config.route.v3 import route_components_pb2, route_pb2
from envoy.extensions.filters.http.rbac.v3 import rbac_pb2
from google.protobuf import any_pb2, duration_pb2, wrappers_pb2

from tulle.istiod.waypoint_config import names
from tulle.istiod.waypoint_config.pack import pack, parse
from tulle.istiod.waypoint_config.view import PortView, TargetView, WaypointConfigView

DENY_FILTER = "tulle.rbac.deny"
ALLOW_FILTER = "tulle.rbac.allow"
_NO_TIMEOUT = duration_pb2.Duration(seconds=0)
_RETRY_ON = "connect-failure,refused-stream,unavailable,cancelled"
"""Upstream's default for mesh traffic: only failures where the request was surely not handled."""
_UNTRUSTED_HEADERS = ("x-envoy-original-path", "x-envoy-original-host", "x-envoy-decorator-operation")
"""Headers that Envoy itself would believe; a client inside the mesh may not set them (CVE-2023-27487)."""


def connect_terminate(view: WaypointConfigView) -> route_pb2.RouteConfiguration:
    """Accept CONNECT to the addresses this waypoint serves and to nothing else (spec D4, last line)."""
    served = sorted(f"{address}:{port.port}" for t in view.targets for address in t.addresses for port in t.ports)
    inward = route_components_pb2.Route(
        match=route_components_pb2.RouteMatch(connect_matcher=route_components_pb2.RouteMatch.ConnectMatcher()),
        route=route_components_pb2.RouteAction(
            cluster=names.MAIN_INTERNAL,
            timeout=_NO_TIMEOUT,
            idle_timeout=_NO_TIMEOUT,
            upgrade_configs=[
                route_components_pb2.RouteAction.UpgradeConfig(
                    upgrade_type="CONNECT",
                    connect_config=route_components_pb2.RouteAction.UpgradeConfig.ConnectConfig(),
                )
            ],
        ),
    )
    refused = route_components_pb2.Route(
        match=route_components_pb2.RouteMatch(connect_matcher=route_components_pb2.RouteMatch.ConnectMatcher()),
        direct_response=_direct(404, "this waypoint does not serve the requested address"),
    )
    not_connect = route_components_pb2.Route(
        match=route_components_pb2.RouteMatch(prefix="/"),
        direct_response=_direct(400, "only CONNECT is spoken on this port"),
    )
    hosts = [
        route_components_pb2.VirtualHost(name="unserved", domains=["*"], routes=[refused, not_connect]),
    ]
    if served:
        hosts.append(route_components_pb2.VirtualHost(name="served", domains=served, routes=[inward, not_connect]))
    return route_pb2.RouteConfiguration(name=names.CONNECT_TERMINATE, virtual_hosts=hosts)


def _direct(status: int, body: str) -> route_components_pb2.DirectResponseAction:
    return route_components_pb2.DirectResponseAction(status=status, body=base_pb2.DataSource(inline_string=body))


def _per_route(rules: Mapping[str, Any]) -> any_pb2.Any:
    config = rbac_pb2.RBAC(rules=parse(rbac_rules_pb2.RBAC, rules))
    return pack(rbac_pb2.RBACPerRoute(rbac=config))


def for_port(target: TargetView, port: PortView) -> route_pb2.RouteConfiguration:
    """Every request to one HTTP port of a target: DENY policies, then ALLOW policies, then its cluster (spec C4)."""
    name = names.target_port(target, port.port)
    retry = route_components_pb2.RetryPolicy(retry_on=_RETRY_ON, num_retries=wrappers_pb2.UInt32Value(value=2))
    onward = route_components_pb2.Route(
        match=route_components_pb2.RouteMatch(prefix="/"),
        route=route_components_pb2.RouteAction(cluster=name, timeout=_NO_TIMEOUT, retry_policy=retry),
    )
    host = route_components_pb2.VirtualHost(
        name=f"{target.kind}/{target.namespace}/{target.name}", domains=["*"], routes=[onward]
    )
    for filter_name, rules in ((DENY_FILTER, target.rules.http_deny), (ALLOW_FILTER, target.rules.http_allow)):
        if rules is not None:
            host.typed_per_filter_config[filter_name].CopyFrom(_per_route(rules))
    return route_pb2.RouteConfiguration(
        name=name, virtual_hosts=[host], request_headers_to_remove=list(_UNTRUSTED_HEADERS)
    )
