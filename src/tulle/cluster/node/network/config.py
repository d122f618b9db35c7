"""Addresses and paths of one node's network, in one frozen value, so that no other module derives an address on its
own.
"""

import ipaddress
from dataclasses import dataclass
from pathlib import Path

BRIDGE = "tulle-br0"
POD_LINK = "eth0"
MTU = 1500


@dataclass(frozen=True)
class NetworkConfig:
    """``state_dir`` is the node's own (``<state>/nodes/<name>``); ``filesystem`` is its hostPath root.

    ``upstream_resolvers`` are IP addresses; empty means the nameservers of ``/etc/resolv.conf``.
    """

    node_name: str
    node_ip: str
    pod_cidr: str
    state_dir: Path
    cluster_pods: str = "10.244.0.0/16"
    service_cidr: str = "10.96.0.0/16"
    dns_ip: str = "10.96.0.10"
    cluster_domain: str = "cluster.local"
    upstream_resolvers: tuple[str, ...] = ()
    bridge: str = BRIDGE
    mtu: int = MTU

    @classmethod
    def for_node(cls, index: int, name: str, state_dir: Path) -> "NetworkConfig":
        """The addresses of node number ``index``, as ``tulle.cluster.hostnet`` lays them out on the host."""
        return cls(
            node_name=name,
            node_ip=f"169.254.77.{4 * index + 2}",
            pod_cidr=f"10.244.{index}.0/24",
            state_dir=state_dir,
        )

    @property
    def gateway(self) -> str:
        """The first address of the pod range: the bridge's own, and every pod's default gateway."""
        return str(ipaddress.ip_network(self.pod_cidr)[1])

    @property
    def bridge_mac(self) -> str:
        """Fixed, so that pods can hold a permanent neighbour entry for their gateway."""
        return mac_of(self.gateway)

    @property
    def filesystem(self) -> Path:
        return self.state_dir / "fs"

    @property
    def cni_config_dir(self) -> Path:
        return self.filesystem / "etc/cni/net.d"

    @property
    def cni_bin_dir(self) -> Path:
        return self.filesystem / "opt/cni/bin"

    @property
    def netns_dir(self) -> Path:
        """Where pod namespaces are pinned (bind mounts, seen in the node process's mount namespace only)."""
        return self.state_dir / "netns"

    @property
    def addresses_file(self) -> Path:
        return self.state_dir / "addresses.json"


def mac_of(ip: str) -> str:
    """A locally administered MAC that follows from the address, so that neighbour and forwarding entries can be
    permanent.
    """
    return "0a:58:" + ":".join(f"{byte:02x}" for byte in ipaddress.IPv4Address(ip).packed)
