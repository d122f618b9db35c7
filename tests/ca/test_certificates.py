"""The node's certificates: ahead of use, renewed at half-life, kept while valid, never wrong."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from functools import partial

import pytest
from ca_support import Clock, make_csr
from cryptography import x509
from envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2
from hypothesis import given
from hypothesis import strategies as st

from tests.support.revoking import revocation_list
from tulle.envoy.cert_request import AnswerError, Request, accept
from tulle.envoy.cert_schedule import LONGEST_PAUSE, Timetable, refresh_time, retry_pause
from tulle.envoy.certificates import ROOT, CaError, CertificateManager, Released
from tulle.envoy.revocations import parse
from tulle.istiod.ca import x509 as shapes
from tulle.istiod.ca.authority import ROOT_LIFETIME, Authority, Roots

A, B = "spiffe://cluster.local/ns/x/sa/a", "spiffe://cluster.local/ns/x/sa/b"


class Ca:
    """An authority that can be away, slow, or wrong."""

    def __init__(self, authority: Authority) -> None:
        self.authority = authority
        self.away = False
        self.asked: list[str] = []
        self.at_once = 0
        self.most_at_once = 0
        self.open = asyncio.Event()
        self.open.set()
        self.name: Callable[[str], str] = lambda identity: identity

    async def sign(self, identity: str, csr_pem: bytes, impersonate: bool) -> tuple[str, ...]:
        self.asked.append(identity)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.open.wait()
            if self.away:
                raise CaError("nobody answers", unreachable=True)
            if self.name(identity) != identity:
                return self.authority.sign(make_csr(), self.name(identity))
            return self.authority.sign(csr_pem, identity)
        finally:
            self.at_once -= 1


class Managed:
    """A manager at work."""

    def __init__(self, authority: Authority, clock: Clock) -> None:
        self.clock = clock
        self.ca = Ca(authority)
        self.manager = CertificateManager(self.ca, True, clock.seconds, jitter=lambda: 0.0)

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.manager.wake()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not true():
                await asyncio.sleep(0.005)

    def serial(self, identity: str) -> int:
        state = self.manager.state(identity)
        return 0 if state is None else state.serial

    def failures(self, identity: str) -> int:
        state = self.manager.state(identity)
        return 0 if state is None else state.failures


@pytest.fixture
async def managed(authority: Authority, clock: Clock) -> AsyncIterator[Managed]:
    made = Managed(authority, clock)
    task = asyncio.create_task(made.manager.run())
    yield made
    task.cancel()
    await asyncio.wait((task,))


async def test_prefetch_serves_secret_and_roots(managed: Managed) -> None:
    managed.manager.want(A)
    state = await managed.manager.ready(A)
    assert state.status == "Available"
    entry = managed.manager.secrets.get(A)
    root = managed.manager.secrets.get(ROOT)
    assert entry is not None
    assert root is not None
    secret = secret_pb2.Secret.FromString(entry.body())
    assert secret.name == A
    assert secret.tls_certificate.certificate_chain.inline_bytes.decode() == "".join(state.chain_pem)
    trusted = secret_pb2.Secret.FromString(root.body()).validation_context.trusted_ca.inline_bytes
    assert trusted.decode() == managed.ca.authority.root_pem
    assert "PRIVATE" not in repr(state)


async def test_renewed_at_half_life(managed: Managed) -> None:
    managed.manager.want(A)
    first = await managed.manager.ready(A)
    managed.advance(12 * 3600 - 1)
    await asyncio.sleep(0.02)
    assert managed.serial(A) == first.serial
    managed.advance(2)
    await managed.until(lambda: managed.serial(A) not in (0, first.serial))


def validation(managed: Managed) -> common_pb2.CertificateValidationContext:
    entry = managed.manager.secrets.get(ROOT)
    assert entry is not None
    return secret_pb2.Secret.FromString(entry.body()).validation_context


@pytest.mark.parametrize("expired", [True, False])
async def test_a_root_goes_with_the_last_certificate_that_came_with_it(
    managed: Managed, clock: Clock, expired: bool
) -> None:
    old, new = (shapes.self_signed_root("cluster.local", clock(), ROOT_LIFETIME) for _ in range(2))
    managed.ca.authority = Authority(Roots((old.certificate,), signer=old), clock=clock)
    managed.manager.want(A)
    await managed.manager.ready(A)
    if expired:
        managed.advance(6 * 3600)
    managed.ca.authority = Authority(Roots((new.certificate,), signer=new), clock=clock)
    managed.manager.want(B)
    await managed.manager.ready(B)
    both = validation(managed).trusted_ca.inline_bytes
    assert both == (shapes.pem([old.certificate]) + shapes.pem([new.certificate])).encode()
    if expired:
        managed.ca.open.clear()
        managed.advance(18 * 3600)
    else:
        managed.manager.release(A)
    assert validation(managed).trusted_ca.inline_bytes == shapes.pem([new.certificate]).encode()


async def test_revocation_lists_go_with_the_roots(managed: Managed, clock: Clock) -> None:
    root = shapes.self_signed_root("cluster.local", clock(), ROOT_LIFETIME)
    managed.ca.authority = Authority(Roots((root.certificate,), signer=root), clock=clock)
    listed = parse(revocation_list(root, 1).encode())
    managed.manager.revoke(listed)
    managed.manager.want(A)
    await managed.manager.ready(A)
    assert validation(managed).crl.inline_bytes == listed.pem
    assert not validation(managed).only_verify_leaf_cert_crl
    managed.manager.revoke(parse(b""))
    assert not validation(managed).HasField("crl")


async def test_a_revoked_certificate_is_replaced_at_once(managed: Managed, clock: Clock) -> None:
    root = shapes.self_signed_root("cluster.local", clock(), ROOT_LIFETIME)
    managed.ca.authority = Authority(Roots((root.certificate,), signer=root), clock=clock)
    for identity in (A, B):
        managed.manager.want(identity)
    first, other = await managed.manager.ready(A), await managed.manager.ready(B)
    managed.manager.revoke(parse(revocation_list(root, first.serial).encode()))
    await managed.until(lambda: managed.serial(A) not in (0, first.serial))
    assert managed.serial(B) == other.serial


async def test_an_old_one_serves_until_it_expires_and_no_longer(managed: Managed) -> None:
    managed.manager.want(A)
    first = await managed.manager.ready(A)
    managed.ca.away = True
    managed.advance(12 * 3600)
    await managed.until(lambda: managed.failures(A) > 0)
    assert managed.serial(A) == first.serial
    managed.advance(12 * 3600 - 60)
    assert A in managed.manager.secrets
    assert managed.serial(A) == first.serial
    managed.advance(60)
    await managed.until(lambda: A not in managed.manager.secrets)
    state = managed.manager.state(A)
    assert state is not None
    assert state.status == "Unavailable"
    assert "nobody answers" in state.error
    managed.ca.away = False
    managed.advance(LONGEST_PAUSE)
    assert (await managed.manager.ready(A)).serial != first.serial


def failed(managed: Managed, times: int) -> bool:
    return managed.failures(A) == times


async def test_attempts_get_rarer_up_to_a_bound(managed: Managed) -> None:
    managed.ca.away = True
    managed.manager.want(A)
    for attempt in range(1, 15):
        await managed.until(partial(failed, managed, attempt))
        managed.advance(retry_pause(attempt, lambda: 0.0))
    assert retry_pause(14, lambda: 1.0) == LONGEST_PAUSE


async def test_when_the_authority_is_back_nobody_waits_for_a_long_pause(managed: Managed) -> None:
    managed.ca.away = True
    managed.manager.want(A)
    await managed.until(lambda: len(managed.ca.asked) == 1)
    for attempt in range(1, 10):
        await managed.until(partial(failed, managed, attempt))
        managed.advance(retry_pause(attempt, lambda: 0.0))
    await managed.until(partial(failed, managed, 10))
    managed.ca.away = False
    managed.manager.want(B)
    await managed.manager.ready(B)
    await managed.manager.ready(A)


async def test_eight_at_once_and_demand_first(managed: Managed) -> None:
    managed.ca.open.clear()
    names = [f"spiffe://cluster.local/ns/x/sa/s{i}" for i in range(20)]
    for name in names:
        managed.manager.want(name)
    await managed.until(lambda: len(managed.ca.asked) == 8)
    waiting = asyncio.create_task(managed.manager.ready(names[19]))
    await asyncio.sleep(0)
    managed.ca.open.set()
    await waiting
    await managed.until(lambda: len(managed.ca.asked) == 20)
    assert managed.ca.most_at_once == 8
    assert managed.ca.asked[8] == names[19]


async def test_forgotten_with_the_last_workload(managed: Managed) -> None:
    managed.manager.want(A)
    managed.manager.want(A)
    await managed.manager.ready(A)
    assert managed.ca.asked == [A]
    managed.manager.release(A)
    assert A in managed.manager.secrets
    managed.manager.release(A)
    assert A not in managed.manager.secrets
    assert managed.manager.state(A) is None
    with pytest.raises(Released):
        await managed.manager.ready(A)


async def test_released_while_it_is_being_signed(managed: Managed) -> None:
    managed.ca.open.clear()
    managed.manager.want(A)
    await managed.until(lambda: managed.ca.asked == [A])
    waiting = asyncio.create_task(managed.manager.ready(A))
    await asyncio.sleep(0)
    managed.manager.release(A)
    managed.ca.open.set()
    with pytest.raises(Released):
        await waiting
    assert list(managed.manager.secrets) == []


async def test_a_certificate_for_another_name_or_key_is_not_used(managed: Managed) -> None:
    managed.ca.name = lambda identity: B
    managed.manager.want(A)
    await managed.until(lambda: managed.failures(A) > 0)
    state = managed.manager.state(A)
    assert state is not None
    assert "another key" in state.error
    assert list(managed.manager.secrets) == []


def test_answers_that_do_not_fit(authority: Authority, clock: Clock) -> None:
    request = Request.make(A)
    leaf, middle, root = authority.sign(request.csr, A)
    other_root = shapes.self_signed_root("x", clock(), timedelta(days=1))
    other = Authority(Roots((other_root.certificate,), root=other_root), clock=clock)
    theirs = other.sign(request.csr, A)
    named_b = authority.sign(make_csr_of(request), B)[0]
    now = clock.seconds()
    assert accept(request, (leaf, middle, root), now).identity == A
    wrong: list[tuple[tuple[str, ...], float, str]] = [
        ((), now, "elements"),
        ((leaf,), now, "elements"),
        (("nonsense", root), now, "not PEM"),
        ((named_b, middle, root), now, "names"),
        ((authority.sign(make_csr(), A)[0], middle, root), now, "another key"),
        ((leaf, middle, theirs[-1]), now, "does not lead"),
        ((leaf, theirs[1], theirs[2]), now, "not issued"),
        ((leaf, root), now, "does not lead"),
        ((leaf, middle, root), now + 86400, "valid from"),
        ((leaf, middle, root), now - 600, "valid from"),
    ]
    for answer, when, said in wrong:
        with pytest.raises(AnswerError, match=said):
            accept(request, answer, when)


def make_csr_of(request: Request) -> bytes:
    return make_csr((x509.BasicConstraints(ca=False, path_length=None), True), key=request.key)


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "drop", "hurry", "take"]), st.sampled_from("abcd"), st.integers(0, 5)),
        max_size=60,
    )
)
def test_timetable_is_a_sorted_list(steps: list[tuple[str, str, int]]) -> None:
    table, due, urgent, now = Timetable(), dict[str, float](), set[str](), 0.0
    for what, name, number in steps:
        if what == "put":
            table.put(name, now + number)
            due[name] = now + number
        elif what == "drop":
            table.drop(name)
            due.pop(name, None)
            urgent.discard(name)
        elif what == "hurry":
            table.hurry(name)
            urgent |= {name} & due.keys()
        else:
            now += number
            ready = {key for key, when in due.items() if when <= now}
            best = min(ready, key=lambda key: (key not in urgent, due[key], key), default=None)
            assert table.take(now) == best
            due.pop(best or "", None)
            urgent.discard(best or "")
        assert table.next_due() == min(due.values(), default=None)


@given(st.integers(1, 10**6), st.floats(0, 1))
def test_pauses_are_bounded(failures: int, jitter: float) -> None:
    assert 0 < retry_pause(failures, lambda: jitter) <= LONGEST_PAUSE


@given(st.floats(0, 1))
def test_renewal_is_between_the_middle_and_a_little_before(jitter: float) -> None:
    assert 45.0 <= refresh_time(0.0, 100.0, lambda: jitter) <= 50.0
