"""The little that an embedded cluster needs in the host's own network namespace.

Every node is a network namespace of its own, so the host gets only: one veth pair per node, one route to that node's
pods, and one nftables table that masquerades what pods send to the outside. Nodes reach each other over links of their
own that never touch the host's namespace: a host firewall that drops what is forwarded (Docker's does) cannot part
them. Machines are shared with Docker, VPNs and
firewalls that we must never disturb; therefore each thing made here is written down *before* it is made
(``hostnet.json`` beside the node's other state) and carries our name prefix and link alias, names or addresses already
used by somebody else are refused, and ``destroy`` works from the record, so that it can also clear away what a crash
left half-made.
"""

import ipaddress
import json
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

CLUSTER_PODS = "10.244.0.0/16"
NODE_LINKS = "169.254.77.0/24"
MAX_NODE_INDEX = 62
RECORD = "hostnet.json"
FORWARDING_RECORD = "host-forwarding.json"
NODE_UPLINK = "eth0"
NODE_LINK = "node"
"""Prefix of a node's link to another node; the other's index follows."""


class HostNetworkError(Exception):
    """The host's network cannot be set up; the message names what is in the way and what to do."""


@dataclass(frozen=True)
class HostPlan:
    """Names and addresses of one node, as the host sees them (see the address table of the embedded mode)."""

    index: int
    name: str
    netns: str
    link: str
    table: str
    host_ip: str
    node_ip: str
    pod_cidr: str


def plan(node_index: int, name: str, *, prefix: str = "tulle") -> HostPlan:
    """The names and addresses of node number ``node_index`` (0..62). Raises ValueError for another index."""
    if not 0 <= node_index <= MAX_NODE_INDEX:
        raise ValueError(f"node {name!r}: index {node_index} is not within 0..{MAX_NODE_INDEX}")
    return HostPlan(
        index=node_index,
        name=name,
        netns=f"{prefix}-{name}",
        link=f"{prefix}-{node_index}",
        table=prefix,
        host_ip=f"169.254.77.{4 * node_index + 1}",
        node_ip=f"169.254.77.{4 * node_index + 2}",
        pod_cidr=f"10.244.{node_index}.0/24",
    )


def create(node_index: int, name: str, state_dir: Path | str, *, prefix: str = "tulle") -> HostPlan:
    """Make the node's namespace, its veth pair, the route to its pods, and egress. Run as root in the host's
    namespace.

    The node is linked with every node that the same state directory already has. What an earlier run of the same state
    directory left behind is replaced. Raises HostNetworkError when a name or an address is in use by anybody else, or
    when the kernel refuses a step (then everything of this node is removed again).
    """
    wanted = plan(node_index, name, prefix=prefix)
    state = Path(state_dir)
    if len(wanted.link) > 15:
        raise HostNetworkError(
            f"link name {wanted.link!r} is longer than the kernel's 15 characters: use a shorter prefix"
        )
    if _record(state, name).exists():
        destroy(name, state_dir, prefix=prefix)
    _refuse_what_is_taken(wanted, state)
    _record(state, name).parent.mkdir(parents=True, exist_ok=True)
    _record(state, name).write_text(json.dumps(asdict(wanted)))
    try:
        _make_link(wanted, state)
        for other in _neighbours(wanted, state):
            _join(wanted, other)
        _enable_egress(wanted, state)
    except HostNetworkError:
        destroy(name, state_dir, prefix=prefix)
        raise
    return wanted


def destroy(name: str, state_dir: Path | str, *, prefix: str = "tulle") -> None:
    """Remove what ``create`` made for this node, whole or half-made; with the last node also egress. Safe to repeat."""
    state = Path(state_dir)
    record = _record(state, name)
    if record.exists():
        made = HostPlan(**json.loads(record.read_text()))
        if _owner(made.link) == _alias(state):
            _attempt("ip", "link", "delete", made.link)
        if made.netns in _namespaces():
            _attempt("ip", "netns", "delete", made.netns)
        record.unlink(missing_ok=True)  # another `down` may be at work
    if not any(state.glob(f"nodes/*/{RECORD}")):
        _restore_forwarding(state)
        if _table_owner(prefix) == _alias(state):
            _attempt("nft", "delete", "table", "ip", prefix)


