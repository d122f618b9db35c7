"""Clusters that were sent and have no endpoints yet.

An Envoy takes a new or changed cluster into use when its endpoints have arrived, which it asks for only after it got the
cluster. A route to the cluster that arrives in between fails requests. So listeners and routes wait until the endpoints
of every cluster that was sent are acknowledged; what will never come is not waited for, and whoever drives the stream
bounds the wait (``ServerStream.stop_waiting``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Warming:
    """Load assignments that are waited for: their name -> the clusters that need them."""

    _waited: dict[str, set[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self._waited)

    def sent(self, cluster: str, endpoints: str) -> None:
        """A cluster was sent that needs those endpoints."""
        self._waited.setdefault(endpoints, set()).add(cluster)

    def arrived(self, endpoints: Iterable[str]) -> None:
        """The client has answered for those endpoints, whether they exist or not."""
        for name in endpoints:
            self._waited.pop(name, None)

    def gone(self, clusters: Iterable[str]) -> None:
        """Those clusters were refused or taken away; nobody will ask for their endpoints."""
        for cluster in clusters:
            for endpoints in [name for name, waiting in self._waited.items() if cluster in waiting]:
                self._waited[endpoints].discard(cluster)
                if not self._waited[endpoints]:
                    del self._waited[endpoints]

    def forget(self, hopeless: Callable[[str], bool]) -> None:
        """Stop waiting for endpoints that the client was told do not exist."""
        self.arrived([name for name in self._waited if hopeless(name)])

    def clear(self) -> None:
        """Stop waiting."""
        self._waited.clear()
