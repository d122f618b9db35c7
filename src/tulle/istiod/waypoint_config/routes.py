"""Which authorities a waypoint accepts, and per target port the policy that each request must pass.

Policy lives in the routes and not in the listeners: a changed route applies to the next request on every open connection and closes
none, where a changed listener would drain them. Which route a request takes depends on its client alone (see `filing`).
"""

from __future__ import annotations

from collections.abc import Callable

from envoy.config.route.v3 import route_components_pb2, route_pb2

from tulle.envoy import matching, routes
from tulle.envoy.wire import seconds
from tulle.istiod.waypoint_config import authorizers, filing, listeners, names, rbac
from tulle.istiod.waypoint_config.view import ANY_PORT, ActionRules, PortView, TargetView, WaypointConfigView

_RETRY_ON = "connect-failure,refused-stream,unavailable,cancelled"
"""Upstream's default for mesh traffic: only failures where the request was surely not handled."""


def connect_terminate(view: WaypointConfigView) -> route_pb2.RouteConfiguration:
    """Accept CONNECT to the addresses this waypoint serves and to nothing else (spec D4, last line)."""
    served = _authorities(view, lambda port: port.port != ANY_PORT)
    pods = _authorities(view, lambda port: port.port == ANY_PORT)
    refused = routes.refuse_connect("unserved", 404)
    refused.direct_response.body.inline_string = "this waypoint does not serve the requested address"
    not_connect = routes.answer("not a CONNECT request", 400, "only CONNECT is spoken on this port")
    table = route_pb2.RouteConfiguration(name=names.CONNECT_TERMINATE)
    table.virtual_hosts.add(name="unserved", domains=["*"], routes=[refused, not_connect])
    if served:
        inward = routes.terminate_connect("served", names.MAIN_INTERNAL)
        table.virtual_hosts.add(name="served", domains=served, routes=[inward, not_connect])
    if pods:
        inward = routes.terminate_connect("pods", names.MAIN_PODS)
        routes.with_filter_state(inward, *listeners.handed_over(onward=True))
        table.virtual_hosts.add(name="pods", domains=pods, routes=[inward, not_connect])
    return table


def _authorities(view: WaypointConfigView, wanted: Callable[[PortView], bool]) -> list[str]:
    return sorted(
        f"{_bracketed(address)}:{'*' if port.port == ANY_PORT else port.port}"
        for target in view.targets
        for address in target.addresses
        for port in filter(wanted, target.ports)
    )


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def for_port(view: WaypointConfigView, target: TargetView, port: PortView) -> route_pb2.RouteConfiguration:
    """Every request to one HTTP port of a target: its policies in their order, then its cluster (spec C4)."""
    name = names.target_port(target, port.port)

    def onward(rules: ActionRules) -> route_components_pb2.Route:
        route = _onward(name, rules)
        if rules.custom is not None:
            route.typed_per_filter_config[names.custom(target)].CopyFrom(authorizers.unasked(view, target.rules))
        return route

    filed = filing.file(target.rules.http)
    table = route_pb2.RouteConfiguration(name=name)
    host = table.virtual_hosts.add(name=names.target(target), domains=["*"])
    rest = onward(filed.rest)
    if not filed.by_client:
        host.routes.append(rest)
        return table
    by_client = {client: matching.use_route(onward(rules)) for client, rules in filed.by_client.items()}
    client = matching.filter_state(names.PEER_PRINCIPAL)
    host.matcher.CopyFrom(matching.by_text(client, by_client, matching.use_route(rest)))
    return table


def _onward(name: str, rules: ActionRules) -> route_components_pb2.Route:
    route = route_components_pb2.Route(name=name)
    route.match.prefix = "/"
    route.route.cluster = name
    route.route.timeout.CopyFrom(seconds(0))
    route.route.retry_policy.retry_on = _RETRY_ON
    route.route.retry_policy.num_retries.value = 2
    for filter_name, config in rbac.per_route(rules):
        route.typed_per_filter_config[filter_name].CopyFrom(config)
    return route
