"""The ZDS server: accepts ztunnels, hands out descriptors, and keeps the newest ztunnel that has said hello in
charge.

During an upgrade two ztunnels are connected. The newer one takes over as soon as it has introduced itself; if it dies,
the older one is brought up to date and is in charge again. A ztunnel that never answers is cut off, so that it cannot
hold up every pod of the node.
"""

import array
import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import structlog

from tulle.cni import sockets
from tulle.cni.netns import PodNetns
from tulle.cni.zds.session import Phase, Session, Verdict, Workload

MAX_MESSAGE = 64 * 1024
ANSWER_SECONDS = 15.0

log = structlog.get_logger("tulle.cni.zds")


class ZtunnelRefusedError(Exception):
    """ztunnel did not take a workload in time; the message says why."""


class _Connection:
    def __init__(self, link: socket.socket, number: int) -> None:
        self.link = link
        self.number = number
        self.session = Session()
        self.wake = asyncio.Event()
        self.asked_at = 0.0


class ZdsServer:
    """Desired workloads live here; ``serve`` hands them to whichever ztunnel is in charge, forever."""

    def __init__(self, path: Path, *, answer_seconds: float = ANSWER_SECONDS) -> None:
        self._path = path
        self._answer_seconds = answer_seconds
        self._desired: dict[str, Workload] = {}
        self._netns: dict[str, PodNetns] = {}
        self._connections: list[_Connection] = []
        self._listeners: list[Callable[[Verdict], None]] = []
        self._waiters: dict[str, set[asyncio.Future[Verdict]]] = {}
        self._refusals: dict[str, str] = {}
        self._accepted_count = 0

    def on_verdict(self, listener: Callable[[Verdict], None]) -> None:
        """Be told each time a ztunnel accepts or refuses a workload."""
        self._listeners.append(listener)

    def put(self, workload: Workload, netns: PodNetns) -> None:
        """Hand this workload over, now and to every ztunnel to come. ``netns`` stays open until ``drop``."""
        if self._desired.get(workload.uid) != workload:
            self._desired[workload.uid] = workload
            self._netns[workload.uid] = netns
            self._refusals.pop(workload.uid, None)
            self._wake()

    def drop(self, uid: str) -> None:
        """Take the workload back from ztunnel."""
        if self._desired.pop(uid, None) is not None:
            self._netns.pop(uid, None)
            self._refusals.pop(uid, None)
            self._wake()

    def accepted(self, workload: Workload) -> bool:
        """Whether the ztunnel in charge holds the workload."""
        active = self._active()
        return active is not None and active.session.accepted(workload)

    @property
    def connected(self) -> int:
        """How many ztunnels have said hello."""
        return sum(c.session.phase in (Phase.SNAPSHOT, Phase.LIVE) for c in self._connections)

    async def wait_accepted(self, workload: Workload, timeout: float) -> None:
        """Return when ztunnel holds the workload. Raises ZtunnelRefusedError after ``timeout`` seconds, with the
        last reason.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while not self.accepted(workload):
            verdict: asyncio.Future[Verdict] = loop.create_future()
            self._waiters.setdefault(workload.uid, set()).add(verdict)
            try:
                async with asyncio.timeout_at(deadline):
                    await verdict
            except TimeoutError:
                raise ZtunnelRefusedError(self._why_not(workload, timeout)) from None
            finally:
                self._waiters[workload.uid].discard(verdict)
                if not self._waiters[workload.uid]:
                    del self._waiters[workload.uid]

    def _why_not(self, workload: Workload, timeout: float) -> str:
        pod = f"pod {workload.namespace}/{workload.name}"
        if refusal := self._refusals.get(workload.uid):
            return f"{pod}: ztunnel refused its network namespace: {refusal}"
        if not self.connected:
            return f"{pod}: no ztunnel is connected to {self._path}: check that the ztunnel pod of this node is running"
        return f"{pod}: ztunnel has not confirmed its network namespace within {timeout:g} s"

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        """Listen inside the context. Raises OSError when the socket cannot be made."""
        listener = sockets.listen(self._path, socket.SOCK_SEQPACKET, 8)
        accepting = asyncio.create_task(self._accept(listener))
        try:
            yield
        finally:
            accepting.cancel()
            await asyncio.gather(accepting, return_exceptions=True)
            listener.close()

    async def _accept(self, listener: socket.socket) -> None:
        async with asyncio.TaskGroup() as group:
            async for link in sockets.accepted(listener):
                self._accepted_count += 1
                task = group.create_task(self._serve_one(_Connection(link, self._accepted_count)))
                task.add_done_callback(sockets.closing(link))

    async def _serve_one(self, connection: _Connection) -> None:
        self._connections.append(connection)
        reading = asyncio.create_task(self._read(connection))
        try:
            await self._write(connection)
        except (OSError, TimeoutError) as error:
            connection.session.close(str(error) or f"no answer within {self._answer_seconds:g} s")
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            self._connections.remove(connection)
            log.info("ztunnel left", connection=connection.number, why=connection.session.problem or "it disconnected")
            self._wake()

    async def _read(self, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        session = connection.session
        while session.phase is not Phase.CLOSED:
            try:
                packet = await loop.sock_recv(connection.link, MAX_MESSAGE)
            except OSError as error:
                packet, reason = b"", str(error)
            else:
                reason = "it disconnected"
            if not packet:
                session.close(reason)
            else:
                introduced = session.phase is Phase.HELLO
                verdict = session.received(packet, loop.time())
                if verdict is not None:
                    self._tell(verdict)
                if introduced:
                    log.info("ztunnel connected", connection=connection.number)
                    self._wake()
            connection.wake.set()

    async def _write(self, connection: _Connection) -> None:
        loop = asyncio.get_running_loop()
        session = connection.session
        while session.phase is not Phase.CLOSED:
            connection.wake.clear()
            request = session.next(self._desired, loop.time()) if connection is self._active() else None
            if request is not None:
                netns = self._netns.get(request.uid) if request.workload is not None else None
                connection.asked_at = loop.time()
                await self._send(connection.link, request.encode(), netns)
                continue
            await self._wait(connection)

    async def _wait(self, connection: _Connection) -> None:
        """Until something changed, a refused workload is due again, or an answer is overdue (then TimeoutError)."""
        session = connection.session
        overdue = connection.asked_at + self._answer_seconds if session.waiting is not None else None
        due = session.next_retry() if session.idle and connection is self._active() else None
        until = min((t for t in (overdue, due) if t is not None), default=None)
        try:
            async with asyncio.timeout_at(until):
                await connection.wake.wait()
        except TimeoutError:
            if until == overdue:
                raise

    async def _send(self, link: socket.socket, packet: bytes, netns: PodNetns | None) -> None:
        held = [os.dup(netns.descriptor)] if netns is not None else []  # the pod may leave while the socket is full
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", held))] if held else []
        try:
            while True:
                try:
                    link.sendmsg([packet], ancillary)
                except BlockingIOError:
                    await sockets.writable(link)
                else:
                    return
        finally:
            for descriptor in held:
                os.close(descriptor)

    def _active(self) -> _Connection | None:
        known = (c for c in reversed(self._connections) if c.session.phase in (Phase.SNAPSHOT, Phase.LIVE))
        return next(known, None)

    def _tell(self, verdict: Verdict) -> None:
        if verdict.error:
            self._refusals[verdict.workload.uid] = verdict.error
            log.warning(
                "ztunnel refused a pod",
                pod=f"{verdict.workload.namespace}/{verdict.workload.name}",
                error=verdict.error,
            )
        for waiter in self._waiters.get(verdict.workload.uid, ()):
            if not waiter.done():
                waiter.set_result(verdict)
        for listener in self._listeners:
            listener(verdict)

    def _wake(self) -> None:
        for connection in self._connections:
            connection.wake.set()