def egress_obstacles(*, prefix: str = "tulle") -> tuple[str, ...]:
    """Firewalls of others that drop what is forwarded by default (Docker's, for one), each in words to show to the user.

    They are never changed: pods then have no way out of the machine until their owner lets ``<prefix>-*`` links pass.
    """
    listed = json.loads(_run("nft", "-j", "list", "chains") or "{}")
    chains = [entry["chain"] for entry in listed.get("nftables", []) if "chain" in entry]
    return tuple(
        f"chain {c['name']} of nftables table {c['family']} {c['table']} drops forwarded traffic by default: pods have no "
        f"egress until it accepts the links {prefix}-* (for Docker: `iptables -I DOCKER-USER -i {prefix}-+ -j ACCEPT` "
        f"and `iptables -I DOCKER-USER -o {prefix}-+ -j ACCEPT`)"
        for c in chains
        if c.get("hook") == "forward" and c.get("policy") == "drop" and c["family"] in ("ip", "inet")
    )


def _record(state: Path, name: str) -> Path:
    return state / "nodes" / name / RECORD


def _alias(state: Path) -> str:
    return f"tulle:{state.resolve()}"


def _make_link(p: HostPlan, state: Path) -> None:
    _run("ip", "netns", "add", p.netns)
    _batch(
        [
            f"link add {p.link} type veth peer name {NODE_UPLINK} netns {p.netns}",
            f'link set {p.link} alias "{_alias(state)}"',
            f"addr add {p.host_ip}/30 dev {p.link}",
            f"link set {p.link} up",
            f"route add {p.pod_cidr} via {p.node_ip} dev {p.link}",
        ]
    )
    _batch(
        [
            "link set lo up",
            f"addr add {p.node_ip}/30 dev {NODE_UPLINK}",
            f"link set {NODE_UPLINK} up",
            f"route add default via {p.host_ip} dev {NODE_UPLINK}",
        ],
        netns=p.netns,
    )


def _neighbours(p: HostPlan, state: Path) -> list[HostPlan]:
    """The other nodes of this cluster whose namespace is there."""
    records = sorted(state.glob(f"nodes/*/{RECORD}"))
    recorded = (HostPlan(**json.loads(record.read_text())) for record in records)
    present = _namespaces()
    return [other for other in recorded if other.index != p.index and other.netns in present]


def _join(p: HostPlan, other: HostPlan) -> None:
    """A veth pair between two nodes, and on each side the routes to the other's pods and address.

    The link carries the two nodes' own addresses, so that a node is known by one address everywhere. It ends with either
    namespace.
    """
    here, there = f"{NODE_LINK}{other.index}", f"{NODE_LINK}{p.index}"
    # A namespace is torn down in the background: the far end of an earlier link may still be there.
    _attempt("ip", "-netns", other.netns, "link", "delete", there)
    _batch([f"link add {here} type veth peer name {there} netns {other.netns}"], netns=p.netns)
    for near, far, link in ((p, other, here), (other, p, there)):
        _batch(
            [
                f"link set {link} up",
                f"addr add {near.node_ip} peer {far.node_ip} dev {link}",
                f"route add {far.pod_cidr} via {far.node_ip} dev {link} src {near.node_ip}",
            ],
            netns=near.netns,
        )


def _enable_egress(p: HostPlan, state: Path) -> None:
    """Forwarding is switched on per interface, never globally: the node's link and the uplinks the default routes
    use.
    """
    _remember_and_enable([p.link], state, remember=False)
    _remember_and_enable(_uplinks(), state, remember=True)
    _run("nft", "-f", "-", stdin=egress_ruleset(p.table, _alias(state)))


def egress_ruleset(prefix: str, owner: str) -> str:
    """The host's one table: pods leave with the host's address, and nobody outside can start a connection to them."""
    ours = f"{CLUSTER_PODS}, {NODE_LINKS}"
    return f"""
add table ip {prefix}
delete table ip {prefix}
table ip {prefix} {{
  comment "{owner}"
  chain egress {{
    type nat hook postrouting priority srcnat; policy accept;
    oifname != "{prefix}-*" ip saddr {{ {ours} }} ip daddr != {{ {ours} }} masquerade
  }}
  chain ingress {{
    type filter hook forward priority filter; policy accept;
    oifname "{prefix}-*" iifname != "{prefix}-*" ct state != {{ established, related }} drop
  }}
}}
"""


