"""One ztunnel's connection, without I/O: messages in, messages out.

The session does not queue events; it compares what ztunnel has accepted with what it should have, and asks for one
difference at a time, because every request is answered before the next. So a workload that came and went while another
was under way costs nothing, and an older ztunnel that takes over again after a newer one died is brought up to date by
the same comparison.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from google.protobuf.message import DecodeError

from tulle.xds.proto import zds_pb2

FIRST_RETRY_SECONDS = 0.2
MAX_RETRY_SECONDS = 15.0


@dataclass(frozen=True)
class Workload:
    """A captured pod. ``generation`` changes when its namespace does, so that it is handed over anew."""

    uid: str
    name: str
    namespace: str
    service_account: str
    generation: int


class Phase(Enum):
    """Where a connection is. SNAPSHOT ends when ztunnel has acknowledged ``snapshot_sent``."""

    HELLO = "waiting for ZdsHello"
    SNAPSHOT = "sending the snapshot"
    LIVE = "sending changes"
    CLOSED = "closed"


class Input(Enum):
    """What can happen on a connection."""

    HELLO = "hello"
    ACK = "ack"
    SNAPSHOT_ACK = "ack of snapshot_sent"
    BAD = "message that is not expected here"


TRANSITIONS: Mapping[tuple[Phase, Input], Phase] = {
    (Phase.HELLO, Input.HELLO): Phase.SNAPSHOT,
    (Phase.SNAPSHOT, Input.ACK): Phase.SNAPSHOT,
    (Phase.SNAPSHOT, Input.SNAPSHOT_ACK): Phase.LIVE,
    (Phase.LIVE, Input.ACK): Phase.LIVE,
}
"""Every pair that is not listed closes the connection."""


class Kind(Enum):
    """What a request asks."""

    ADD = "add"
    DEL = "del"
    SNAPSHOT_SENT = "snapshot_sent"


@dataclass(frozen=True)
class Request:
    """One message to send. With ADD goes the workload's namespace descriptor."""

    kind: Kind
    uid: str = ""
    workload: Workload | None = None

    def encode(self) -> bytes:
        """The message's bytes (istio.workload.zds.WorkloadRequest)."""
        message = zds_pb2.WorkloadRequest()
        if self.kind is Kind.ADD and self.workload is not None:
            message.add.uid = self.workload.uid
            message.add.workload_info.name = self.workload.name
            message.add.workload_info.namespace = self.workload.namespace
            message.add.workload_info.service_account = self.workload.service_account
        elif self.kind is Kind.DEL:
            setattr(getattr(message, "del"), "uid", self.uid)  # noqa: B010 - `del` is a keyword
        else:
            message.snapshot_sent.SetInParent()
        return bytes(message.SerializeToString())


@dataclass(frozen=True)
class Verdict:
    """ztunnel's answer to one ADD: accepted, or refused with its reason."""

    workload: Workload
    error: str = ""


@dataclass
class _Refusal:
    generation: int
    attempts: int
    retry_at: float


class Session:
    """State of one connection. Times are monotonic seconds, given by the caller."""

    def __init__(self) -> None:
        self.phase = Phase.HELLO
        self.problem = ""
        self._in_flight: Request | None = None
        self._accepted: dict[str, int] = {}
        self._refused: dict[str, _Refusal] = {}

    @property
    def idle(self) -> bool:
        """Whether the next request may be sent."""
        return self.phase in (Phase.SNAPSHOT, Phase.LIVE) and self._in_flight is None

    @property
    def waiting(self) -> Request | None:
        """The request that ztunnel has not answered yet."""
        return self._in_flight

    def accepted(self, workload: Workload) -> bool:
        """Whether ztunnel holds this workload in this generation."""
        return self._accepted.get(workload.uid) == workload.generation

    def received(self, packet: bytes, now: float) -> Verdict | None:
        """Take one datagram. An unexpected or damaged one closes the session; ``problem`` then says why."""
        if self.phase is Phase.HELLO:
            self._advance(_read_hello(packet), "ZdsHello with version V1 expected first")
            return None
        error, event = self._read_ack(packet)
        request, self._in_flight = self._in_flight, None
        self._advance(event, "WorkloadResponse.ack expected, one for each request")
        if self.phase is Phase.CLOSED or request is None:
            return None
        return self._settle(request, error, now)

    def next(self, desired: Mapping[str, Workload], now: float) -> Request | None:
        """The next request to send, or None when ztunnel has all that can be told now. Marks it as under way."""
        if not self.idle:
            return None
        self._in_flight = self._difference(desired, now)
        return self._in_flight

    def next_retry(self) -> float | None:
        """When a refused workload is due again."""
        return min((r.retry_at for r in self._refused.values()), default=None)

    def close(self, problem: str) -> None:
        self.phase, self.problem, self._in_flight = Phase.CLOSED, problem, None

    def _difference(self, desired: Mapping[str, Workload], now: float) -> Request | None:
        # Of a refused one too: ztunnel may hold its namespace without serving it yet.
        for uid in (*self._accepted, *self._refused):
            if uid not in desired:
                return Request(Kind.DEL, uid)
        for uid, workload in desired.items():
            if self._accepted.get(uid) == workload.generation:
                continue
            if uid in self._accepted:
                return Request(Kind.DEL, uid)  # its namespace is another one now
            refusal = self._refused.get(uid)
            if refusal is None or refusal.generation != workload.generation or now >= refusal.retry_at:
                return Request(Kind.ADD, uid, workload)
        return Request(Kind.SNAPSHOT_SENT) if self.phase is Phase.SNAPSHOT else None

    def _settle(self, request: Request, error: str, now: float) -> Verdict | None:
        workload = request.workload
        if workload is None:
            # A refused DEL leaves nothing to hold on to: the pod is gone, and asking again would never end.
            self._accepted.pop(request.uid, None)
            self._refused.pop(request.uid, None)
            return None
        if not error:
            self._accepted[workload.uid] = workload.generation
            self._refused.pop(workload.uid, None)
            return Verdict(workload)
        before = self._refused.get(workload.uid)
        attempts = before.attempts + 1 if before is not None and before.generation == workload.generation else 1
        delay = min(FIRST_RETRY_SECONDS * 2.0 ** min(attempts - 1, 16), MAX_RETRY_SECONDS)
        self._refused[workload.uid] = _Refusal(workload.generation, attempts, now + delay)
        return Verdict(workload, error)

    def _read_ack(self, packet: bytes) -> tuple[str, Input]:
        response = zds_pb2.WorkloadResponse()
        try:
            response.ParseFromString(packet)
        except DecodeError:
            return "", Input.BAD
        if response.WhichOneof("payload") != "ack" or self._in_flight is None:
            return "", Input.BAD
        kind = Input.SNAPSHOT_ACK if self._in_flight.kind is Kind.SNAPSHOT_SENT else Input.ACK
        return str(response.ack.error), kind

    def _advance(self, event: Input, expected: str) -> None:
        target = TRANSITIONS.get((self.phase, event))
        if target is None:
            self.close(f"{self.phase.value}: {event.value}; {expected}")
        else:
            self.phase = target


def _read_hello(packet: bytes) -> Input:
    hello = zds_pb2.ZdsHello()
    try:
        hello.ParseFromString(packet)
    except DecodeError:
        return Input.BAD
    return Input.HELLO if hello.version == zds_pb2.V1 else Input.BAD
