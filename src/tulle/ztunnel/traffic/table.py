"""The connections that are open now, by the pod they belong to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import msgspec

from tulle.ztunnel.traffic.flow import Flow
from tulle.ztunnel.traffic.line import Line, split
from tulle.ztunnel.traffic.sockets import Ends

Key: TypeAlias = tuple[str, str, str]


class Connection(msgspec.Struct, frozen=True):
    """One connection of a pod; `key` is that of the lines about it, `tunnel` the two ends of its tunnel if it has one."""

    key: Key
    source: str
    flow: Flow
    tunnel: tuple[str, str] | None = None

    @property
    def pod(self) -> str:
        return self.key[0]

    @property
    def ends(self) -> Ends | None:
        """The connection to the app, of an inbound one.

        The app's end is closed, so that Envoy sees a reset and passes a reset on: cut off must not look like complete.
        Where the app is told of the peer by a header, Envoy does not tell its connection; then it is the tunnel, which
        carries nothing but connections of the same client.
        """
        if not self.flow.inbound:
            return None
        local, remote = split(self.key[1]), split(self.key[2])
        return Ends(remote, local) if local is not None and remote is not None else self.tunnel_ends

    @property
    def tunnel_ends(self) -> Ends | None:
        """The two ends of its tunnel."""
        local, remote = map(split, self.tunnel or ("", ""))
        return Ends(local, remote) if local is not None and remote is not None else None

    def dump(self) -> dict[str, Any]:
        """As tools read it from `/config_dump`."""
        return {
            "src": self.source,
            "originalDst": self.flow.original,
            "actualDst": self.flow.actual,
            "protocol": self.flow.protocol,
        }


class OpenConnections:
    """Filled by "opened" lines, emptied by "ended" lines; `forbidden` remembers why one is being closed."""

    def __init__(self) -> None:
        self._by_pod: dict[str, dict[Key, Connection]] = {}
        self._closing: dict[Key, str] = {}

    def add(self, connection: Connection) -> None:
        self._by_pod.setdefault(connection.pod, {})[connection.key] = connection

    def remove(self, line: Line) -> tuple[Connection | None, str]:
        """The connection that ended, None if it was never open, and why it was closed here, "" if it was not."""
        key = line.key
        reason = self._closing.pop(key, "")
        of_pod = self._by_pod.get(line.pod)
        if of_pod is None:
            return None, reason
        connection = of_pod.pop(key, None)
        if not of_pod:
            del self._by_pod[line.pod]
        return connection, reason

    def closing(self, connection: Connection, reason: str) -> None:
        """Remember why a connection, which has just been closed, is about to end."""
        self._closing[connection.key] = reason

    def inbound(self, pod: str) -> list[Connection]:
        """The open inbound connections of a pod that nobody has closed yet."""
        return [c for c in self.of(pod) if c.flow.inbound and c.key not in self._closing]

    def of(self, pod: str) -> Iterator[Connection]:
        return iter(self._by_pod.get(pod, {}).values())

    def clear(self) -> list[Connection]:
        """All are gone, because Envoy is; those that were open."""
        gone = [connection for of_pod in self._by_pod.values() for connection in of_pod.values()]
        self._by_pod.clear()
        self._closing.clear()
        return gone

    def __len__(self) -> int:
        return sum(map(len, self._by_pod.values()))

    def dump(self, pod: str) -> dict[str, list[dict[str, Any]]]:
        """A pod's connections as tools read them from `/config_dump`."""
        return {
            "inbound": [c.dump() for c in self.of(pod) if c.flow.inbound],
            "outbound": [c.dump() for c in self.of(pod) if not c.flow.inbound],
        }
