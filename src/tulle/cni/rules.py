"""The nftables rules that redirect a captured pod's traffic to its ztunnel, as text. Pure; section A3 of the
specification.

Everything is in one table in the pod's namespace and is replaced in one transaction, so there is no moment at which a
captured pod is half-captured. The rules fail closed by construction: they redirect to ports on which only ztunnel
listens, so without a ztunnel a connection is refused rather than let through.
"""

import hashlib
from dataclasses import dataclass

from tulle.cni.enrolment import Redirection

TABLE = "tulle-ambient"
PROBE_SOURCE = "169.254.7.127"
PROBE_SOURCE_IPV6 = "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"
OUTBOUND_PORT, INBOUND_PORT, HBONE_PORT, DNS_PORT = 15001, 15006, 15008, 15053
MARK_MASK, ZTUNNEL_MARK, CONNECTION_MARK = 0xFFF, 0x539, 0x111
ROUTE_TABLE, RULE_PREFERENCE = 100, 32764
DNS_ZONE, CLIENTS_ZONE = 1, 2

# Replies to what ztunnel sends in a client's name carry the connection mark; this brings them to ztunnel's socket.
ROUTE = f"route replace local default dev lo table {ROUTE_TABLE}"
ROUTE_RULE = f"fwmark {CONNECTION_MARK:#x}/{MARK_MASK:#x} pref {RULE_PREFERENCE} lookup {ROUTE_TABLE}"

_FROM_ZTUNNEL = f"meta mark & {MARK_MASK:#x} == {ZTUNNEL_MARK:#x}"
_NOT_FROM_ZTUNNEL = f"meta mark & {MARK_MASK:#x} != {ZTUNNEL_MARK:#x}"
_NOT_TO_LOOPBACK = ("ip daddr != 127.0.0.0/8", "ip6 daddr != ::1")


@dataclass(frozen=True)
class Ruleset:
    """One table: chain header and rules by chain name. ``digest`` names its content."""

    chains: tuple[tuple[str, str, tuple[str, ...]], ...]

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self.chains).encode()).hexdigest()[:16]

    @property
    def rule_count(self) -> int:
        return sum(len(rules) for _, _, rules in self.chains)

    @property
    def text(self) -> str:
        """The script that puts exactly this table in force, whatever was there before."""
        body = "\n".join(_chain(name, header, rules) for name, header, rules in self.chains)
        return f"""add table inet {TABLE}
delete table inet {TABLE}
table inet {TABLE} {{
  comment "{self.digest}"
{body}
}}
"""


REMOVAL = f"add table inet {TABLE}\ndelete table inet {TABLE}\n"


def pod_ruleset(wanted: Redirection) -> Ruleset:
    """The rules for a pod whose traffic is redirected as ``wanted``."""
    chains = (
        (
            "mark-inbound",
            "type filter hook prerouting priority mangle",
            (f"{_FROM_ZTUNNEL} ct mark set ct mark & {~MARK_MASK & 0xFFFFFFFF:#x} | {CONNECTION_MARK:#x}",),
        ),
        (
            "restore-mark",
            "type route hook output priority mangle",
            (f"ct mark & {MARK_MASK:#x} == {CONNECTION_MARK:#x} meta mark set ct mark",),
        ),
        _CLIENTS_APART,
        ("inbound", "type nat hook prerouting priority dstnat", _inbound(wanted)),
        ("outbound", "type nat hook output priority -100", _outbound(wanted)),
        *(_DNS_APART if wanted.dns else ()),
    )
    return Ruleset(chains)


# What ztunnel sends to the app in a client's name is tracked apart, in that direction only. Else a port that the kernel chooses
# for it, and that the client uses for a redirected connection of its own, would make one of the two.
_CLIENTS_APART = (
    "ztunnel-speaks",
    "type filter hook output priority raw",
    (f'oifname "lo" {_FROM_ZTUNNEL} meta l4proto tcp ct original zone set {CLIENTS_ZONE}',),
)


# What ztunnel asks a resolver is tracked apart. Else a question from a port that ztunnel has just used for one of its own
# would be taken for more of that, and pass by the redirect (and the other way round).
_DNS_APART = (
    (
        "ztunnel-asks",
        "type filter hook output priority raw",
        (f"{_FROM_ZTUNNEL} meta l4proto udp th dport 53 ct zone set {DNS_ZONE}",),
    ),
    (
        "ztunnel-hears",
        "type filter hook prerouting priority raw",
        (f'iifname != "lo" meta l4proto udp th sport 53 ct zone set {DNS_ZONE}',),
    ),
)


def _inbound(wanted: Redirection) -> tuple[str, ...]:
    rules: list[str] = []
    for link in wanted.virtual_interfaces:
        # What a virtual machine inside the pod sends is the pod's outbound traffic, though the kernel sees it arrive.
        rules.append(f'iifname "{link}" meta l4proto tcp redirect to :{OUTBOUND_PORT}')
        rules.append(f'iifname "{link}" accept')
    rules.append(f"ip saddr {PROBE_SOURCE} meta l4proto tcp accept")
    rules.append(f"ip6 saddr {PROBE_SOURCE_IPV6} meta l4proto tcp accept")
    if wanted.inbound:
        rules += [
            f"{elsewhere} tcp dport != {HBONE_PORT} {_NOT_FROM_ZTUNNEL} redirect to :{INBOUND_PORT}"
            for elsewhere in _NOT_TO_LOOPBACK
        ]
    return tuple(rules)


def _outbound(wanted: Redirection) -> tuple[str, ...]:
    rules = [
        f"ip daddr {PROBE_SOURCE} meta l4proto tcp accept",
        f"ip6 daddr {PROBE_SOURCE_IPV6} meta l4proto tcp accept",
    ]
    if wanted.dns:
        rules += [
            f'oifname != "lo" meta l4proto udp th dport 53 {_NOT_FROM_ZTUNNEL} redirect to :{DNS_PORT}',
            f'oifname != "lo" meta l4proto tcp th dport 53 {_NOT_FROM_ZTUNNEL} redirect to :{DNS_PORT}',
        ]
    rules += [
        f"meta l4proto tcp meta mark & {MARK_MASK:#x} == {CONNECTION_MARK:#x} accept",
        'oifname "lo" accept',
        *(
            f"{elsewhere} meta l4proto tcp {_NOT_FROM_ZTUNNEL} redirect to :{OUTBOUND_PORT}"
            for elsewhere in _NOT_TO_LOOPBACK
        ),
    ]
    return tuple(rules)


def _chain(name: str, header: str, rules: tuple[str, ...]) -> str:
    body = "".join(f"    {rule}\n" for rule in rules)
    return f"  chain {name} {{\n    {header}; policy accept;\n{body}  }}"
