"""Asks an HTTP server at a fixed rate and tells what came of it: `python -m bench.steady ADDRESS PORT PATH --rate N --seconds S`.

Started in a pod's network by `soak`. Every request has a moment at which it is due, and its latency counts from that moment, so that a
path that stalls is not spared the requests it would have had. Without a rate each connection asks as fast as it is answered. A
connection carries a number of requests and is replaced; nothing is tried twice. The answer's body names the pod that gave it, as
the helloworld sample's does. Prints a line of JSON for each failure as it happens, and one with the totals at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import socket
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

PATIENCE = 10.0
_INSTANCE = re.compile(rb"instance: (\S+)")
_HEAD_END = b"\r\n\r\n"


class FailedError(Exception):
    """One request did not get the answer 200; the text says how."""


@dataclass
class Totals:
    """Latencies in tenths of a millisecond with how often each was met."""

    done: int = 0
    connections: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    latencies: Counter[int] = field(default_factory=Counter)

    def answered(self, seconds: float) -> None:
        self.done += 1
        self.latencies[round(seconds * 1e4)] += 1

    def document(self, seconds: float) -> dict[str, Any]:
        return {
            "done": self.done,
            "seconds": seconds,
            "connections": self.connections,
            "failed": dict(self.failed),
            "latencies": sorted(self.latencies.items()),
        }


class Connection:
    """One kept connection; `pod` gave its last answer, "" before the first."""

    def __init__(self, link: socket.socket) -> None:
        self.link = link
        self.pod = ""
        self.asked = 0
        self.last = False

    @classmethod
    async def open(cls, address: str, port: int) -> Connection:
        link = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            await asyncio.get_running_loop().sock_connect(link, (address, port))
        except BaseException:
            link.close()
            raise
        return cls(link)

    def usable(self, most: int) -> bool:
        """Whether another request may be sent: the server has neither ended it in order nor said that it will."""
        if self.last or self.asked >= most:
            return False
        try:
            return bool(self.link.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False

    async def ask(self, request: bytes) -> None:
        """Raises FailedError or OSError."""
        loop = asyncio.get_running_loop()
        self.asked += 1
        await loop.sock_sendall(self.link, request)
        data = b""
        while _HEAD_END not in data:
            data += await self._more(data)
        head, _, body = data.partition(_HEAD_END)
        fields = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in fields if line.startswith(b"content-length:")), 0)
        while len(body) < length:
            body += await self._more(data)
        self.last = b"connection: close" in fields
        status = head.split(b" ", 2)[1].decode()
        if status != "200":
            raise FailedError(f"{status} {body.decode(errors='replace').strip()}")
        if found := _INSTANCE.search(body):
            self.pod = found[1].decode()

    async def _more(self, before: bytes) -> bytes:
        more = await asyncio.get_running_loop().sock_recv(self.link, 65536)
        if not more:
            raise FailedError("ended within an answer" if before else "ended without an answer")
        return more


class Load:
    """`clients` that share the rate evenly; a rate of 0 is none."""

    def __init__(self, address: str, port: int, path: str, *, rate: float, clients: int, requests: int) -> None:
        self.totals = Totals()
        self._address, self._port = address, port
        self._request = f"GET {path} HTTP/1.1\r\nHost: {address}:{port}\r\n\r\n".encode()
        self._pause = clients / rate if rate else 0.0
        self._clients, self._requests = clients, requests

    async def run(self, seconds: float) -> None:
        start = time.monotonic()
        shift = self._pause / self._clients
        await asyncio.gather(*(self._client(start + n * shift, start + seconds) for n in range(self._clients)))

    async def _client(self, due: float, end: float) -> None:
        connection: Connection | None = None
        while due < end:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            connection = await self._one(connection, due)
            due = due + self._pause if self._pause else time.monotonic()
        if connection is not None:
            connection.link.close()

    async def _one(self, connection: Connection | None, due: float) -> Connection | None:
        """One request on this connection or a new one; the connection for the next."""
        try:
            async with asyncio.timeout(PATIENCE):
                if connection is None or not connection.usable(self._requests):
                    if connection is not None:
                        connection.link.close()
                    connection = None
                    connection = await Connection.open(self._address, self._port)
                    self.totals.connections += 1
                await connection.ask(self._request)
        except (OSError, FailedError, TimeoutError) as error:
            self._failed(connection, error)
            if connection is not None:
                connection.link.close()
            return None
        self.totals.answered(time.monotonic() - due)
        return connection

    def _failed(self, connection: Connection | None, error: Exception) -> None:
        how = str(error) if isinstance(error, FailedError) else type(error).__name__
        how = how if connection is not None else f"not connected: {how}"
        self.totals.failed[how] += 1
        pod, asked = (connection.pod, connection.asked) if connection is not None else ("", 0)
        print(json.dumps({"at": time.time(), "how": how, "pod": pod, "asked": asked}), flush=True)


def main() -> None:
    """Load, and print the totals."""
    parser = argparse.ArgumentParser(prog="python -m bench.steady", description=__doc__)
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("--rate", type=float, default=0.0, help="requests per second of all clients together")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=50, help="that one connection carries")
    chosen = parser.parse_args()
    load = Load(
        chosen.address,
        chosen.port,
        chosen.path,
        rate=chosen.rate,
        clients=chosen.clients,
        requests=chosen.requests,
    )
    begun = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(load.run(chosen.seconds))
    print(json.dumps(load.totals.document(time.monotonic() - begun)), flush=True)


if __name__ == "__main__":
    main()
