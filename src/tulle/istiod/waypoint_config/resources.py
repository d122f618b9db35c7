"""The whole configuration of one waypoint, by type and name, ready for a delta ADS server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from google.protobuf.message import Message

from tulle.istiod.waypoint_config import clusters, listeners, names, routes
from tulle.istiod.waypoint_config.view import PortView, TargetView, WaypointConfigView


@dataclass(frozen=True)
class WaypointResources:
    """Envoy resources by type URL, then by name."""

    by_type: Mapping[str, Mapping[str, Message]]


def _ports(view: WaypointConfigView) -> Iterator[tuple[TargetView, PortView]]:
    return ((target, port) for target in view.targets for port in target.ports)


def build(view: WaypointConfigView) -> WaypointResources:
    """All resources of the waypoint `view` describes. Pure: equal views give equal bytes.

    Raises `google.protobuf.json_format.ParseError` when a policy in the view is not a valid RBAC configuration.
    """
    listening: list[Message] = [listeners.connect_terminate(view), listeners.connect_originate()]
    chains = listeners.main_internal(view)
    if chains.filter_chains:
        listening.append(chains)
    routing: list[Message] = [routes.connect_terminate(view)]
    sending: list[Message] = [clusters.main_internal(), clusters.connect_originate(view)]
    loads: dict[str, Message] = {}
    for target, port in _ports(view):
        sending.append(clusters.for_port(target, port))
        loads[names.target_port(target, port.port)] = clusters.endpoints(target, port)
        if port.protocol == "HTTP":
            routing.append(routes.for_port(target, port))
    return WaypointResources(
        {
            names.LISTENER_TYPE: {m.name: m for m in listening},  # type: ignore[attr-defined]
            names.ROUTE_TYPE: {m.name: m for m in routing},  # type: ignore[attr-defined]
            names.CLUSTER_TYPE: {m.name: m for m in sending},  # type: ignore[attr-defined]
            names.ENDPOINT_TYPE: loads,
        }
    )
