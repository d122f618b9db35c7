"""Which pod has which address. The table is a file, because a pod outlives the node process and must keep its
address.

Addresses go round the range instead of being reused at once: a peer that still holds a connection or a cached name for
a deleted pod must not reach its successor by accident.
"""

import ipaddress
import json
import os
from dataclasses import dataclass, field
from pathlib import Path


class AddressesExhaustedError(Exception):
    """Every address of the node's pod range is taken."""


@dataclass
class AddressPool:
    """Pod uid -> address, persisted at ``path`` with an atomic replace."""

    path: Path
    pod_cidr: str
    _by_uid: dict[str, str] = field(default_factory=dict)
    _wired: set[str] = field(default_factory=set)
    _last: int = 1

    def __post_init__(self) -> None:
        if self.path.exists():
            stored = json.loads(self.path.read_text())
            self._by_uid, self._wired = dict(stored["pods"]), set(stored["wired"])
            self._last = int(stored["last"])

    def allocate(self, uid: str) -> str:
        """The pod's address, the same one every time. Raises AddressesExhaustedError."""
        if uid in self._by_uid:
            return self._by_uid[uid]
        network = ipaddress.ip_network(self.pod_cidr)
        usable = network.num_addresses - 3  # not the network, the gateway (.1), nor the broadcast address
        taken = set(self._by_uid.values())
        for step in range(1, usable + 1):
            offset = 2 + (self._last - 2 + step) % usable
            address = str(network[offset])
            if address not in taken:
                self._by_uid[uid], self._last = address, offset
                self._save()
                return address
        raise AddressesExhaustedError(
            f"all {usable} addresses of {self.pod_cidr} are in use on this node: delete pods, or add a node"
        )

    def address(self, uid: str) -> str | None:
        return self._by_uid.get(uid)

    def release(self, uid: str) -> None:
        """Forget the pod; unknown uids are fine."""
        self._wired.discard(uid)
        if self._by_uid.pop(uid, None) is not None:
            self._save()

    def mark_wired(self, uid: str) -> None:
        """Record that the pod's network is complete, chained plugins included."""
        self._wired.add(uid)
        self._save()

    def is_wired(self, uid: str) -> bool:
        return uid in self._wired

    def pods(self) -> dict[str, str]:
        return dict(self._by_uid)

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        scratch = self.path.with_suffix(".new")
        scratch.write_text(json.dumps({"pods": self._by_uid, "wired": sorted(self._wired), "last": self._last}))
        os.replace(scratch, self.path)
