"""The older, state-of-the-world form of the protocol, for tools that speak nothing else.

In it every response holds all that the client asked for. It is answered by the same state machine as the delta form:
this adapter turns requests into delta requests and each delta response into a full one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b

from envoy.service.discovery.v3 import discovery_pb2

from tulle.xds.delta import WILDCARD, Rejection, ServerStream
from tulle.xds.resources import Entry, ResourceMap
from tulle.xds.subscription import CONTROL_PLANE


@dataclass(frozen=True, slots=True)
class FullPush:
    """One response: everything that is subscribed to, as it is now."""

    type_url: str
    nonce: str
    entries: tuple[Entry, ...]

    def encode(self, control_plane: str = CONTROL_PLANE) -> bytes:
        """The ``DiscoveryResponse``. Its version is a hash of the resources' versions."""
        digest = blake2b(digest_size=12)
        for entry in self.entries:
            digest.update(f"{entry.name}\0{entry.version}\0".encode())
        response = discovery_pb2.DiscoveryResponse(
            version_info=digest.hexdigest(), type_url=self.type_url, nonce=self.nonce
        )
        response.resources.extend(entry.envelope().resource for entry in self.entries)
        response.control_plane.identifier = control_plane
        encoded: bytes = response.SerializeToString()
        return encoded


@dataclass(slots=True)
class _Asked:
    names: frozenset[str]
    nonce: str = ""


@dataclass(slots=True)
class SotwStream:
    """A client's stream in state-of-the-world form; used like ``ServerStream``."""

    inner: ServerStream
    _asked: dict[str, _Asked] = field(default_factory=dict)

    @classmethod
    def make(cls, source: Callable[[str], ResourceMap | None], on_work: Callable[[], None]) -> SotwStream:
        """As the constructor of ``ServerStream``."""
        # Each response holds everything, so sending parts again would not show which one is at fault.
        return cls(ServerStream(source, on_work, narrow=False))

    def receive(self, request: discovery_pb2.DiscoveryRequest) -> Rejection | None:
        """Take one request; returns the refusal if it was one. An answer to anything but the last response is stale."""
        asked = self._asked.get(request.type_url)
        if asked is not None and request.response_nonce and request.response_nonce != asked.nonce:
            return None
        names = frozenset(request.resource_names)
        delta = discovery_pb2.DeltaDiscoveryRequest(type_url=request.type_url, response_nonce=request.response_nonce)
        if asked is None:
            asked = self._asked[request.type_url] = _Asked(names)
            delta.resource_names_subscribe.extend(sorted(names))
        elif asked.names or WILDCARD in names:
            delta.resource_names_subscribe.extend(sorted(names - asked.names))
            delta.resource_names_unsubscribe.extend(sorted(asked.names - names))
            asked.names = names
        if request.HasField("error_detail"):
            delta.error_detail.CopyFrom(request.error_detail)
        return self.inner.receive(delta)

    def pushes(self) -> Iterator[FullPush]:
        """Every response that may go out now, in order."""
        for push in self.inner.pushes():
            self._asked[push.type_url].nonce = push.nonce
            yield FullPush(push.type_url, push.nonce, self.inner.covered(push.type_url))

    @property
    def has_work(self) -> bool:
        """See ``ServerStream``."""
        return self.inner.has_work

    @property
    def waiting(self) -> bool:
        """See ``ServerStream``."""
        return self.inner.waiting

    def stop_waiting(self) -> None:
        """See ``ServerStream``."""
        self.inner.stop_waiting()

    def close(self) -> None:
        """The stream ended."""
        self.inner.close()
