"""The ZDS session: its state table swept whole, and convergence for any history of pods and answers."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tulle.cni.zds.session import TRANSITIONS, Input, Kind, Phase, Request, Session, Workload
from tulle.xds.proto import zds_pb2

HELLO = zds_pb2.ZdsHello(version=zds_pb2.V1).SerializeToString()


def ack(error: str = "") -> bytes:
    answer = zds_pb2.WorkloadResponse()
    answer.ack.error = error
    answer.ack.SetInParent()
    return bytes(answer.SerializeToString())


def workload(uid: str, generation: int = 1) -> Workload:
    return Workload(uid, f"pod-{uid}", "shop", "default", generation)


def live() -> Session:
    session = Session()
    session.received(HELLO, 0)
    assert session.next({}, 0) == Request(Kind.SNAPSHOT_SENT)
    session.received(ack(), 0)
    assert session.phase is Phase.LIVE
    return session


def test_every_pair_that_is_not_in_the_table_closes() -> None:
    packets = {Input.HELLO: HELLO, Input.BAD: b"\xff\xff", Input.ACK: ack(), Input.SNAPSHOT_ACK: ack()}
    for phase, event in itertools.product((Phase.HELLO, Phase.SNAPSHOT, Phase.LIVE), Input):
        session = Session()
        if phase is not Phase.HELLO:
            session.received(HELLO, 0)
        if phase is Phase.LIVE:
            session = live()
        if event is Input.SNAPSHOT_ACK and phase is Phase.LIVE:
            continue  # snapshot_sent is never under way when live: the pair cannot arise
        if event in (Input.ACK, Input.SNAPSHOT_ACK) and phase is not Phase.HELLO:
            session.next({"a": workload("a")} if event is Input.ACK else {}, 0)
        before = session.phase
        session.received(packets[event], 0)
        assert session.phase is TRANSITIONS.get((before, event), Phase.CLOSED), (phase, event)
        assert (session.phase is Phase.CLOSED) == bool(session.problem)


def test_snapshot_then_end_of_snapshot_then_changes() -> None:
    session = Session()
    assert session.next({"a": workload("a")}, 0) is None, "nothing is sent before the hello"
    session.received(HELLO, 0)
    first = session.next({"a": workload("a")}, 0)
    assert first == Request(Kind.ADD, "a", workload("a"))
    assert session.next({"a": workload("a")}, 0) is None, "one request at a time"
    verdict = session.received(ack(), 0)
    assert verdict is not None
    assert verdict.error == ""
    assert session.next({"a": workload("a")}, 0) == Request(Kind.SNAPSHOT_SENT)
    session.received(ack(), 0)
    assert session.next({}, 0) == Request(Kind.DEL, "a")


def test_a_refused_workload_that_has_left_is_taken_back() -> None:
    """ztunnel may hold the namespace all the same: it refuses, too, what it has taken and does not serve yet."""
    session = live()
    session.next({"a": workload("a")}, 0)
    session.received(ack("Envoy does not listen"), 0)
    assert session.next({}, 0) == Request(Kind.DEL, "a")
    session.received(ack("not known"), 0)
    assert session.next({}, 0) is None
    assert session.next_retry() is None


def test_a_refused_workload_is_tried_again_later_and_does_not_hold_up_the_snapshot() -> None:
    session = Session()
    session.received(HELLO, 0)
    desired = {"a": workload("a")}
    session.next(desired, 0)
    verdict = session.received(ack("no such netns"), 0)
    assert verdict is not None
    assert verdict.error == "no such netns"
    assert session.next(desired, 0) == Request(Kind.SNAPSHOT_SENT)
    session.received(ack(), 0)
    assert session.next(desired, 0) is None
    due = session.next_retry()
    assert due is not None
    assert session.next(desired, due) == Request(Kind.ADD, "a", workload("a"))


def test_a_new_namespace_of_the_same_pod_replaces_the_old_one() -> None:
    session = live()
    session.next({"a": workload("a", 1)}, 0)
    session.received(ack(), 0)
    assert session.next({"a": workload("a", 2)}, 0) == Request(Kind.DEL, "a")
    session.received(ack(), 0)
    assert session.next({"a": workload("a", 2)}, 0) == Request(Kind.ADD, "a", workload("a", 2))


def test_wire_form() -> None:
    message = zds_pb2.WorkloadRequest.FromString(Request(Kind.ADD, "u", workload("u")).encode())
    assert (message.add.uid, message.add.workload_info.name, message.add.workload_info.service_account) == (
        "u",
        "pod-u",
        "default",
    )
    assert Request(Kind.DEL, "u").encode() == bytes([0x12, 3, 0x12, 1]) + b"u"
    assert Request(Kind.SNAPSHOT_SENT).encode() == bytes([0x1A, 0])


@pytest.mark.parametrize("packet", [b"", b"\x08\x02", b"garbage", ack()])
def test_a_connection_must_begin_with_hello_version_1(packet: bytes) -> None:
    session = Session()
    session.received(packet, 0)
    assert session.phase is Phase.CLOSED


@given(st.binary(max_size=64))
def test_any_bytes_leave_a_session_open_only_where_the_protocol_allows(packet: bytes) -> None:
    session = live()
    session.next({"a": workload("a")}, 0)
    session.received(packet, 0)
    assert session.phase in (Phase.LIVE, Phase.CLOSED)


class Convergence(RuleBasedStateMachine):
    """Pods come and go, ztunnel accepts or refuses; what the model ztunnel holds follows what is desired."""

    def __init__(self) -> None:
        super().__init__()
        self.session = Session()
        self.session.received(HELLO, 0)
        self.desired: dict[str, Workload] = {}
        self.held: dict[str, int] = {}
        self.now = 0.0
        self.generation = 0
        self.ended = 0

    @rule(uid=st.sampled_from("abc"))
    def pod_comes(self, uid: str) -> None:
        self.generation += 1
        self.desired[uid] = workload(uid, self.generation)

    @rule(uid=st.sampled_from("abc"))
    def pod_goes(self, uid: str) -> None:
        self.desired.pop(uid, None)

    @rule(refused=st.booleans())
    def one_exchange(self, refused: bool) -> None:
        request = self.session.waiting or self.session.next(self.desired, self.now)
        if request is None:
            return
        if request.kind is Kind.SNAPSHOT_SENT:
            self.ended += 1
            refused = False
        elif request.workload is None:
            assert request.uid in self.held, "only what ztunnel holds is taken back"
            del self.held[request.uid]
            refused = False
        elif not refused:
            assert request.uid not in self.held, "a workload is not added twice"
            self.held[request.uid] = request.workload.generation
        self.session.received(ack("no" if refused else ""), self.now)

    @rule()
    def time_passes(self) -> None:
        self.now += 100.0

    @precondition(lambda self: self.session.idle)
    @rule()
    def settles(self) -> None:
        self.now += 100.0
        while (request := self.session.next(self.desired, self.now)) is not None:
            if request.kind is Kind.SNAPSHOT_SENT:
                self.ended += 1
            elif request.workload is None:
                del self.held[request.uid]
            else:
                self.held[request.uid] = request.workload.generation
            self.session.received(ack(), self.now)
        assert self.held == {uid: w.generation for uid, w in self.desired.items()}

    @invariant()
    def the_snapshot_ends_once(self) -> None:
        assert self.ended <= 1
        assert self.session.phase is not Phase.CLOSED


TestConvergence = Convergence.TestCase
