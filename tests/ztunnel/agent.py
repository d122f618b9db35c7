"""A node agent for tests: the listening side of ZDS."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

from tulle.xds.proto import zds_pb2


class Agent:
    """Accepts one node proxy at a time and asks it things."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listening.setblocking(False)
        self._listening.bind(str(path))
        self._listening.listen()
        self._link: socket.socket | None = None

    async def accept(self) -> None:
        loop = asyncio.get_running_loop()
        self._link, _ = await loop.sock_accept(self._listening)
        hello = zds_pb2.ZdsHello.FromString(await loop.sock_recv(self._link, 1024))
        assert hello.version == zds_pb2.V1

    async def add(self, uid: str, name: str, namespace: str, netns: str, service_account: str = "default") -> str:
        info = zds_pb2.WorkloadInfo(name=name, namespace=namespace, service_account=service_account)
        request = zds_pb2.WorkloadRequest(add=zds_pb2.AddWorkload(uid=uid, workload_info=info))
        descriptor = os.open(netns, os.O_RDONLY)
        try:
            return await self._ask(request, [descriptor])
        finally:
            os.close(descriptor)

    async def keep(self, uid: str) -> str:
        return await self._ask(zds_pb2.WorkloadRequest(keep=zds_pb2.KeepWorkload(uid=uid)))

    async def delete(self, uid: str) -> str:
        return await self._ask(zds_pb2.WorkloadRequest(**{"del": zds_pb2.DelWorkload(uid=uid)}))

    async def snapshot_sent(self) -> str:
        return await self._ask(zds_pb2.WorkloadRequest(snapshot_sent=zds_pb2.SnapshotSent()))

    async def _ask(self, request: zds_pb2.WorkloadRequest, descriptors: list[int] | None = None) -> str:
        assert self._link is not None
        loop = asyncio.get_running_loop()
        socket.send_fds(self._link, [request.SerializeToString()], descriptors or [])
        answer = zds_pb2.WorkloadResponse.FromString(await loop.sock_recv(self._link, 65536))
        return answer.ack.error

    def hang_up(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def close(self) -> None:
        self.hang_up()
        self._listening.close()
