"""Host names of endpoints: whoever connects waits for the answer, which is then kept fresh while it is used."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from tulle.ztunnel.config.destination import Here, Kind
from tulle.ztunnel.configurator import Configurator
from tulle.ztunnel.hosts import Hosts

from .test_configurator import NAME, encoded
from .test_destination import by_name, service

HOST = "api.example.com"


class Dns:
    """A resolver under the test's hand."""

    def __init__(self) -> None:
        self.answers: dict[str, list[str]] = {}
        self.asked: list[str] = []

    async def look_up(self, name: str) -> Iterable[str]:
        self.asked.append(name)
        await asyncio.sleep(0)
        if name not in self.answers:
            raise OSError("no such name")
        return self.answers[name]


class Node:
    """A client's destination behind the name, as Envoy is told of it."""

    def __init__(self, refresh: float = 3600) -> None:
        self.dns = Dns()
        self.configurator = Configurator(Here(), 15004)
        self.hosts = Hosts(
            self.configurator.hosts_in_use, self.configurator.resolved, self.dns.look_up, refresh=refresh
        )
        self.configurator.want_host = self.hosts.want
        self.configurator.apply_addresses(encoded(service(), by_name()), [])

    async def settle(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    def endpoints(self) -> list[str] | None:
        """The endpoints that Envoy has, None while it waits."""
        if NAME not in self.configurator.clusters:
            return None
        found = self.configurator.destinations[NAME]
        return [str(hop.address) for group in found.priorities for hop in group]


async def test_a_first_connection_waits_for_the_answer() -> None:
    node = Node()
    node.dns.answers[HOST] = ["1.1.1.1", "1.1.1.2", "1.1.1.1"]
    assert node.dns.asked == []
    node.configurator.clusters.acquire(NAME)
    assert node.endpoints() is None
    await node.settle()
    assert node.endpoints() == ["1.1.1.1", "1.1.1.2"]
    assert node.dns.asked == [HOST]


async def test_a_name_that_nobody_knows_is_refused() -> None:
    node = Node()
    node.configurator.clusters.acquire(NAME)
    await node.settle()
    assert node.configurator.destinations[NAME].kind is Kind.REFUSE
    assert node.endpoints() == []


async def test_the_client_itself_is_no_endpoint() -> None:
    node = Node()
    node.dns.answers[HOST] = ["127.0.0.1", "::1", "0.0.0.0"]
    node.configurator.clusters.acquire(NAME)
    await node.settle()
    assert node.configurator.destinations[NAME].kind is Kind.REFUSE


async def test_it_is_followed_while_in_use_and_forgotten_after() -> None:
    node = Node(refresh=0)
    node.dns.answers[HOST] = ["1.1.1.1"]
    node.configurator.clusters.acquire(NAME)
    run = asyncio.ensure_future(node.hosts.run())
    await node.settle()
    node.dns.answers[HOST] = ["1.1.1.2"]
    await node.settle()
    assert node.endpoints() == ["1.1.1.2"]
    del node.dns.answers[HOST]
    await node.settle()
    assert node.endpoints() == ["1.1.1.2"], "the last answer holds"
    node.configurator.clusters.release(NAME)
    await node.settle()
    assert node.configurator.mesh.hosts == {}
    asked = len(node.dns.asked)
    await node.settle()
    assert len(node.dns.asked) == asked
    run.cancel()
    await asyncio.wait((run,))


async def test_of_a_name_that_was_forgotten_no_answer_is_kept() -> None:
    node = Node(refresh=0)
    node.dns.answers[HOST] = ["1.1.1.1"]
    node.configurator.clusters.acquire(NAME)
    run = asyncio.ensure_future(node.hosts.run())
    await node.settle()
    node.configurator.clusters.release(NAME)
    await node.settle()
    assert node.configurator.mesh.hosts == {}
    del node.dns.answers[HOST]
    node.configurator.clusters.acquire(NAME)
    await node.settle()
    assert node.configurator.destinations[NAME].kind is Kind.REFUSE
    run.cancel()
    await asyncio.wait((run,))
