"""RequestAuthentications by namespace: which of them say whose tokens count for a target of a waypoint.

A waypoint looks in three namespaces and only at objects with targetRefs (spec C6); a selector speaks of pods, and no pod's own proxy
reads tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

from tulle.istiod.index.records import ObjectKey
from tulle.security.attachment import attaches_at_waypoint
from tulle.security.model import RequestAuthentication
from tulle.security.views import ServiceView, WaypointView


class RequestAuthentications:
    """All of them, found by namespace."""

    def __init__(self) -> None:
        self._by_namespace: dict[str, dict[str, RequestAuthentication]] = {}

    def put(self, key: ObjectKey, new: RequestAuthentication | None) -> RequestAuthentication | None:
        """Put one in place, or with None take it away; returns the one that was there."""
        namespace, name = key
        found = self._by_namespace.setdefault(namespace, {})
        old = found.pop(name, None)
        if new is not None:
            found[name] = new
        if not found:
            del self._by_namespace[namespace]
        return old

    def attached(
        self, service: ServiceView | None, namespace: str, waypoint: WaypointView, root_namespace: str
    ) -> Iterator[RequestAuthentication]:
        """Those that cover traffic through a waypoint to a service of ``namespace`` (None: to a pod there)."""
        for where in dict.fromkeys((root_namespace, waypoint.namespace, namespace)):
            found = self._by_namespace.get(where, {})
            for name in sorted(found):
                if attaches_at_waypoint(found[name], waypoint, service, root_namespace):
                    yield found[name]
