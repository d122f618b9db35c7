"""The certificates of the workloads behind an Envoy: asked for ahead, renewed in time, forgotten when not needed.

Keys are made here and go nowhere but to the Envoy beside this process, as Secret resources over a unix socket. A
certificate is renewed at half of its life; while the authority cannot be reached the old one serves until it expires,
and after that none does.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2

from tulle.envoy.ca_client import CaClient, CaError
from tulle.envoy.cert_request import AnswerError, Request, Svid, accept, load
from tulle.envoy.cert_schedule import Timetable, refresh_time, retry_pause
from tulle.envoy.revocations import Depth, Revocations
from tulle.xds import types
from tulle.xds.resources import ResourceMap

__all__ = ["ROOT", "CaClient", "CaError", "CertificateManager", "CertificateState", "Released", "Signer"]

_log = structlog.get_logger(__name__)

#: The name of the Secret that holds the roots.
ROOT: Final = "ROOTCA"
_CONCURRENT: Final = 8
_LONGEST_SLEEP: Final = 30.0  # the wall clock may be set while this process sleeps


class Signer(Protocol):
    """Whoever signs: ``CaClient``, or another way to the authority. Raises CaError."""

    async def sign(self, identity: str, csr_pem: bytes, impersonate: bool) -> tuple[str, ...]:
        """The chain for a request, leaf first and roots last."""


class Released(Exception):  # noqa: N818 (an event, not a fault)
    """Nobody wants that identity (any more), so no certificate of it will come."""


@dataclass(frozen=True, slots=True)
class CertificateState:
    """What is known of one identity's certificate, without its key. Times in Unix seconds, 0 for none.

    ``status``: "Initializing" (none yet), "Available", or "Unavailable" (the last attempt failed and none is valid).
    """

    identity: str
    status: str
    serial: int = 0
    not_before: float = 0.0
    not_after: float = 0.0
    refresh_at: float = 0.0
    failures: int = 0
    error: str = ""
    chain_pem: tuple[str, ...] = ()
    roots_pem: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class _Entry:
    identity: str
    wanted: int = 0
    svid: Svid | None = None
    refresh_at: float = 0.0
    failures: int = 0
    error: str = ""
    unreachable: bool = False
    valid: asyncio.Event = field(default_factory=asyncio.Event)


class CertificateManager:
    """One certificate per identity (SPIFFE URI) that is wanted (D9).

    ``impersonate``: the caller asks in the name of others (a node proxy) rather than for itself (a waypoint).
    ``clock`` is wall time in Unix seconds. ``secrets`` is what the local Envoy is served: one Secret per identity, and
    ``ROOTCA``. Expects ``run`` to be running.
    """

    def __init__(
        self,
        ca: Signer,
        impersonate: bool,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._ca = ca
        self._impersonate = impersonate
        self._clock = clock
        self._jitter = jitter
        self._entries: dict[str, _Entry] = {}
        self._timetable = Timetable()
        self._work = asyncio.Event()
        self._revocations = Revocations()
        self._depth = Depth.NOTHING
        self.secrets = ResourceMap(types.SECRET, on_wanted=self.demand)

    # What is wanted

    def want(self, identity: str) -> None:
        """One more workload of that identity is here; its certificate is fetched ahead of use.

        Each call needs one ``release``.
        """
        entry = self._entries.get(identity)
        if entry is None:
            entry = self._entries[identity] = _Entry(identity)
            self._plan(identity, self._clock())
        entry.wanted += 1

    def demand(self, identity: str) -> None:
        """Somebody waits for that identity's certificate: it goes before those that are only fetched ahead."""
        self._timetable.hurry(identity)

    def release(self, identity: str) -> None:
        """A workload of that identity went; with the last one its certificate and key are forgotten.

        Raises KeyError for an identity that is not wanted.
        """
        entry = self._entries[identity]
        entry.wanted -= 1
        if entry.wanted:
            return
        del self._entries[identity]
        self._timetable.drop(identity)
        self.secrets.remove(identity)
        self._publish_roots()
        entry.valid.set()

    async def ready(self, identity: str) -> CertificateState:
        """Wait for a valid certificate of an identity. Raises Released if it is not wanted, or not any more."""
        entry = self._entries.get(identity)
        if entry is None:
            raise Released(identity)
        self.demand(identity)
        await entry.valid.wait()
        if self._entries.get(identity) is not entry:
            raise Released(identity)
        return self._state(entry)

    # What is known

    def state(self, identity: str) -> CertificateState | None:
        """What is known of an identity's certificate; ``None`` if it is not wanted."""
        entry = self._entries.get(identity)
        return None if entry is None else self._state(entry)

    def states(self) -> tuple[CertificateState, ...]:
        """What is known of every wanted identity's certificate."""
        return tuple(self._state(entry) for entry in self._entries.values())

    def _state(self, entry: _Entry) -> CertificateState:
        svid = entry.svid
        if svid is None or svid.not_after <= self._clock():
            status = "Unavailable" if entry.failures else "Initializing"
            return CertificateState(entry.identity, status, failures=entry.failures, error=entry.error)
        return CertificateState(
            entry.identity,
            "Available",
            svid.serial,
            svid.not_before,
            svid.not_after,
            entry.refresh_at,
            entry.failures,
            entry.error,
            svid.chain_pem,
            svid.roots_pem,
        )

    # The work

    async def run(self) -> None:
        """Fetch and renew until cancelled."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_CONCURRENT):
                group.create_task(self._worker())
            group.create_task(self._expire())

    def wake(self) -> None:
        """The clock was set: look again at what is due."""
        self.drop_expired()
        self._work.set()

    def _plan(self, identity: str, due: float) -> None:
        self._timetable.put(identity, due)
        self._work.set()

    async def _worker(self) -> None:
        while True:
            identity = self._timetable.take(self._clock())
            if identity is None:
                await self._pause(self._timetable.next_due())
                continue
            entry = self._entries[identity]
            await self._fetch(entry)

    async def _pause(self, until: float | None) -> None:
        seconds = _LONGEST_SLEEP if until is None else max(0.0, min(until - self._clock(), _LONGEST_SLEEP))
        self._work.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._work.wait()
        except TimeoutError:
            return

    async def _fetch(self, entry: _Entry) -> None:
        request = Request.make(entry.identity)
        try:
            answer = await self._ca.sign(entry.identity, request.csr, self._impersonate)
            svid = accept(request, answer, self._clock())
        except (CaError, AnswerError) as error:
            self._failed(entry, str(error), unreachable=isinstance(error, CaError) and error.unreachable)
            return
        self._succeeded(entry, svid)

    def _failed(self, entry: _Entry, reason: str, *, unreachable: bool) -> None:
        if self._entries.get(entry.identity) is not entry:
            return
        entry.failures += 1
        entry.error = reason
        entry.unreachable = unreachable
        pause = retry_pause(entry.failures, self._jitter)
        _log.warning("certificate_failed", identity=entry.identity, reason=reason, retry_in=round(pause, 1))
        self._plan(entry.identity, self._clock() + pause)

    def _succeeded(self, entry: _Entry, svid: Svid) -> None:
        if self._entries.get(entry.identity) is not entry:
            return
        now = self._clock()
        entry.svid = svid
        entry.refresh_at = refresh_time(now, svid.not_after, self._jitter)
        entry.failures, entry.error, entry.unreachable = 0, "", False
        self._publish_roots()
        self.secrets.set(entry.identity, _certificate(svid))
        entry.valid.set()
        self._plan(entry.identity, entry.refresh_at)
        _log.info("certificate_issued", identity=entry.identity, serial=f"{svid.serial:x}", not_after=svid.not_after)
        self.authority_answers()

    def authority_answers(self) -> None:
        """The authority can be reached: whoever was waiting because it could not need not wait any longer."""
        now = self._clock()
        for entry in self._entries.values():
            if entry.unreachable and entry.identity in self._timetable:
                entry.unreachable = False
                self._plan(entry.identity, now)

    def _publish_roots(self) -> None:
        """The roots of every certificate in use: while roots change, both the old and the new are trusted."""
        svids = [entry.svid for entry in self._entries.values() if entry.svid is not None]
        roots = dict.fromkeys(root for svid in svids for root in svid.roots_pem)
        if not roots:
            return
        self._look_up_to(self._revocations.depth((svid.chain for svid in svids), map(load, roots)))
        self.secrets.set(ROOT, _validation(roots, self._revocations.pem, self._depth))

    # Revocation

    def revoke(self, revocations: Revocations) -> None:
        """Believe no peer whose certificate is listed, nor offer one that is: it is replaced at once."""
        self._revocations = revocations
        self._publish_roots()
        for entry in self._entries.values():
            if entry.svid is not None and any(map(revocations.has, entry.svid.chain)):
                _log.warning("certificate_revoked", identity=entry.identity, serial=f"{entry.svid.serial:x}")
                self._plan(entry.identity, self._clock())

    def _look_up_to(self, depth: Depth) -> None:
        if depth is Depth.NOTHING and self._revocations.serials:
            _log.error(
                "revocations_unused",
                reason="an authority that signs workloads has no revocation list, so no peer can be looked up",
                remedy="add its list, empty or not, to ca-crl.pem of Secret cacerts",
            )
        self._depth = depth

    # Expiry

    async def _expire(self) -> None:
        while True:
            self.drop_expired()
            await asyncio.sleep(1.0)

    def drop_expired(self) -> None:
        """Stop serving certificates whose time is over."""
        now = self._clock()
        for entry in self._entries.values():
            if entry.svid is not None and entry.svid.not_after <= now:
                _log.warning("certificate_expired", identity=entry.identity, reason=entry.error)
                entry.svid = None
                entry.valid.clear()
                self.secrets.remove(entry.identity)
                self._publish_roots()


def _certificate(svid: Svid) -> secret_pb2.Secret:
    secret = secret_pb2.Secret(name=svid.identity)
    secret.tls_certificate.certificate_chain.inline_bytes = "".join(svid.chain_pem).encode()
    secret.tls_certificate.private_key.inline_bytes = svid.key_pem
    return secret


def _validation(roots: Iterable[str], revoked: bytes, depth: Depth) -> secret_pb2.Secret:
    secret = secret_pb2.Secret(name=ROOT)
    context = secret.validation_context
    context.trusted_ca.inline_bytes = "".join(roots).encode()
    if depth is not Depth.NOTHING:
        context.crl.inline_bytes = revoked
        context.only_verify_leaf_cert_crl = depth is Depth.LEAF
    return secret
