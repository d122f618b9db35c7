"""One pod's link: its namespace, veth pair and address, and the guard that keeps it from speaking in another's name.

Bridge ports are isolated and a pod's address is a /32, so every packet between pods is routed by the node even on the
same node: the Service proxy then sees both directions and undoes its translation on replies. Neighbour and forwarding
entries are permanent; a pod can neither learn nor poison them. The guard is an allow-list of (link, MAC, address):
IPv6, tagged frames and forged sources (such as 169.254.7.127, under which a mesh lets the kubelet's probes pass) never
get further than the bridge port.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from tulle.cluster.node.network import namespaces
from tulle.cluster.node.network.commands import bridge_batch, ip_batch, run
from tulle.cluster.node.network.config import POD_LINK, NetworkConfig, mac_of

GUARD_TABLE = "tulle-guard"
NODE_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv4/conf/all/rp_filter": "1",
    "net/ipv6/conf/all/disable_ipv6": "1",
    "net/ipv6/conf/default/disable_ipv6": "1",
    "net/bridge/bridge-nf-call-iptables": "0",
    "net/bridge/bridge-nf-call-ip6tables": "0",
    "net/bridge/bridge-nf-call-arptables": "0",
}


def node_side(ip: str) -> str:
    """Name of a pod's veth end in the node's namespace; it tells the address (10.244.0.12 -> ``pod-0-12``)."""
    _, _, third, fourth = ip.split(".")
    return f"pod-{third}-{fourth}"


def guard_element(ip: str) -> str:
    return f'"{node_side(ip)}" . {mac_of(ip)} . {ip}'


def guard_ruleset(pods: Mapping[str, str]) -> str:
    """The whole guard table, replaced in one transaction. ``pods``: uid -> address."""
    elements = ", ".join(guard_element(ip) for ip in sorted(pods.values()))
    return f"""
add table bridge {GUARD_TABLE}
delete table bridge {GUARD_TABLE}
table bridge {GUARD_TABLE} {{
  set senders {{
    type ifname . ether_addr . ipv4_addr
    {f"elements = {{ {elements} }}" if elements else ""}
  }}
  chain prerouting {{
    type filter hook prerouting priority dstnat; policy drop;
    ether type ip iifname . ether saddr . ip saddr @senders accept
    ether type arp iifname . arp saddr ether . arp saddr ip != @senders drop
    ether type arp iifname . ether saddr . arp saddr ip @senders accept
  }}
}}
"""


async def setup_bridge(config: NetworkConfig) -> None:
    """The node's sysctls and its bridge; harmless when they are already there."""
    for name, value in NODE_SYSCTLS.items():
        path = Path("/proc/sys") / name
        if path.exists():
            path.write_text(value)
    if not await exists(config.bridge):
        await ip_batch(
            [
                f"link add {config.bridge} address {config.bridge_mac} mtu {config.mtu} type bridge "
                "stp_state 0 forward_delay 0 mcast_snooping 0",
            ]
        )
    prefix_length = config.pod_cidr.split("/")[1]
    await ip_batch(
        [
            "link set lo up",
            f"addr replace {config.dns_ip}/32 dev lo",
            f"addr replace {config.gateway}/{prefix_length} dev {config.bridge}",
            f"link set {config.bridge} up",
        ]
    )


async def exists(link: str) -> bool:
    """Whether the link is in the current namespace (sysfs may show another namespace's, so the kernel is asked)."""
    return f'"ifname":"{link}"' in await run(["ip", "-j", "link", "show"])


async def create(config: NetworkConfig, ip: str, netns: Path) -> None:
    """Make the pod's namespace at ``netns`` and its link. Raises CommandError; the caller then calls ``remove``."""
    await namespaces.create_pinned(
        netns,
        [
            "link set lo up",
            f"link add {POD_LINK} address {mac_of(ip)} mtu {config.mtu} type veth "
            f"peer name {node_side(ip)} mtu {config.mtu} netns {os.getpid()}",
            f"addr add {ip}/32 dev {POD_LINK}",
            f"link set {POD_LINK} up",
            f"neigh replace {config.gateway} lladdr {config.bridge_mac} dev {POD_LINK} nud permanent",
            f"route add {config.gateway} dev {POD_LINK} scope link src {ip}",
            f"route add default via {config.gateway} dev {POD_LINK} src {ip}",
        ],
    )
    await connect(config, ip)


async def connect(config: NetworkConfig, ip: str) -> None:
    """Plug the node's end into the bridge."""
    link = node_side(ip)
    await ip_batch(
        [
            f"link set {link} master {config.bridge} up",
            f"link set {link} type bridge_slave isolated on learning off flood off mcast_flood off neigh_suppress off",
            f"neigh replace {ip} lladdr {mac_of(ip)} dev {config.bridge} nud permanent",
        ]
    )
    await bridge_batch([f"fdb replace {mac_of(ip)} dev {link} master static"])


async def remove(config: NetworkConfig, ip: str, netns: Path) -> None:
    """Take the link and the pin away; whatever is already gone is fine."""
    if await exists(node_side(ip)):
        await ip_batch([f"link delete {node_side(ip)}"])
    if ip in await run(["ip", "neigh", "show", ip, "dev", config.bridge, "nud", "permanent"]):
        await ip_batch([f"neigh delete {ip} dev {config.bridge}"])
    await namespaces.unpin(netns)
