"""Which istiod writes: one holder of a Lease at a time.

Every replica serves proxies; only the holder writes statuses and the objects behind waypoints, so that two versions never fight over them.
The Lease is watched, not polled: a waiting replica acts when the holder gives it up or when its time runs out. A holder that cannot renew
stops writing before anybody else may start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import structlog

from tulle.kube.client import Client
from tulle.kube.errors import AlreadyExists, ApiError, Conflict, NotFound
from tulle.kube.informer import Change, Informer
from tulle.kube.objects import Lease, now_micro
from tulle.kube.resources import LEASES

log = structlog.get_logger("tulle.istiod.leader")


class LeaderElection:
    """Times are seconds: a Lease lasts `duration`, is renewed every `renew`, and is given up when renewing failed for `deadline`."""

    def __init__(
        self,
        client: Client,
        name: str,
        namespace: str,
        identity: str,
        *,
        duration: float = 15.0,
        deadline: float = 10.0,
        renew: float = 3.0,
    ) -> None:
        self._client = client
        self._name = name
        self._namespace = namespace
        self._identity = identity
        self._duration = duration
        self._deadline = deadline
        self._renew = renew
        self._informer = Informer(client, LEASES, namespace, field_selector=f"metadata.name={name}")
        self._seen_at = 0.0
        self._asked_at = 0.0
        self._changed = asyncio.Event()
        self._informer.on_change(self._note)
        self.leading = False
        self.decided = asyncio.Event()
        """Set once it is known whether this replica or another one leads."""

    def _note(self, _: Change[Lease]) -> None:
        self._seen_at = asyncio.get_running_loop().time()
        self._changed.set()

    async def run(self, lead: Callable[[], Awaitable[None]]) -> None:
        """Run `lead` whenever this replica holds the Lease, until cancelled; then give the Lease back."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._informer.run())
            await self._informer.synced()
            while True:
                await self._acquire()
                log.info("leading", lease=f"{self._namespace}/{self._name}", holder=self._identity)
                self.leading = True
                self.decided.set()
                try:
                    await self._lead(lead)
                finally:
                    self.leading = False
                log.warning("not leading any more", lease=f"{self._namespace}/{self._name}")

    async def _acquire(self) -> None:
        """Wait until the Lease is free, ours from before, or run out; then take it."""
        while True:
            held = self._informer.store.get((self._namespace, self._name))
            left = self._left(held)
            if left <= 0 and await self._take(held):
                return
            if left > 0:
                self.decided.set()
            self._changed.clear()
            # Not `wait_for`, which loses a cancellation that comes together with the change (Python 3.11).
            with suppress(TimeoutError):
                async with asyncio.timeout(max(left, self._renew / 3)):
                    await self._changed.wait()

    def _left(self, held: Lease | None) -> float:
        """Seconds until the Lease may be taken, counted from when its last change was seen here: clocks may differ."""
        if held is None or held.spec.holder_identity in ("", self._identity):
            return 0.0
        duration = held.spec.lease_duration_seconds or self._duration
        return self._seen_at + duration - asyncio.get_running_loop().time()

    async def _take(self, held: Lease | None) -> bool:
        self._asked_at = asyncio.get_running_loop().time()
        try:
            if held is None:
                await self._client.create(LEASES, self._manifest(None), self._namespace)
            else:
                await self._client.replace(LEASES, self._manifest(held))
        except (AlreadyExists, Conflict):
            return False
        except ApiError as error:
            log.warning("lease not taken", lease=f"{self._namespace}/{self._name}", error=str(error))
            return False
        return True

    def _manifest(self, held: Lease | None) -> dict[str, Any]:
        meta: dict[str, Any] = {"name": self._name, "namespace": self._namespace}
        transitions = 0
        if held is not None:
            meta["resourceVersion"] = held.metadata.resource_version
            transitions = (held.spec.lease_transitions or 0) + (held.spec.holder_identity != self._identity)
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": int(self._duration),
            "acquireTime": now_micro(),
            "renewTime": now_micro(),
            "leaseTransitions": transitions,
        }
        return {"metadata": meta, "spec": spec}

    async def _lead(self, lead: Callable[[], Awaitable[None]]) -> None:
        work = asyncio.ensure_future(lead())
        renewing = asyncio.ensure_future(self._renew_until_lost())
        try:
            done, _ = await asyncio.wait((work, renewing), return_when=asyncio.FIRST_COMPLETED)
        finally:
            work.cancel()
            renewing.cancel()
            await asyncio.gather(work, renewing, return_exceptions=True)
            if not renewing.done() or renewing.cancelled():
                await self._give_back()
        for task in done:
            task.result()

    async def _renew_until_lost(self) -> None:
        """Counts from when a renewal was asked for, and gives up in the middle of one: others may see it long before its answer comes."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._asked_at + self._deadline) as limit:
                while True:
                    await asyncio.sleep(self._renew)
                    asked = asyncio.get_running_loop().time()
                    try:
                        if not await self._renewed():
                            return
                    except ApiError as error:
                        log.warning("lease not renewed", lease=f"{self._namespace}/{self._name}", error=str(error))
                    else:
                        limit.reschedule(asked + self._deadline)

    async def _renewed(self) -> bool:
        """Whether the Lease was still ours, and is for another while. Raises ApiError when that is not known."""
        try:
            current = await self._client.get(LEASES, self._name, self._namespace)
            if current.spec.holder_identity != self._identity:
                return False
            body = {
                "metadata": {"resourceVersion": current.metadata.resource_version},
                "spec": {"holderIdentity": self._identity, "renewTime": now_micro()},
            }
            await self._client.patch(LEASES, self._name, body, self._namespace)
        except NotFound:
            return False
        return True

    async def _give_back(self) -> None:
        """Let the next replica start at once. If it fails the Lease runs out by itself."""
        with suppress(ApiError):
            body = {"spec": {"holderIdentity": ""}}
            await self._client.patch(LEASES, self._name, body, self._namespace)
