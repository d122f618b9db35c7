"""HBONE connections that begin inside the node's network, where pods' addresses mean something."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import ssl
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass

from tests.support.hbone import Client, spiffe_of

_CLONE_NEWNET = 0x40000000
_PATIENCE = 60.0
HBONE_PORT = 15008


def _connect(netns: str, address: tuple[str, int]) -> socket.socket:
    """A socket belongs to the namespace that its thread was in when it was made; a thread can enter one alone."""
    result: list[socket.socket | OSError] = []

    def work() -> None:
        made = socket.socket()
        try:
            with open(f"/run/netns/{netns}", "rb") as namespace:
                libc = ctypes.CDLL(None, use_errno=True)
                if libc.setns(namespace.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            made.close()
            made = socket.create_connection(address, timeout=_PATIENCE)
            made.setblocking(False)
            result.append(made)
        except OSError as error:
            made.close()
            result.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(result[0], OSError):
        raise result[0]
    return result[0]


@dataclass(frozen=True)
class Door:
    """Port 15008 of a pod, seen from its node."""

    netns: str
    address: str

    @contextlib.asynccontextmanager
    async def open(self, context: ssl.SSLContext) -> AsyncIterator[Client]:
        """A connection; raises ConnectionError or ssl.SSLError when it is refused, now or at its first use."""
        made = await asyncio.to_thread(_connect, self.netns, (self.address, HBONE_PORT))
        async with asyncio.timeout(_PATIENCE):
            reader, writer = await asyncio.open_connection(sock=made, ssl=context, server_hostname=self.address)
        async with Client.over(reader, writer) as client:
            yield client

    async def status(self, context: ssl.SSLContext, authority: str, method: str = "CONNECT") -> int:
        """The status that a CONNECT gets; 0 when there is none, because the connection was refused."""
        try:
            async with self.open(context) as client:
                return (await client.tunnel(authority, method=method)).status
        except (ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            return 0


__all__ = ["HBONE_PORT", "Client", "Door", "spiffe_of"]
