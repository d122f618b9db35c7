"""What istioctl asks istiod over xDS: who is connected, how far each proxy is, and what it was sent.

The types are those that the stock istioctl requests (`istio.io/debug/syncz` for `proxy-status`, `istio.io/connect` for `version`); the
answer is the moment's, made anew for each stream. Whoever is of the mesh's own namespace may know of every proxy, anybody else of those in
its own namespace, by what both have proved and not by what they say of themselves (CVE-2026-31838).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import msgspec
from envoy.admin.v3 import config_dump_shared_pb2 as dumps
from envoy.config.core.v3 import base_pb2
from envoy.service.status.v3 import csds_pb2

import tulle
from tulle.istiod.debug import proxy_id, status, told_metadata
from tulle.istiod.server import NAMESPACE
from tulle.xds import types
from tulle.xds.delta import TypeState
from tulle.xds.resources import Entry, ResourceMap
from tulle.xds.server import AccessDenied, ClientNode, Connection

SYNCZ: Final = "istio.io/debug/syncz"
CONFIG_DUMP: Final = "istio.io/debug/config_dump"
CONNECT: Final = "istio.io/connect"
CONNECTIONS: Final = "istio.io/connections"
INSPECTED: Final = frozenset({SYNCZ, CONFIG_DUMP, CONNECT, CONNECTIONS})

_CLIENT_CONFIG: Final = types.PREFIX + "envoy.service.status.v3.ClientConfig"
_NODE: Final = types.PREFIX + "envoy.config.core.v3.Node"
_ADMIN: Final = types.PREFIX + "envoy.admin.v3."


def control_plane(istiod: str) -> str:
    """How this istiod calls itself in every answer; istioctl reads the name and the version from it."""
    build = {"version": tulle.__version__, "revision": "", "golang_version": "", "status": "Clean", "tag": ""}
    return msgspec.json.encode({"Component": "istiod", "ID": istiod, "Info": build}).decode()


class Inspection:
    """Answers for one istiod. `namespace` is the mesh's own, whose callers may know everything."""

    def __init__(self, namespace: str, connections: Callable[[], Iterable[Connection]]) -> None:
        self._namespace = namespace
        self._connections = connections
        self._answers: Mapping[str, Callable[[ResourceMap, Connection], None]] = {
            SYNCZ: _add_client_config,
            CONFIG_DUMP: _add_dumps,
            CONNECT: _add_node,
            CONNECTIONS: _add_node,
        }

    def __call__(self, caller: ClientNode, type_url: str) -> ResourceMap:
        """The answer as it is now. Raises AccessDenied for a caller whose namespace is not proved."""
        namespace = _namespace(caller)
        if not namespace:
            raise AccessDenied(f"{caller.id!r} has proved no namespace: {type_url} is for service accounts")
        found = ResourceMap(type_url)
        for connection in self._proxies():
            if namespace in (self._namespace, _namespace(connection.node)):
                self._answers[type_url](found, connection)
        return found

    def dumps(self, proxy: str) -> list[Any] | None:
        """Everything that a proxy (`pod.namespace`, or its whole id) is sent, in the form of Envoy's own dump; None if it is not here."""
        for connection in self._proxies():
            if connection.node is not None and proxy in (proxy_id(connection.node), connection.node.id):
                return list(_dumps(connection))
        return None

    def _proxies(self) -> Iterator[Connection]:
        """Who reads configuration; istioctl's own stream is not one of them."""
        for connection in self._connections():
            reads = any(one.type_url not in INSPECTED for one in _states(connection))
            if connection.node is not None and reads:
                yield connection


def _namespace(node: ClientNode | None) -> str:
    return node.peer.attributes.get(NAMESPACE, "") if node is not None and node.peer is not None else ""


def _states(connection: Connection) -> Iterable[TypeState]:
    return connection.state.states if connection.state is not None else ()


def _add_client_config(found: ResourceMap, connection: Connection) -> None:
    assert connection.node is not None
    config = csds_pb2.ClientConfig()
    config.node.id = proxy_id(connection.node)
    config.node.metadata.update(told_metadata(connection.node.metadata))
    for state in _states(connection):
        one = config.generic_xds_configs.add(type_url=state.type_url, config_status=status(state))
        if state.rejection is not None:
            one.error_state.details = state.rejection.message
    found.set(connection.node.id, config, body_type=_CLIENT_CONFIG)


def _add_node(found: ResourceMap, connection: Connection) -> None:
    assert connection.node is not None
    node = base_pb2.Node(id=connection.node.id)
    node.metadata.update(told_metadata(connection.node.metadata))
    found.set(connection.node.id, node, body_type=_NODE)


def _add_dumps(found: ResourceMap, connection: Connection) -> None:
    """Asked for by the proxy's name."""
    assert connection.node is not None
    name = proxy_id(connection.node)
    for message in _dumps(connection):
        kind = message.DESCRIPTOR.name
        found.set(f"{name}/{kind}", message, (name,), body_type=_ADMIN + kind)


def _dumps(connection: Connection) -> Iterator[Any]:
    """Everything that a proxy is sent of the types that Envoy's own dump has."""
    assert connection.state is not None
    for state in _states(connection):
        dump = _DUMPS.get(state.type_url)
        if dump is not None:
            yield dump(connection.state.covered(state.type_url))


def _listeners(entries: Iterable[Entry]) -> Any:
    dump = dumps.ListenersConfigDump()
    for entry in entries:
        active = dump.dynamic_listeners.add(name=entry.name).active_state
        active.version_info = entry.version
        active.listener.CopyFrom(entry.envelope().resource)
    return dump


def _clusters(entries: Iterable[Entry]) -> Any:
    dump = dumps.ClustersConfigDump()
    for entry in entries:
        dump.dynamic_active_clusters.add(version_info=entry.version, cluster=entry.envelope().resource)
    return dump


def _routes(entries: Iterable[Entry]) -> Any:
    dump = dumps.RoutesConfigDump()
    for entry in entries:
        dump.dynamic_route_configs.add(version_info=entry.version, route_config=entry.envelope().resource)
    return dump


def _endpoints(entries: Iterable[Entry]) -> Any:
    dump = dumps.EndpointsConfigDump()
    for entry in entries:
        dump.dynamic_endpoint_configs.add(version_info=entry.version, endpoint_config=entry.envelope().resource)
    return dump


_DUMPS: Mapping[str, Callable[[Iterable[Entry]], Any]] = {
    types.CLUSTER: _clusters,
    types.LISTENER: _listeners,
    types.ROUTES: _routes,
    types.ENDPOINTS: _endpoints,
}
