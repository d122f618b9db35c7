"""ztunnel's own reading of its policies.

A node proxy evaluates exactly this, so it is written from the wire types alone and shares nothing with ``decision``; tests
hold the two against each other (C4, C5: zero rules never match, zero clauses and zero matches always do, an empty match
never does).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .identity import Identity
from .match import IPAddress, StringMatch, read_address
from .model import Action
from .ztunnel import Address, Clause, Match, Scope, ServiceAccountMatch, ZtunnelPolicy, ZtunnelRule


@dataclass(frozen=True, slots=True)
class Connection:
    """What ztunnel knows of an inbound connection. ``port`` is the pod's target port; no identity means plaintext."""

    identity: Identity | None
    source_ip: str
    destination_ip: str
    port: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the connection may pass, the policy that decided (``namespace/name``), and ztunnel's words for it (D12)."""

    allowed: bool
    policy: str | None
    reason: str


def applicable(
    policies: Mapping[str, ZtunnelPolicy], namespace: str, names: Iterable[str]
) -> tuple[ZtunnelPolicy, ...]:
    """The policies for a workload: global, those of its namespace, and those it names. Unknown names are skipped (C4)."""
    found = {
        key: policy
        for key, policy in policies.items()
        if policy.scope is Scope.GLOBAL or (policy.scope is Scope.NAMESPACE and policy.namespace == namespace)
    }
    found.update((name, policies[name]) for name in names if name in policies)
    return tuple(found.values())


def evaluate(policies: Iterable[ZtunnelPolicy], connection: Connection) -> Verdict:
    """DENY first, then ALLOW; without any ALLOW the connection passes."""
    enforced = [policy for policy in policies if not policy.dry_run]
    for policy in enforced:
        if policy.action is Action.DENY and policy_matches(policy, connection):
            return Verdict(False, policy.key, f"explicitly denied by: {policy.key}")
    allows = [policy for policy in enforced if policy.action is Action.ALLOW]
    if not allows:
        return Verdict(True, None, "no allow policies")
    for policy in allows:
        if policy_matches(policy, connection):
            return Verdict(True, policy.key, f"allowed by: {policy.key}")
    return Verdict(False, None, "allow policies exist, but none allowed")


def policy_matches(policy: ZtunnelPolicy, connection: Connection) -> bool:
    """Whether any rule matches."""
    return any(_rule(rule, connection) for rule in policy.rules)


def _rule(rule: ZtunnelRule, connection: Connection) -> bool:
    return all(_clause(clause, connection) for clause in rule.clauses)


def _clause(clause: Clause, connection: Connection) -> bool:
    return not clause.matches or any(_match(match, connection) for match in clause.matches)


_EMPTY = Match()


def _match(m: Match, c: Connection) -> bool:
    if m == _EMPTY:
        return False
    namespace = None if c.identity is None else c.identity.namespace
    principal = None if c.identity is None else c.identity.principal
    source, destination = read_address(c.source_ip), read_address(c.destination_ip)
    return (
        (not m.namespaces or _any_string(m.namespaces, namespace))
        and not _any_string(m.not_namespaces, namespace)
        and (not m.principals or _any_string(m.principals, principal))
        and not _any_string(m.not_principals, principal)
        and (not m.source_ips or _any_address(m.source_ips, source))
        and not _any_address(m.not_source_ips, source)
        and (not m.destination_ips or _any_address(m.destination_ips, destination))
        and not _any_address(m.not_destination_ips, destination)
        and (not m.destination_ports or c.port in m.destination_ports)
        and c.port not in m.not_destination_ports
        and (not m.service_accounts or _any_account(m.service_accounts, c.identity))
        and not _any_account(m.not_service_accounts, c.identity)
    )


def _any_string(patterns: tuple[StringMatch, ...], text: str | None) -> bool:
    return text is not None and any(pattern.matches(text) for pattern in patterns)


def _any_address(prefixes: tuple[Address, ...], address: IPAddress | None) -> bool:
    return address is not None and any(_in_prefix(prefix, address) for prefix in prefixes)


def _in_prefix(prefix: Address, address: IPAddress) -> bool:
    packed = address.packed
    if len(packed) != len(prefix.address):
        return False
    shift = 8 * len(packed) - prefix.length
    return int.from_bytes(packed) >> shift == int.from_bytes(prefix.address) >> shift


def _any_account(accounts: tuple[ServiceAccountMatch, ...], identity: Identity | None) -> bool:
    return identity is not None and any(
        account.namespace == identity.namespace and account.service_account == identity.service_account
        for account in accounts
    )
