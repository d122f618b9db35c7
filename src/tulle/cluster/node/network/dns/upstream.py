"""Names of the outside world: questions go on to the resolvers that the machine itself uses.

Each question leaves from a fresh socket (a port of its own) with a random number, and only an answer to that very
question is taken. A resolver on the host's loopback (systemd-resolved, dnsmasq) is out of reach of the node's
namespace; those sockets are opened in the host's namespace instead.
"""

import asyncio
import ipaddress
import secrets
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog
from dnslib import DNSRecord

from tulle.cluster.node.machine import machine_netns
from tulle.cluster.node.network.dns.message import query, same_question
from tulle.cluster.node.network.namespaces import socket_in

TIMEOUT_SECONDS = 2.0

log = structlog.get_logger("tulle.node.dns")


@dataclass(frozen=True)
class Upstream:
    """``resolvers`` are IPv4 addresses, asked in order."""

    resolvers: tuple[str, ...]
    port: int = 53
    host_netns: Path = field(default_factory=machine_netns)
    timeout: float = TIMEOUT_SECONDS

    async def ask(self, name: str, kind: int) -> DNSRecord | None:
        """The first resolver's complete answer (TCP when it does not fit UDP); None when no resolver answers."""
        for resolver in self.resolvers:
            question = query(name, kind, secrets.randbelow(1 << 16))
            try:
                async with asyncio.timeout(self.timeout):
                    answer = await self._udp(resolver, question)
                    if answer.header.tc:
                        answer = await self._tcp(resolver, question)
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                log.warning("resolver did not answer", resolver=resolver, name=name, error=str(error) or "timeout")
                continue
            return answer
        return None

    async def _udp(self, resolver: str, question: DNSRecord) -> DNSRecord:
        loop = asyncio.get_running_loop()
        with self._socket(resolver, socket.SOCK_DGRAM) as link:
            await loop.sock_connect(link, (resolver, self.port))
            await loop.sock_sendall(link, bytes(question.pack()))
            while True:
                answer = same_question(question, await loop.sock_recv(link, 65535))
                if answer is not None:
                    return answer

    async def _tcp(self, resolver: str, question: DNSRecord) -> DNSRecord:
        loop = asyncio.get_running_loop()
        with self._socket(resolver, socket.SOCK_STREAM) as link:
            await loop.sock_connect(link, (resolver, self.port))
            packet = bytes(question.pack())
            reader, writer = await asyncio.open_connection(sock=link)
            try:
                writer.write(len(packet).to_bytes(2, "big") + packet)
                await writer.drain()
                size = int.from_bytes(await reader.readexactly(2), "big")
                answer = same_question(question, await reader.readexactly(size))
            finally:
                writer.close()
        if answer is None:
            raise OSError(f"{resolver} answered another question")
        return answer

    def _socket(self, resolver: str, kind: socket.SocketKind) -> socket.socket:
        if ipaddress.ip_address(resolver).is_loopback:
            return socket_in(self.host_netns, kind)
        made = socket.socket(socket.AF_INET, kind)
        made.setblocking(False)
        return made


@dataclass(frozen=True)
class HostResolver:
    """What the host's resolv.conf says: nameservers (IPv4), search domains and options."""

    nameservers: tuple[str, ...]
    search: tuple[str, ...]
    options: tuple[str, ...]


def parse_resolv_conf(text: str) -> HostResolver:
    """Read resolv.conf(5); the last ``search`` line wins, unknown lines are ignored."""
    nameservers: list[str] = []
    search: Sequence[str] = ()
    options: list[str] = []
    for line in text.splitlines():
        words = line.split("#")[0].split(";")[0].split()
        match words:
            case ["nameserver", address, *_] if _is_ipv4(address):
                nameservers.append(address)
            case ["search" | "domain", *domains]:
                search = [d.rstrip(".") for d in domains if d != "."]
            case ["options", *values]:
                options += values
    return HostResolver(tuple(nameservers), tuple(search), tuple(options))


def _is_ipv4(text: str) -> bool:
    try:
        return ipaddress.ip_address(text).version == 4
    except ValueError:
        return False
