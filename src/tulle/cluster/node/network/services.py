"""What nftables must hold for the cluster's Services: a pure function from Services and endpoints to chains, sets
and map elements.

One lookup in a map finds a connection's Service port, whatever their number; each Service port has one chain that
picks an endpoint. A Service's part of the ruleset is a ``Fragment``; two states of it give the script that leads from
one to the other, so a change costs what changed. A VIP without endpoints has no element, stays untranslated, and the
base ruleset refuses it with a reset.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tulle.cluster.node.network.catalogue import Backend, Key, addresses, usable
from tulle.kube.objects import Service, ServicePort

TABLE = "tulle-services"
PROTOCOLS = {"TCP": "tcp", "UDP": "udp"}
AFFINITY_SECONDS = 10800


@dataclass(frozen=True)
class Fragment:
    """One Service's part: ``chains`` name -> rules, ``sets`` name -> definition, ``elements`` (map, key) -> value.

    ``udp`` lists (address, port, endpoint) of its UDP flows, whose connection tracking must be forgotten with the
    endpoint.
    """

    chains: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sets: Mapping[str, str] = field(default_factory=dict)
    elements: Mapping[tuple[str, str], str] = field(default_factory=dict)
    udp: frozenset[tuple[str, int, str]] = frozenset()


EMPTY = Fragment()


@dataclass(frozen=True)
class Placement:
    """What the rendering needs to know of the node."""

    node_name: str
    local_addresses: frozenset[str]  # addresses that the node itself serves (cluster DNS): never translated


def base_ruleset(
    pod_cidr: str, service_cidr: str, node_ip: str, hairpin: Iterable[str], fragments: Iterable[Fragment]
) -> str:
    """The whole table, replaced in one transaction. ``hairpin``: addresses of the node's own pods."""
    pairs = ", ".join(f"{ip} . {ip}" for ip in sorted(hairpin))
    held = list(fragments)
    parts = [_add_chain(name, rules) for f in held for name, rules in f.chains.items()]
    sets = [f"add set ip {TABLE} {name} {definition}" for f in held for name, definition in f.sets.items()]
    chains = [f"add chain ip {TABLE} {name}" for f in held for name in f.chains]
    elements = [_add_element(key, value) for f in held for key, value in f.elements.items()]
    return "\n".join(
        [
            f"add table ip {TABLE}",
            f"delete table ip {TABLE}",
            _BASE.format(
                table=TABLE,
                pods=pod_cidr,
                services=service_cidr,
                node=node_ip,
                hairpin=f"elements = {{ {pairs} }}" if pairs else "",
            ),
            *sets,
            *chains,
            *parts,
            *elements,
            "",
        ]
    )


# A connection to a NodePort that leaves for another node must come back through this one; a pod that reaches itself
# through a Service must see the node as its peer, or it would answer itself directly. Nothing else is masqueraded.
_BASE = """table ip {table} {{
  map vips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
  map node-ports {{ type inet_proto . inet_service : verdict; }}
  set hairpin {{ type ipv4_addr . ipv4_addr; {hairpin} }}
  chain translate {{
    ip daddr . meta l4proto . th dport vmap @vips
    ip daddr {node} meta l4proto . th dport vmap @node-ports
  }}
  chain prerouting {{ type nat hook prerouting priority dstnat; policy accept; jump translate; }}
  chain output {{ type nat hook output priority -100; policy accept; jump translate; }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr . ip daddr @hairpin masquerade
    ct status dnat ct original ip daddr {node} ip daddr != {{ {pods}, {node} }} masquerade
  }}
  chain refuse {{
    ip daddr {services} meta l4proto tcp reject with tcp reset
    ip daddr {services} reject
  }}
  chain forward {{ type filter hook forward priority filter; policy accept; jump refuse; }}
  chain local {{ type filter hook output priority filter; policy accept; oifname != "lo" jump refuse; }}
}}"""


