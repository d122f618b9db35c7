"""Questions that are not about the mesh: on to whoever the pod asked, from the pod's own network namespace.

The packet stays what it was but for its number, which is random, as is the port it leaves from, so that nobody can guess
an answer to it.  The sockets carry the proxy's mark, by which the redirect leaves them alone.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from functools import partial
from typing import Final

from tulle.ztunnel.config.names import MARK
from tulle.ztunnel.dns import message
from tulle.ztunnel.dns.origin import HostPort
from tulle.ztunnel.netns import made_inside

#: How long a resolver may take; clients ask again after five seconds.
PATIENCE_SECONDS: Final = 4.5


async def ask(netns: int, query: bytes, resolver: HostPort, *, stream: bool) -> bytes:
    """The resolver's answer.  Raises OSError, which a timeout and a closed connection also are."""
    sent = message.renumbered(query, secrets.randbelow(1 << 16))
    kind = socket.SOCK_STREAM if stream else socket.SOCK_DGRAM
    with made_inside(netns, partial(_socket, resolver, kind)) as link:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await asyncio.get_running_loop().sock_connect(link, resolver)
            answer = await (_by_stream(link, sent) if stream else _by_datagram(link, sent))
    return message.renumbered(answer, int.from_bytes(query[:2], "big"))


def _socket(resolver: HostPort, kind: socket.SocketKind) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in resolver[0] else socket.AF_INET, kind)
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
    return made


async def _by_datagram(link: socket.socket, query: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(link, query)
    while True:
        answer = await loop.sock_recv(link, 65535)
        if message.answers(query, answer):
            return answer


async def _by_stream(link: socket.socket, query: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(sock=link.dup())
    try:
        writer.write(len(query).to_bytes(2, "big") + query)
        await writer.drain()
        answer = await reader.readexactly(int.from_bytes(await reader.readexactly(2), "big"))
    except asyncio.IncompleteReadError as error:
        raise ConnectionResetError("the resolver closed the connection") from error
    finally:
        writer.close()
    if not message.answers(query, answer):
        raise ConnectionAbortedError("the resolver answered another question")
    return answer
