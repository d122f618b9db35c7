"""Raw peers: sockets of any network namespace and source address, identities of any name, HBONE as bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import h2.exceptions
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from pyroute2 import netns

from tests.support import hbone
from tulle.istiod.ca import x509 as shapes
from tulle.istiod.ca.authority import Authority
from tulle.security.identity import Identity

PATIENCE = 60.0


@contextlib.contextmanager
def inside(name: str) -> Iterator[None]:
    """This thread in a network namespace; a socket that is made here stays there. "" is where we are."""
    if not name:
        yield
        return
    netns.pushns(name)
    try:
        yield
    finally:
        netns.popns()


def tcp(place: str, address: str, port: int = 0, *, listening: bool = False) -> socket.socket:
    """A socket in a namespace, bound to an address."""
    with inside(place):
        made = socket.socket()
    made.setblocking(False)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    if listening:
        made.listen(512)
    return made


@dataclass
class Identities:
    """Certificates of the mesh's authority for any identity, as TLS contexts."""

    authority: Authority
    directory: Path
    _contexts: dict[Identity, ssl.SSLContext] = field(default_factory=dict)

    def client(self, identity: Identity) -> ssl.SSLContext:
        """The client side of HBONE."""
        found = self._contexts.get(identity)
        if found is None:
            found = self._contexts[identity] = self._make(identity)
        return found

    def _make(self, identity: Identity) -> ssl.SSLContext:
        stem = self.directory / identity.principal.replace("/", "_")
        key = shapes.new_key()
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        chain = self.authority.sign(csr.public_bytes(serialization.Encoding.PEM), identity.spiffe)
        cert_path, key_path, root_path = (Path(f"{stem}.{suffix}") for suffix in ("crt", "key", "root"))
        cert_path.write_text("".join(chain[:-1]))
        key_path.write_bytes(shapes.key_pem(key))
        root_path.write_text(self.authority.root_pem)
        return hbone.tls(str(cert_path), str(key_path), str(root_path), server=False)


@dataclass
class Clients:
    """HBONE connections, one for each identity, source address and server, kept open: a changed policy must hold for
    the next request of a connection too."""

    place: str
    identities: Identities
    _stack: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)
    _open: dict[tuple[Identity, str, str], hbone.Client] = field(default_factory=dict)

    async def connect(self, identity: Identity, source: str, server: str) -> hbone.Client:
        """The connection, made when first asked for or when it has ended."""
        key = (identity, source, server)
        found = self._open.get(key)
        if found is None or found._task.done():
            found = self._open[key] = await self._stack.enter_async_context(self._connect(*key))
        return found

    @contextlib.asynccontextmanager
    async def _connect(self, identity: Identity, source: str, server: str) -> AsyncIterator[hbone.Client]:
        made = tcp(self.place, source)
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(made, (server, 15008)), PATIENCE)
        context = self.identities.client(identity)
        reader, writer = await asyncio.open_connection(sock=made, ssl=context, server_hostname="")
        client = hbone.Client(reader, writer)
        await client._flush()
        try:
            yield client
        finally:
            client._task.cancel()
            with contextlib.suppress(asyncio.CancelledError, ConnectionError, ssl.SSLError):
                await client._task
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async def status(self, identity: Identity, source: str, server: str, authority: str) -> int:
        """The status of a CONNECT."""
        async with self.tunnel(identity, source, server, authority) as tunnel:
            return tunnel.status

    @contextlib.asynccontextmanager
    async def tunnel(self, identity: Identity, source: str, server: str, authority: str) -> AsyncIterator[hbone.Tunnel]:
        """A CONNECT, ended when done."""
        client = await self.connect(identity, source, server)
        tunnel = await client.tunnel(authority)
        try:
            yield tunnel
        finally:
            with contextlib.suppress(h2.exceptions.H2Error, ConnectionError):
                await tunnel.close()

    async def close(self) -> None:
        await self._stack.aclose()


async def plaintext(place: str, source: str, server: str, port: int) -> str:
    """Connect without any identity and say something: "open" if the app answers, else "reset" or "closed"."""
    made = tcp(place, source)
    try:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE):
            await loop.sock_connect(made, (server, port))
            await loop.sock_sendall(made, b"GET / HTTP/1.1\r\n\r\n")
            return "open" if await loop.sock_recv(made, 16) else "closed"
    except ConnectionError:
        return "reset"
    finally:
        made.close()


async def serve(sockets: list[socket.socket], answer: Callable[[bytes], bytes]) -> list[asyncio.Server]:
    """An app on each socket: `answer` to what was read first, then the end."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            if said := answer(await reader.read(65536)):
                writer.write(said)
                await writer.drain()
        writer.close()

    return [await asyncio.start_server(handle, sock=made) for made in sockets]


def status_of(answer: bytes) -> int:
    """The status of an HTTP/1.1 answer, 0 for none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.") else 0