def _uplinks() -> list[str]:
    routes = _json("ip", "-j", "-4", "route", "show", "default")
    return sorted({str(route["dev"]) for route in routes if "dev" in route})


def _forwarding(link: str) -> Path:
    return Path("/proc/sys/net/ipv4/conf") / link.replace("/", ".") / "forwarding"


def _remember_and_enable(links: Sequence[str], state: Path, *, remember: bool) -> None:
    off = [link for link in links if _forwarding(link).read_text().strip() == "0"]
    if remember and off:
        known = _remembered(state)
        (state / FORWARDING_RECORD).write_text(json.dumps(sorted({*known, *off})))
    for link in off:
        _forwarding(link).write_text("1")


def _remembered(state: Path) -> list[str]:
    record = state / FORWARDING_RECORD
    return list(json.loads(record.read_text())) if record.exists() else []


def _restore_forwarding(state: Path) -> None:
    for link in _remembered(state):
        if _forwarding(link).exists():
            _forwarding(link).write_text("0")
    (state / FORWARDING_RECORD).unlink(missing_ok=True)


def _refuse_what_is_taken(p: HostPlan, state: Path) -> None:
    if (owner := _owner(p.link)) is not None:
        raise HostNetworkError(
            f"link {p.link} exists and belongs to {owner or 'somebody else'}, not to {state}: "
            f"take that cluster down first, or remove it with `ip link delete {p.link}` if nothing uses it"
        )
    if p.netns in _namespaces():
        raise HostNetworkError(
            f"network namespace {p.netns} exists but is not recorded under {state}: "
            f"remove it with `ip netns delete {p.netns}` if nothing uses it"
        )
    pods, link_net = ipaddress.ip_network(p.pod_cidr), ipaddress.ip_network(f"{p.host_ip}/30", strict=False)
    for route in _json("ip", "-j", "-4", "route", "show", "table", "main"):
        if route["dst"] == "default":
            continue
        taken = ipaddress.ip_network(route["dst"], strict=False)
        for ours, what in ((pods, "pods"), (link_net, "node link")):
            # A wider route of others (a VPN's 10.0.0.0/8) still works: ours is more specific and wins.
            if taken.overlaps(ours) and taken.prefixlen >= ours.prefixlen:
                raise HostNetworkError(
                    f"node {p.name}: {what} need {ours}, but the host already routes {taken} through "
                    f"{route.get('dev', 'another link')}: free that range or choose another node index"
                )
    table_owner = _table_owner(p.table)
    if table_owner is not None and table_owner != _alias(state):
        raise HostNetworkError(
            f"nftables table ip {p.table} exists and belongs to {table_owner or 'somebody else'}, not to {state}: "
            f"take that cluster down first, or remove it with `nft delete table ip {p.table}` if nothing uses it"
        )


def _owner(link: str) -> str | None:
    """The alias of a link; "" when it has none, None when there is no such link."""
    found = subprocess.run(["ip", "-j", "link", "show", "dev", link], capture_output=True, text=True, check=False)
    if found.returncode:
        return None
    return "".join(str(entry.get("ifalias", "")) for entry in json.loads(found.stdout))


def _table_owner(table: str) -> str | None:
    """The comment of an nftables table; "" when it has none, None when there is no such table."""
    found = subprocess.run(["nft", "list", "table", "ip", table], capture_output=True, text=True, check=False)
    if found.returncode:
        return None
    for line in found.stdout.splitlines():
        if line.strip().startswith('comment "'):
            return line.strip().removeprefix('comment "').removesuffix('"')
    return ""


def _namespaces() -> set[str]:
    return {str(entry["name"]) for entry in _json("ip", "-j", "netns", "list")}


def _json(*command: str) -> list[dict[str, Any]]:
    text = _run(*command).strip()
    return list(json.loads(text)) if text else []


def _batch(lines: Sequence[str], netns: str = "") -> None:
    where = ["-netns", netns] if netns else []
    _run("ip", *where, "-batch", "-", stdin="\n".join(lines) + "\n")


def _run(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HostNetworkError(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _attempt(*command: str) -> None:
    """Removal tolerates what is already gone (the peer of a deleted veth, a namespace that another run removed)."""
    subprocess.run(command, capture_output=True, check=False)
