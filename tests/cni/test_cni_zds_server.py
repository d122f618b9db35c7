"""The ZDS server's sockets: a ztunnel that hangs, speaks nonsense, or finds a socket left behind."""

import asyncio
import errno
import os
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from cni.zds_client import FakeZtunnel, readable
from tulle.cni import sockets
from tulle.cni.agent import Agent
from tulle.cni.netns import PodNetns
from tulle.cni.plugin_api import PluginServer
from tulle.cni.zds.server import ZdsServer, ZtunnelRefusedError
from tulle.cni.zds.session import Workload

WORKLOAD = Workload("u", "a", "shop", "default", 1)


@pytest.fixture
def path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tk-cni-") as directory:
        yield Path(directory) / "z/zds.sock"


def netns() -> PodNetns:
    return PodNetns.adopt(os.open("/proc/self/ns/net", os.O_RDONLY))


async def test_a_ztunnel_that_hangs_is_cut_off(path: Path) -> None:
    server = ZdsServer(path, answer_seconds=0.05)
    async with server.serve():
        server.put(WORKLOAD, netns())
        hanging = FakeZtunnel(path, silent=True)
        async with asyncio.timeout(60):
            await hanging.run()
        assert server.connected == 0


async def test_why_a_pod_is_not_accepted_is_told(path: Path) -> None:
    server = ZdsServer(path)
    async with server.serve():
        server.put(WORKLOAD, netns())
        with pytest.raises(ZtunnelRefusedError, match=r"pod shop/a: no ztunnel is connected to .*zds.sock"):
            await server.wait_accepted(WORKLOAD, 0.01)
        ztunnel = FakeZtunnel(path, refuse={"u": "cannot bind 15001"})
        running = asyncio.create_task(ztunnel.run())
        await ztunnel.until(lambda z: z.log)
        with pytest.raises(ZtunnelRefusedError, match="ztunnel refused its network namespace: cannot bind 15001"):
            await server.wait_accepted(WORKLOAD, 0.05)
        ztunnel.refuse.clear()
        async with asyncio.timeout(60):
            await server.wait_accepted(WORKLOAD, 10)
        assert server.accepted(WORKLOAD)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def leave_a_file_behind(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("of an earlier agent")


async def test_a_connection_that_cannot_be_accepted_is_not_the_last(
    monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    loop = asyncio.get_running_loop()
    accept, failures = loop.sock_accept, [OSError(errno.EMFILE, "Too many open files")]

    async def failing(listener: socket.socket) -> tuple[socket.socket, object]:
        if failures:
            raise failures.pop()
        return await accept(listener)

    monkeypatch.setattr(loop, "sock_accept", failing)
    monkeypatch.setattr(sockets, "AGAIN_SECONDS", 0.01)
    plugin = PluginServer(path.with_name("plugin.sock"), cast(Agent, None))
    async with ZdsServer(path).serve():
        ztunnel = FakeZtunnel(path)
        running = asyncio.create_task(ztunnel.run())
        async with asyncio.timeout(60):
            await ztunnel.until(lambda z: z.log)
        running.cancel()
    failures.append(OSError(errno.EMFILE, "Too many open files"))
    async with plugin.serve():
        async with asyncio.timeout(60):
            reader, writer = await asyncio.open_unix_connection(path.with_name("plugin.sock"))
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 400")
        writer.close()


async def test_nonsense_closes_that_connection_only(path: Path) -> None:
    server = ZdsServer(path)
    leave_a_file_behind(path)
    async with server.serve():
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        good = FakeZtunnel(path)
        running = asyncio.create_task(good.run())
        await good.until(lambda z: z.log == [("snapshot_sent", "")])
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as bad:
            bad.setblocking(False)
            await asyncio.get_running_loop().sock_connect(bad, str(path))
            bad.send(b"\xff\xff\xff")
            await readable(bad)
            assert bad.recv(10) == b""
        server.put(WORKLOAD, netns())
        await good.until(lambda z: "u" in z.netns)
        server.drop("u")
        await good.until(lambda z: "u" not in z.netns)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
