"""Reads `istio.security.Authorization` (spec E3) into conditions.

The proto's own reading of empty lists: a policy without rules matches nothing, a rule without clauses matches
everything, a clause without matches holds, a match without fields never does (C5).  What cannot be read (an address of
the wrong length) makes the policy stricter: an ALLOW does not match, a DENY does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import ip_address, ip_network
from typing import Any

from tulle.ztunnel.policy.terms import (
    ALWAYS,
    NEVER,
    DestinationIn,
    IdentityMatches,
    Network,
    PortIn,
    SourceIn,
    Term,
    all_of,
    any_of,
    negate,
)

_ANY_SEGMENT = "[^/]+"


class Scope(Enum):
    """Which workloads a policy is about, beside those that name it."""

    GLOBAL = 0
    NAMESPACE = 1
    WORKLOAD_SELECTOR = 2


@dataclass(frozen=True)
class Policy:
    """One policy: `condition` says which connections it matches; `wire` is what istiod sent."""

    namespace: str
    name: str
    scope: Scope
    deny: bool
    dry_run: bool
    condition: Term
    wire: bytes = field(default=b"", compare=False, repr=False)

    @property
    def key(self) -> str:
        """`namespace/name`, as it appears in lists of attached policies and in reasons."""
        return f"{self.namespace}/{self.name}"


class UnreadableError(ValueError):
    """A field of a match that cannot be read; the message names it and its value."""


def policy_from(message: Any) -> Policy:
    """The policy that an Authorization message says.  Raises UnreadableError for an unknown scope or action."""
    where = f"Authorization/{message.namespace}/{message.name}"
    if message.action not in (0, 1):
        raise UnreadableError(f"{where}: action {message.action} is neither ALLOW (0) nor DENY (1)")
    if message.scope not in (0, 1, 2):
        raise UnreadableError(f"{where}: scope {message.scope} is none of GLOBAL, NAMESPACE, WORKLOAD_SELECTOR")
    deny = message.action == 1
    rules = [_rule(rule, broken=ALWAYS if deny else NEVER) for rule in message.rules]
    condition = any_of(rules)
    wire = message.SerializeToString()
    return Policy(message.namespace, message.name, Scope(message.scope), deny, message.dry_run, condition, wire)


def _rule(rule: Any, broken: Term) -> Term:
    return all_of([_clause(clause, broken) for clause in rule.clauses])


def _clause(clause: Any, broken: Term) -> Term:
    if not clause.matches:
        return ALWAYS
    return any_of([_match(match, broken) for match in clause.matches])


def _match(match: Any, broken: Term) -> Term:
    try:
        fields = [
            *_pair(match.namespaces, match.not_namespaces, lambda values: any_of([_namespace(v) for v in values])),
            *_pair(match.principals, match.not_principals, lambda values: any_of([_principal(v) for v in values])),
            *_pair(match.service_accounts, match.not_service_accounts, _service_accounts),
            *_pair(match.source_ips, match.not_source_ips, lambda values: SourceIn(_networks(values))),
            *_pair(match.destination_ips, match.not_destination_ips, lambda values: DestinationIn(_networks(values))),
            *_pair(match.destination_ports, match.not_destination_ports, lambda values: PortIn(tuple(values))),
        ]
    except UnreadableError:
        return broken
    return all_of(fields) if fields else NEVER


def _pair(values: Any, not_values: Any, term: Callable[[Any], Term]) -> list[Term]:
    found = []
    if values:
        found.append(term(values))
    if not_values:
        found.append(negate(term(not_values)))
    return found


def _networks(addresses: Iterable[Any]) -> tuple[Network, ...]:
    networks = []
    for address in addresses:
        try:
            networks.append(ip_network((ip_address(bytes(address.address)), address.length), strict=False))
        except ValueError as error:
            raise UnreadableError(f"address {bytes(address.address).hex()}/{address.length}: {error}") from error
    return tuple(networks)


def _segment(match: Any, any_text: str) -> str:
    """A StringMatch as an expression for one text, where `any_text` stands for any run of allowed characters."""
    kind = match.WhichOneof("match_type")
    if kind == "exact":
        return re.escape(str(match.exact))
    if kind == "prefix":
        return re.escape(str(match.prefix)) + any_text
    if kind == "suffix":
        return any_text + re.escape(str(match.suffix))
    if kind == "presence":
        return any_text.replace("*", "+")
    raise UnreadableError("a string match without a type")


def _principal(match: Any) -> Term:
    return IdentityMatches("spiffe://" + _segment(match, ".*"))


def _namespace(match: Any) -> Term:
    return IdentityMatches(f"spiffe://{_ANY_SEGMENT}/ns/{_segment(match, '[^/]*')}/sa/{_ANY_SEGMENT}")


def _service_accounts(accounts: Iterable[Any]) -> Term:
    return any_of(
        [
            IdentityMatches(
                f"spiffe://{_ANY_SEGMENT}/ns/{re.escape(account.namespace)}/sa/{re.escape(account.serviceAccount)}"
            )
            for account in accounts
        ]
    )
