"""The node proxy's side of ZDS (spec E5): pods of this node arrive as datagrams, namespaces as descriptors.

The node agent listens.  After each connection it sends all pods (`add`, or `keep` for one it believes to be known here),
then `snapshot_sent`, then changes.  While it is away nothing is dropped; after it is back, pods that the new snapshot
does not mention are.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Final, Protocol

import structlog
from google.protobuf.message import DecodeError

from tulle.xds.backoff import Backoff
from tulle.xds.proto import zds_pb2
from tulle.ztunnel.pods import PodInfo, PodRefusedError

_log = structlog.get_logger("tulle.ztunnel")

_MAX_MESSAGE: Final = 64 * 1024
_MAX_DESCRIPTORS: Final = 4


class Pods(Protocol):
    """Where pods go."""

    def __contains__(self, uid: str) -> bool: ...

    async def add(self, uid: str, info: PodInfo, descriptor: int) -> None: ...

    def remove(self, uid: str) -> None: ...

    def remove_others(self, keep: frozenset[str]) -> None: ...


class ProtocolError(Exception):
    """The node agent said something that has no meaning; the connection is given up."""


class ZdsClient:
    """Keeps a connection to the node agent at `path`.  `on_connected` hears when one stands or falls."""

    def __init__(self, path: str, pods: Pods, on_connected: Callable[[bool], None] = lambda _: None) -> None:
        self._path = path
        self._pods = pods
        self._on_connected = on_connected
        self._backoff = Backoff()
        self.snapshot_received = False

    async def run(self) -> None:
        """Stay connected until cancelled."""
        while True:
            try:
                await self._connect()
            except (OSError, ProtocolError, DecodeError) as error:
                _log.info("node agent not connected", path=self._path, reason=str(error))
            await asyncio.sleep(self._backoff.pause())

    async def _connect(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as link:
            link.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(link, self._path)
            await loop.sock_sendall(link, zds_pb2.ZdsHello(version=zds_pb2.V1).SerializeToString())
            self._on_connected(True)
            try:
                await _Session(link, self._pods, self._synced).run()
            finally:
                self._on_connected(False)

    def _synced(self) -> None:
        self.snapshot_received = True
        self._backoff.reset()


class _Session:
    """One connection.  Every message is answered before the next is read."""

    def __init__(self, link: socket.socket, pods: Pods, on_snapshot: Callable[[], None]) -> None:
        self._link = link
        self._pods = pods
        self._on_snapshot = on_snapshot
        self._mentioned: set[str] | None = set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data, descriptors = await _receive(self._link)
            if not data:
                raise ProtocolError("the node agent closed the connection")
            error = await self._answer(data, descriptors)
            answer = zds_pb2.WorkloadResponse(ack=zds_pb2.Ack(error=error))
            await loop.sock_sendall(self._link, answer.SerializeToString())

    async def _answer(self, data: bytes, descriptors: list[int]) -> str:
        request = zds_pb2.WorkloadRequest.FromString(data)
        kind = request.WhichOneof("payload")
        if kind != "add":
            for descriptor in descriptors:
                os.close(descriptor)
        match kind:
            case "add":
                return await self._add(request.add, descriptors)
            case "keep":
                return self._keep(request.keep.uid)
            case "del":
                self._delete(getattr(request, "del").uid)
            case "snapshot_sent":
                self._snapshot()
            case _:
                return "unknown request"
        return ""

    async def _add(self, add: zds_pb2.AddWorkload, descriptors: list[int]) -> str:
        if len(descriptors) != 1:
            for descriptor in descriptors:
                os.close(descriptor)
            return f"add of {add.uid}: {len(descriptors)} descriptors; exactly one network namespace is needed"
        info = add.workload_info
        if self._mentioned is not None:
            self._mentioned.add(add.uid)
        try:
            await self._pods.add(add.uid, PodInfo(info.name, info.namespace, info.service_account), descriptors[0])
        except PodRefusedError as error:
            _log.warning("pod refused", uid=add.uid, reason=str(error))
            return str(error)
        return ""

    def _keep(self, uid: str) -> str:
        if uid not in self._pods:
            return f"keep of {uid}: not known here; send it with its network namespace"
        if self._mentioned is not None:
            self._mentioned.add(uid)
        return ""

    def _delete(self, uid: str) -> None:
        if self._mentioned is not None:
            self._mentioned.discard(uid)
        self._pods.remove(uid)

    def _snapshot(self) -> None:
        if self._mentioned is not None:
            self._pods.remove_others(frozenset(self._mentioned))
            self._mentioned = None
        self._on_snapshot()


async def _receive(link: socket.socket) -> tuple[bytes, list[int]]:
    """The next datagram and its descriptors."""
    while True:
        try:
            data, descriptors, flags, _ = socket.recv_fds(link, _MAX_MESSAGE, _MAX_DESCRIPTORS)
        except BlockingIOError:
            await _readable(link)
            continue
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            for descriptor in descriptors:
                os.close(descriptor)
            raise ProtocolError("a message of the node agent does not fit")
        return data, descriptors


async def _readable(link: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(link, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(link)
