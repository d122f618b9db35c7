"""What ztunnel is sent.

The types mirror istio.security.Authorization field for field (E3), so that writing them to the wire is a plain walk. The
conversion takes what ``reduction`` leaves of a policy and spells it in those types; it decides nothing by itself.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .match import StringMatch, read_network, read_port, read_service_account, read_string
from .model import Action, AuthorizationPolicy, Rule
from .reduction import Dropped, Place, reduce_policy
from .terms import Attribute, Entry, groups


class Scope(enum.Enum):
    """To which workloads ztunnel applies a policy by itself."""

    GLOBAL = 0
    NAMESPACE = 1
    WORKLOAD_SELECTOR = 2


@dataclass(frozen=True, slots=True)
class Address:
    """An address prefix: 4 or 16 bytes and its length in bits."""

    address: bytes
    length: int


@dataclass(frozen=True, slots=True)
class ServiceAccountMatch:
    """An exact service account in any trust domain."""

    namespace: str
    service_account: str


@dataclass(frozen=True, slots=True)
class Match:
    """One Match: every non-empty field must hold."""

    namespaces: tuple[StringMatch, ...] = ()
    not_namespaces: tuple[StringMatch, ...] = ()
    principals: tuple[StringMatch, ...] = ()
    not_principals: tuple[StringMatch, ...] = ()
    source_ips: tuple[Address, ...] = ()
    not_source_ips: tuple[Address, ...] = ()
    destination_ips: tuple[Address, ...] = ()
    not_destination_ips: tuple[Address, ...] = ()
    destination_ports: tuple[int, ...] = ()
    not_destination_ports: tuple[int, ...] = ()
    service_accounts: tuple[ServiceAccountMatch, ...] = ()
    not_service_accounts: tuple[ServiceAccountMatch, ...] = ()


@dataclass(frozen=True, slots=True)
class Clause:
    """A Clause: any of its matches, or always when it has none."""

    matches: tuple[Match, ...] = ()


@dataclass(frozen=True, slots=True)
class ZtunnelRule:
    """A Rule: every clause, so always when it has none."""

    clauses: tuple[Clause, ...] = ()


@dataclass(frozen=True, slots=True)
class ZtunnelPolicy:
    """One Authorization. ``action`` is ALLOW or DENY; a policy without rules matches nothing."""

    name: str
    namespace: str
    scope: Scope
    action: Action
    rules: tuple[ZtunnelRule, ...] = ()
    dry_run: bool = False

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Conversion:
    """What is sent for one AuthorizationPolicy (None: nothing), and what could not be."""

    policy: ZtunnelPolicy | None
    dropped: tuple[Dropped, ...] = ()


def scope_of(policy: AuthorizationPolicy, root_namespace: str) -> Scope:
    """C5: a selector, even an empty one, names workloads; else the namespace, or from the root namespace the mesh."""
    if policy.selector is not None:
        return Scope.WORKLOAD_SELECTOR
    return Scope.GLOBAL if policy.meta.namespace == root_namespace else Scope.NAMESPACE


def convert(policy: AuthorizationPolicy, root_namespace: str, place: Place = Place.ZTUNNEL) -> Conversion:
    """Convert a policy for ztunnel (C5). Nothing is sent for targetRefs, AUDIT, CUSTOM and dry runs.

    ``place`` is ZTUNNEL for upstream's meaning or ZTUNNEL_CLOSED for a DENY that must not lose its force.
    """
    if policy.target_refs or policy.dry_run:
        return Conversion(None)
    reduction = reduce_policy(policy, place)
    if reduction.policy is None:
        return Conversion(None)
    namespace = policy.meta.namespace
    rules = tuple(_rule(rule, namespace) for rule in reduction.policy.rules)
    scope = scope_of(policy, root_namespace)
    sent = ZtunnelPolicy(policy.meta.name, namespace, scope, policy.action, rules)
    return Conversion(sent, reduction.dropped)


def _rule(rule: Rule, namespace: str) -> ZtunnelRule:
    return ZtunnelRule(tuple(Clause(tuple(_match(e, namespace) for e in group.entries)) for group in groups(rule)))


def _match(entry: Entry, namespace: str) -> Match:
    fields: dict[str, tuple[object, ...]] = {}
    for term in entry.terms:
        name, wire = _WIRE[term.attribute]
        fields["not_" * term.negated + name] = tuple(wire(value, namespace) for value in term.values)
    return Match(**fields)  # type: ignore[arg-type]


def _string(value: str, _: str) -> StringMatch:
    return read_string(value)


def _address(value: str, _: str) -> Address:
    network = read_network(value)
    return Address(network.network_address.packed, network.prefixlen)


def _port(value: str, _: str) -> int:
    return read_port(value)


def _service_account(value: str, namespace: str) -> ServiceAccountMatch:
    return ServiceAccountMatch(*read_service_account(value, namespace))


_WIRE: Mapping[Attribute, tuple[str, Callable[[str, str], object]]] = {
    Attribute.PRINCIPAL: ("principals", _string),
    Attribute.NAMESPACE: ("namespaces", _string),
    Attribute.SERVICE_ACCOUNT: ("service_accounts", _service_account),
    Attribute.SOURCE_IP: ("source_ips", _address),
    Attribute.DESTINATION_IP: ("destination_ips", _address),
    Attribute.DESTINATION_PORT: ("destination_ports", _port),
}
