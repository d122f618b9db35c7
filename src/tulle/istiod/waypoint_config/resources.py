"""The whole configuration of one waypoint, by type and name, ready for a delta ADS server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message

from tulle.envoy.wire import extension
from tulle.istiod.waypoint_config import authorizers, clusters, listeners, names, routes, tokens
from tulle.istiod.waypoint_config.view import ANY_PORT, PortView, TargetView, WaypointConfigView

TYPES = (
    names.CLUSTER_TYPE,
    names.ENDPOINT_TYPE,
    names.EXTENSION_TYPE,
    names.LISTENER_TYPE,
    names.ROUTE_TYPE,
)
"""The types of resources that a waypoint takes."""


@dataclass(frozen=True)
class WaypointResources:
    """Envoy resources by type URL, then by name."""

    by_type: Mapping[str, Mapping[str, Message]]


def build(view: WaypointConfigView) -> WaypointResources:
    """All resources of the waypoint `view` describes. Pure: equal views give equal bytes.

    Raises `google.protobuf.json_format.ParseError` when a policy in the view is not a valid RBAC configuration.
    """
    return WaypointResources(
        {
            names.LISTENER_TYPE: _by_name(_listeners(view)),
            names.ROUTE_TYPE: _by_name(_routes(view)),
            names.CLUSTER_TYPE: _by_name(_clusters(view)),
            names.ENDPOINT_TYPE: {load.cluster_name: load for load in _loads(view)},
            names.EXTENSION_TYPE: _by_name(_extensions(view)),
        }
    )


def _by_name(resources: Iterable[Any]) -> dict[str, Message]:
    return {resource.name: resource for resource in resources}


def _ports(view: WaypointConfigView) -> Iterator[tuple[TargetView, PortView]]:
    return ((target, port) for target in view.targets for port in target.ports)


def _listeners(view: WaypointConfigView) -> Iterator[Any]:
    yield listeners.connect_terminate(view)
    yield listeners.connect_originate()
    for main in (listeners.main_internal(view), listeners.main_pods(view)):
        if main.filter_chains:
            yield main


def _routes(view: WaypointConfigView) -> Iterator[Any]:
    yield routes.connect_terminate(view)
    for target, port in _ports(view):
        if port.protocol != "TCP":
            yield routes.for_port(view, target, port)


def _clusters(view: WaypointConfigView) -> Iterator[Any]:
    yield clusters.inward(names.MAIN_INTERNAL)
    if any(port.port == ANY_PORT for _, port in _ports(view)):
        yield clusters.inward(names.MAIN_PODS)
    yield clusters.connect_originate(view)
    for target, port in _ports(view):
        yield clusters.for_port(target, port)
    for one in view.authorizers:
        yield clusters.for_authorizer(one)


def _loads(view: WaypointConfigView) -> Iterator[Any]:
    for target, port in _ports(view):
        if not port.by_name:
            yield clusters.endpoints(target, port)
    for one in view.authorizers:
        if not one.by_name:
            yield clusters.authorizer_endpoints(one)


def _extensions(view: WaypointConfigView) -> Iterator[Any]:
    for target in view.targets:
        if any(port.protocol != "TCP" for port in target.ports):
            yield extension(names.custom(target), authorizers.filter_config(view, target.rules))
            yield extension(names.tokens(target), tokens.filter_config(target.rules.tokens))
