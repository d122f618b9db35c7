"""A client with one open connection through the node proxy."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

from .mesh import VIP
from .node import Node

#: How a tunnelled connection that is closed looks to its client; over plaintext it is a reset every time.
ENDED = ("closed", "reset")
#: Echoes lines of stdin over the connection; says how the connection ended.
CLIENT = """
import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
assert s.recv(100)
print("open", flush=True)
s.settimeout(60)
while line := sys.stdin.readline():
    if line == "wait\\n":
        try:
            print("closed" if s.recv(1) == b"" else "data", flush=True)
        except ConnectionResetError:
            print("reset", flush=True)
        except TimeoutError:
            print("open", flush=True)
        break
    s.sendall(b"x")
    print("echo" if s.recv(1) == b"x" else "closed", flush=True)
"""


@dataclass
class Live:
    """A client in a pod with one open connection to port 2500 of hello-1."""

    process: asyncio.subprocess.Process

    async def says(self) -> str:
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), 60)).decode().strip()

    async def ask(self, what: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n".encode())
        await self.process.stdin.drain()
        return await self.says()

    async def goes_on(self) -> bool:
        return await self.ask("send") == "echo"

    async def ended(self) -> str:
        return await self.ask("wait")


@contextlib.asynccontextmanager
async def live(node: Node, pod: str, port: int = 2500, host: str = "") -> AsyncIterator[Live]:
    host = host or (VIP if pod != "out-1" else node.lab.pods["hello-1"].ip)
    process = await asyncio.create_subprocess_exec(
        *node.lab.pods[pod].argv("python3", "-c", CLIENT, host, str(port)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    client = Live(process)
    try:
        assert await client.says() == "open"
        yield client
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()
