"""The seam between the kubelet and the pod network.

The kubelet knows nothing of bridges, addresses or CNI plugins: it asks for a network namespace per pod and gives it
back when the pod ends. Whatever implements `Network` may be swapped (and is, in the tests) without touching the
kubelet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class PodRef:
    """One pod, named as the API names it; `uid` tells apart two pods that had the same name one after the other."""

    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class PodNetwork:
    """What a pod got: the path of its network namespace and its primary address."""

    netns_path: str
    ip: str


class NetworkError(Exception):
    """The pod's network could not be made; `reason` becomes the message of the FailedCreatePodSandBox event."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Network(Protocol):
    """The node's network, as the kubelet sees it."""

    async def setup_node(self) -> None:
        """Prepare the node's namespace (bridge, sysctls); called once before the first pod."""

    async def attach(self, pod: PodRef, host_network: bool) -> PodNetwork:
        """Give the pod a network namespace and an address; idempotent. Raises NetworkError."""

    async def detach(self, pod: PodRef) -> None:
        """Take everything back that `attach` gave; idempotent."""

    async def run(self) -> None:
        """Serve Service addresses and DNS, forever."""

    def resolv_conf(self, namespace: str, dns_policy: str) -> str:
        """The text of /etc/resolv.conf for a pod of this namespace (dnsPolicy ClusterFirst, ClusterFirstWithHostNet,
        Default, None).
        """
