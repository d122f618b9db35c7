"""Keeping the kernel's Service table equal to the catalogue: changes that come together are applied together, each
as one transaction.

A refused transaction is never ignored: the whole table is then rebuilt from what is known, with a growing pause
between attempts.
"""

import asyncio
from collections.abc import Callable, Mapping

import structlog

from tulle.cluster.node.network.catalogue import Catalogue, Key
from tulle.cluster.node.network.commands import CommandError, nft, run
from tulle.cluster.node.network.config import NetworkConfig
from tulle.cluster.node.network.services import EMPTY, TABLE, Fragment, Placement, base_ruleset, render, transition

log = structlog.get_logger("tulle.node.services")

COALESCE_SECONDS = 0.005
MAX_BACKOFF_SECONDS = 10.0


class ServiceProxy:
    """``run`` applies the catalogue's changes; ``lock`` orders every writer of the node's nftables."""

    def __init__(
        self, config: NetworkConfig, catalogue: Catalogue, local_pods: Callable[[], Mapping[str, str]]
    ) -> None:
        self.lock = asyncio.Lock()
        self._config = config
        self._catalogue = catalogue
        self._local_pods = local_pods
        self._placement = Placement(config.node_name, frozenset({config.dns_ip}))
        self._applied: dict[Key, Fragment] = {}
        self._dirty: set[Key] = set()
        self._wake = asyncio.Event()
        self._rebuild = True
        catalogue.on_change(self._changed)

    async def setup(self) -> None:
        """Make sure that the table is there. One from an earlier node process stays in force until the first full
        sync.
        """
        async with self.lock:
            tables = await run(["nft", "list", "tables", "ip"])
            if f"table ip {TABLE}" not in tables.splitlines():
                await nft(self._whole({}))

    async def run(self) -> None:
        """Apply changes forever; the first round, and any after a refusal, writes the whole table."""
        self._wake.set()
        backoff = 0.1
        while True:
            await self._wake.wait()
            await asyncio.sleep(COALESCE_SECONDS)
            self._wake.clear()
            try:
                await self._apply()
                backoff = 0.1
            except CommandError as error:
                log.error("Service table refused, rebuilding it", retry_in_seconds=backoff, error=str(error))
                self._rebuild = True
                self._wake.set()
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, MAX_BACKOFF_SECONDS)

    def _changed(self, key: Key) -> None:
        self._dirty.add(key)
        self._wake.set()

    async def _apply(self) -> None:
        async with self.lock:
            dirty, self._dirty = self._dirty, set()
            keys = set(self._catalogue.services) if self._rebuild else dirty
            wanted = {key: self._render(key) for key in keys}
            stale = _gone_udp(self._applied, wanted)
            if self._rebuild:
                await nft(self._whole(wanted))
                self._applied, self._rebuild = wanted, False
            else:
                await self._change(wanted)
        await self._forget(stale)

    async def _change(self, wanted: Mapping[Key, Fragment]) -> None:
        lines = [line for key, new in wanted.items() for line in transition(self._applied.get(key, EMPTY), new)]
        if lines:
            await nft("\n".join(lines) + "\n")
        for key, new in wanted.items():
            self._applied[key] = new
            if new == EMPTY:
                del self._applied[key]

    def _render(self, key: Key) -> Fragment:
        return render(key, self._catalogue.services.get(key), self._catalogue.backends(key), self._placement)

    def _whole(self, fragments: Mapping[Key, Fragment]) -> str:
        c = self._config
        return base_ruleset(c.pod_cidr, c.service_cidr, c.node_ip, self._local_pods().values(), fragments.values())

    async def _forget(self, stale: frozenset[tuple[str, int, str]]) -> None:
        """A UDP flow has no end of its own: without this, clients would keep sending to an endpoint that is gone."""
        for vip, port, endpoint in sorted(stale):
            try:
                await run(
                    [
                        "conntrack",
                        "-D",
                        "-p",
                        "udp",
                        "--orig-dst",
                        vip,
                        "--orig-port-dst",
                        str(port),
                        "--reply-src",
                        endpoint,
                    ]
                )
            except CommandError as error:  # conntrack exits 1 when there was no such flow
                log.debug("no such flow", error=str(error))


def _gone_udp(old: Mapping[Key, Fragment], new: Mapping[Key, Fragment]) -> frozenset[tuple[str, int, str]]:
    return frozenset(flow for key, fragment in new.items() for flow in old.get(key, EMPTY).udp - fragment.udp)
