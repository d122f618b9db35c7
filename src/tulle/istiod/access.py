"""Which collections a proxy may read, by what it proved to be.

A node proxy serves whatever pods its node has, so it may have the whole of WDS. A waypoint may have its own Envoy configuration and no
other's: which one is its is told by the pod that its token is bound to, not by what it says of itself. What proxies are told is for
tools to read (`tulle.istiod.inspection`).

Lifting hands policies over between waypoints and node proxies by what each has acknowledged, so whoever decides must hear them all: while
it is on, the leading replica alone serves configuration, and the others stand by with the whole mesh computed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from tulle.istiod.ca.impersonation import TRUSTED_NODE_ACCOUNTS
from tulle.istiod.index import labels as names
from tulle.istiod.index.convert import pod_uid
from tulle.istiod.index.mesh import MeshIndex
from tulle.istiod.index.records import WaypointKey
from tulle.istiod.inspection import INSPECTED, Inspection
from tulle.istiod.publish import Publisher
from tulle.istiod.server import NAMESPACE, POD_NAME, SERVICE_ACCOUNT
from tulle.istiod.waypoint_source import TYPES
from tulle.xds import types
from tulle.xds.resources import ResourceMap
from tulle.xds.server import AccessDenied, ClientNode, ServedElsewhere


class Access:
    """The ADS server's source. `trusted` are the (namespace, service account) pairs that node proxies run as."""

    def __init__(
        self,
        index: MeshIndex,
        publisher: Publisher,
        trusted: Collection[tuple[str, str]] = TRUSTED_NODE_ACCOUNTS,
        inspection: Inspection | None = None,
        leading: Callable[[], bool] = lambda: True,
    ) -> None:
        self._index = index
        self._publisher = publisher
        self._trusted = trusted
        self._inspection = inspection
        self._leading = leading

    def __call__(self, node: ClientNode, type_url: str) -> ResourceMap | None:
        """The collection of a type for a client; None for a type that nobody is served. Raises AccessDenied, ServedElsewhere."""
        if type_url in INSPECTED and self._inspection is not None:
            return self._inspection(node, type_url)
        if self._index.settings.lift_selector_policies and not self._leading():
            raise ServedElsewhere("with liftSelectorPolicies the leading istiod alone serves configuration")
        if type_url in (types.ADDRESS, types.WORKLOAD, types.AUTHORIZATION):
            return self._wds(node, type_url)
        if type_url in TYPES:
            return self._publisher.waypoints.maps(self._waypoint(node))[type_url]
        return None

    def _wds(self, node: ClientNode, type_url: str) -> ResourceMap:
        if self._account(node) not in self._trusted:
            accounts = ", ".join("/".join(one) for one in sorted(self._trusted))
            raise AccessDenied(f"{self._who(node)} is no node proxy: {type_url} is for {accounts}")
        if type_url == types.WORKLOAD:
            return self._publisher.workloads
        return self._publisher.addresses if type_url == types.ADDRESS else self._publisher.authorizations

    def _waypoint(self, node: ClientNode) -> WaypointKey:
        namespace, account = self._account(node)
        candidates = [
            key
            for key, waypoint in self._index.waypoints.items()
            if waypoint.ours and waypoint.namespace == namespace and waypoint.service_account == account
        ]
        if len(candidates) > 1:
            named = self._gateway_of_pod(node, namespace)
            candidates = [key for key in candidates if key[1] == named]
        if not candidates:
            raise AccessDenied(
                f"{self._who(node)} runs no waypoint: no Gateway of class {names.WAYPOINT_CLASS} has its account"
            )
        return candidates[0]

    def _gateway_of_pod(self, node: ClientNode, namespace: str) -> str:
        """Several Gateways share the account: the pod's own label decides, and nothing that the client claims."""
        pod = node.peer.attributes.get(POD_NAME, "") if node.peer else ""
        record = self._index.tables.workloads.get(pod_uid(namespace, pod))
        return record.labels.get(names.GATEWAY_NAME, "") if record else ""

    @staticmethod
    def _account(node: ClientNode) -> tuple[str, str]:
        attributes = node.peer.attributes if node.peer else {}
        return attributes.get(NAMESPACE, ""), attributes.get(SERVICE_ACCOUNT, "")

    @staticmethod
    def _who(node: ClientNode) -> str:
        return node.peer.identity if node.peer else f"unauthenticated client {node.id!r}"
