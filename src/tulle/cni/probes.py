"""The kubelet's probes reach captured pods past every policy, STRICT mTLS included: they leave the node under an
address of their own.

That address opens every captured pod, so nobody else may use it: packets that *arrive* at the node with it are
dropped. Rules live in the node's own namespace, in one table that is replaced as a whole; it is small, one set element
per captured pod.
"""

import asyncio
from collections.abc import Iterable

from tulle.cni.netns import run
from tulle.cni.rules import PROBE_SOURCE, PROBE_SOURCE_IPV6

TABLE = "tulle-probes"


def host_ruleset(captured: Iterable[str], *, ipv6: bool) -> str:
    """The tables for these pod addresses. Only sockets of the node itself are translated, never forwarded packets.

    Only with ``ipv6`` there is one for that, because a kernel may not have it.
    """
    addresses = sorted(captured)
    six = [address for address in addresses if ":" in address]
    four = [address for address in addresses if ":" not in address]
    return _table("ip", PROBE_SOURCE, four) + (_table("ip6", PROBE_SOURCE_IPV6, six) if ipv6 else "")


def _table(family: str, source: str, captured: list[str]) -> str:
    elements = ", ".join(captured)
    return f"""add table {family} {TABLE}
delete table {family} {TABLE}
table {family} {TABLE} {{
  set captured {{
    type {"ipv4_addr" if family == "ip" else "ipv6_addr"}
    {f"elements = {{ {elements} }}" if elements else ""}
  }}
  chain guard {{
    type filter hook prerouting priority raw; policy accept;
    iifname != "lo" {family} saddr {source} drop
  }}
  chain probes {{
    type nat hook postrouting priority 99; policy accept;
    meta skuid 0-4294967294 meta l4proto tcp {family} daddr @captured snat to {source}
  }}
}}
"""


class ProbeAddresses:
    """The set of captured pods' addresses. Until ``start`` an earlier agent's table stays in force, so that no probe
    fails meanwhile.
    """

    def __init__(self) -> None:
        self._by_uid: dict[str, frozenset[str]] = {}
        self._applied: frozenset[str] | None = None
        self._started = False
        self._lock = asyncio.Lock()

    async def put(self, uid: str, addresses: Iterable[str]) -> None:
        """Let probes pass to this pod. Raises NamespaceError."""
        self._by_uid[uid] = frozenset(addresses)
        await self._sync()

    async def drop(self, uid: str) -> None:
        """Forget the pod. Raises NamespaceError."""
        if self._by_uid.pop(uid, None) is not None:
            await self._sync()

    async def start(self) -> None:
        """From now on the kernel's set is exactly ours; called once every running pod has been looked at."""
        self._started = True
        await self._sync()

    async def _sync(self) -> None:
        async with self._lock:
            wanted = frozenset().union(*self._by_uid.values())
            if not self._started and self._applied is None:
                existing = await run(["nft", "list", "tables", "ip"])
                if f"table ip {TABLE}" in existing.splitlines():
                    return
            if wanted != self._applied:
                ipv6 = any(":" in address for address in wanted | (self._applied or frozenset()))
                await run(["nft", "-f", "-"], host_ruleset(wanted, ipv6=ipv6))
                self._applied = wanted
