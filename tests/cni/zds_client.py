"""A ztunnel for the tests: connects, says hello, acknowledges what it is sent, and keeps the descriptors."""

import asyncio
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from tulle.xds.proto import zds_pb2


@dataclass
class FakeZtunnel:
    path: Path
    refuse: dict[str, str] = field(default_factory=dict)  # uid -> error
    silent: bool = False
    log: list[tuple[str, str]] = field(default_factory=list)
    netns: dict[str, int] = field(default_factory=dict)  # uid -> inode of the namespace handed over
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        link.setblocking(False)
        try:
            await loop.sock_connect(link, str(self.path))
            await loop.sock_sendall(link, zds_pb2.ZdsHello(version=zds_pb2.V1).SerializeToString())
            while True:
                await readable(link)
                packet, descriptors, _, _ = socket.recv_fds(link, 65536, 4)
                if not packet:
                    return
                answer = self._take(zds_pb2.WorkloadRequest.FromString(packet), descriptors)
                if not self.silent:
                    await loop.sock_sendall(link, answer.SerializeToString())
                self.changed.set()
        finally:
            link.close()

    def _take(self, request: zds_pb2.WorkloadRequest, descriptors: list[int]) -> zds_pb2.WorkloadResponse:
        kind = request.WhichOneof("payload")
        uid = request.add.uid if kind == "add" else getattr(request, "del").uid if kind == "del" else ""
        self.log.append((kind, uid))
        answer = zds_pb2.WorkloadResponse()
        answer.ack.SetInParent()
        if kind == "add":
            assert len(descriptors) == 1, "a workload must come with its network namespace"
            if uid in self.refuse:
                answer.ack.error = self.refuse[uid]
            else:
                self.netns[uid] = os.fstat(descriptors[0]).st_ino
        if kind == "del":
            self.netns.pop(uid, None)
        for descriptor in descriptors:
            os.close(descriptor)
        return answer

    async def until(self, condition: object) -> None:
        assert callable(condition)
        async with asyncio.timeout(60):
            while not condition(self):
                self.changed.clear()
                await self.changed.wait()


async def readable(link: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(link, lambda: ready.done() or ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(link)
