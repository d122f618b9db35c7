"""One captured pod of this node, as all of its configuration needs it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LocalPod:
    """A pod that the node agent handed over.  `netns`: a path that Envoy can open; never used for another pod.

    `ipv6`: it speaks IPv6 besides IPv4, so that it needs listeners for both.  `keeps_source`: its app is to see the addresses of
    its clients, and not the pod's own.  `baggage`: what its tunnels tell of it.
    """

    uid: str
    name: str
    namespace: str
    service_account: str
    netns: str
    trust_domain: str
    ipv6: bool = False
    keeps_source: bool = False
    baggage: str = ""

    @property
    def identity(self) -> str:
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"