def render(key: Key, service: Service | None, backends: Iterable[Backend], placement: Placement) -> Fragment:
    """The Service's fragment; empty for headless, ExternalName and deleted Services, and for ports without
    endpoints.
    """
    if service is None:
        return EMPTY
    vips = [a for a in addresses(service) if a not in placement.local_addresses]
    if not vips:
        return EMPTY
    reachable = tuple(backends)
    if service.spec.internal_traffic_policy == "Local":
        reachable = tuple(b for b in reachable if b.node_name == placement.node_name)
    chains: dict[str, tuple[str, ...]] = {}
    sets: dict[str, str] = {}
    elements: dict[tuple[str, str], str] = {}
    udp: set[tuple[str, int, str]] = set()
    for port in service.spec.ports:
        targets = _targets(port, reachable)
        protocol = PROTOCOLS.get(port.protocol)
        if protocol is None or not targets:
            continue
        chain = chain_name(key, port)
        if service.spec.session_affinity == "ClientIP":
            sticky = _sticky(chain, protocol, targets)
            chains.update(sticky.chains)
            sets.update(sticky.sets)
        else:
            chains[chain] = (_spread(protocol, targets),)
        for vip in vips:
            elements["vips", f"{vip} . {protocol} . {port.port}"] = f"goto {chain}"
            udp.update((vip, port.port, address) for address, _ in targets if protocol == "udp")
        if port.node_port:
            elements["node-ports", f"{protocol} . {port.node_port}"] = f"goto {chain}"
    return Fragment(chains, sets, elements, frozenset(udp))


def transition(old: Fragment, new: Fragment) -> list[str]:
    """nft commands that lead from one fragment to the other; empty when nothing differs. References go before what
    they refer to.
    """
    lines: list[str] = []
    for element, value in old.elements.items():
        if new.elements.get(element) != value:
            lines.append(f"delete element ip {TABLE} {element[0]} {{ {element[1]} }}")
    lines += [f"add set ip {TABLE} {name} {text}" for name, text in new.sets.items() if old.sets.get(name) != text]
    changed = [name for name, rules in new.chains.items() if old.chains.get(name) != rules]
    gone = [name for name in old.chains if name not in new.chains]
    lines += [f"add chain ip {TABLE} {name}" for name in changed if name not in old.chains]
    lines += [f"flush chain ip {TABLE} {name}" for name in (*gone, *(n for n in changed if n in old.chains))]
    lines += [_add_chain(name, new.chains[name]) for name in changed]
    lines += [f"delete chain ip {TABLE} {name}" for name in gone]
    lines += [f"delete set ip {TABLE} {name}" for name in old.sets if name not in new.sets]
    lines += [_add_element(e, value) for e, value in new.elements.items() if old.elements.get(e) != value]
    return lines


def chain_name(key: Key, port: ServicePort) -> str:
    """Stable and short: nft limits names, Kubernetes names may be long."""
    text = "/".join((*key, port.name, port.protocol, str(port.port)))
    return "svc-" + hashlib.sha256(text.encode()).hexdigest()[:16]


def _targets(port: ServicePort, backends: tuple[Backend, ...]) -> tuple[tuple[str, int], ...]:
    found = ((b.address, b.port(port.name, port.protocol)) for b in usable(backends))
    return tuple(dict.fromkeys((address, number) for address, number in found if number is not None))


def _spread(protocol: str, targets: tuple[tuple[str, int], ...]) -> str:
    if len(targets) == 1:
        return f"meta l4proto {protocol} dnat to {targets[0][0]}:{targets[0][1]}"
    choices = ", ".join(f"{n} : {address} . {port}" for n, (address, port) in enumerate(targets))
    return f"meta l4proto {protocol} dnat ip to numgen random mod {len(targets)} map {{ {choices} }}"


def _sticky(chain: str, protocol: str, targets: tuple[tuple[str, int], ...]) -> Fragment:
    """ClientIP affinity: each endpoint remembers its clients; names follow the endpoint, so that memory outlives
    other changes.
    """
    chains: dict[str, tuple[str, ...]] = {}
    sets: dict[str, str] = {}
    remembered, choices = [], []
    for number, (address, port) in enumerate(targets):
        endpoint = f"{chain}-{address.replace('.', '-')}-{port}"
        sets[f"{endpoint}-clients"] = (
            f"{{ type ipv4_addr; flags dynamic,timeout; timeout {AFFINITY_SECONDS}s; size 65535; }}"
        )
        chains[endpoint] = (
            f"update @{endpoint}-clients {{ ip saddr }}",
            f"meta l4proto {protocol} dnat to {address}:{port}",
        )
        remembered.append(f"ip saddr @{endpoint}-clients goto {endpoint}")
        choices.append(f"{number} : goto {endpoint}")
    spread = f"numgen random mod {len(targets)} vmap {{ {', '.join(choices)} }}"
    chains[chain] = (*remembered, spread)
    return Fragment(chains=chains, sets=sets)


def _add_chain(name: str, rules: tuple[str, ...]) -> str:
    return "\n".join(f"add rule ip {TABLE} {name} {rule}" for rule in rules)


def _add_element(element: tuple[str, str], value: str) -> str:
    return f"add element ip {TABLE} {element[0]} {{ {element[1]} : {value} }}"
