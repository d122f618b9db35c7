"""Kubernetes Events, as `kubectl describe` shows them: recorded without waiting, repeated ones counted instead
of repeated.

Events are best effort by nature: when the API server is away they wait in a bounded buffer, the oldest dropped
first.
"""

import asyncio
import time
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

import structlog

from tulle.kube.client import Client
from tulle.kube.codec import identity
from tulle.kube.errors import ApiError, Forbidden, NotFound, Unreachable
from tulle.kube.objects.meta import ObjectReference, now
from tulle.kube.resources import EVENTS, Resource

_BUFFER = 1000
_REMEMBERED = 256
"""Occurrences whose repetition is counted; each takes a kilobyte, and what comes again does so soon."""
_RETRY_SECONDS = 1.0

log = structlog.get_logger("tulle.kube.events")


def reference(res: Resource[Any], obj: Any, field_path: str = "") -> ObjectReference:
    """The reference to ``obj``, for events and for EndpointSlice targets."""
    who = identity(obj)
    return ObjectReference(
        api_version=res.api_version,
        kind=res.kind,
        namespace=who.namespace,
        name=who.name,
        uid=who.uid,
        resource_version=who.resource_version,
        field_path=field_path,
    )


@dataclass(frozen=True)
class _Occurrence:
    ref: ObjectReference
    type: str
    reason: str
    message: str
    at: str

    @property
    def key(self) -> tuple[str, ...]:
        ref = self.ref
        return (ref.kind, ref.namespace, ref.name, ref.uid, ref.field_path, self.type, self.reason, self.message)


@dataclass
class _Written:
    name: str
    namespace: str
    count: int


class EventRecorder:
    """Records events as ``component`` (on ``host``). ``event`` never waits; ``run`` writes them and must be running."""

    def __init__(self, client: Client, component: str, host: str = "") -> None:
        self._client = client
        self._component = component
        self._host = host
        self._buffer: deque[_Occurrence] = deque(maxlen=_BUFFER)
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._written: OrderedDict[tuple[str, ...], _Written] = OrderedDict()

    def event(self, obj_ref: ObjectReference, type: str, reason: str, message: str) -> None:  # noqa: A002
        """Records one event. ``type``: Normal or Warning. ``message`` is cut at 1024 characters, the API's limit."""
        self._buffer.append(_Occurrence(obj_ref, type, reason, message[:1024], now()))
        self._idle.clear()
        self._wake.set()

    async def flush(self) -> None:
        """Returns once everything recorded so far is written or given up; needs ``run``."""
        await self._idle.wait()

    async def run(self) -> None:
        """Writes events until cancelled."""
        while True:
            while self._buffer:
                occurrence = self._buffer[0]
                try:
                    await self._write(occurrence)
                except Unreachable:
                    await asyncio.sleep(_RETRY_SECONDS)
                    continue
                except (NotFound, Forbidden):
                    pass  # The object's namespace is going away: its events have no place any more.
                except ApiError as error:
                    log.warning("event not written", reason=occurrence.reason, error=str(error))
                if self._buffer and self._buffer[0] is occurrence:
                    self._buffer.popleft()
            self._idle.set()
            self._wake.clear()
            await self._wake.wait()

    async def _write(self, occurrence: _Occurrence) -> None:
        known = self._written.get(occurrence.key)
        if known is not None:
            body = {"count": known.count + 1, "lastTimestamp": occurrence.at}
            try:
                await self._client.patch(EVENTS, known.name, body, known.namespace)
            except NotFound:
                del self._written[occurrence.key]
            else:
                known.count += 1
                self._written.move_to_end(occurrence.key)
                return
        await self._create(occurrence)

    async def _create(self, occurrence: _Occurrence) -> None:
        ref = occurrence.ref
        namespace = ref.namespace or "default"
        name = f"{ref.name}.{time.time_ns():x}"
        source = {"component": self._component, **({"host": self._host} if self._host else {})}
        body = {
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": ref,
            "reason": occurrence.reason,
            "message": occurrence.message,
            "source": source,
            "firstTimestamp": occurrence.at,
            "lastTimestamp": occurrence.at,
            "count": 1,
            "type": occurrence.type,
            "reportingComponent": self._component,
            "reportingInstance": self._host,
        }
        await self._client.create(EVENTS, body, namespace)
        self._written[occurrence.key] = _Written(name, namespace, 1)
        while len(self._written) > _REMEMBERED:
            self._written.popitem(last=False)
