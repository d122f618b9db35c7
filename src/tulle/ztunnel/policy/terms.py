"""Conditions on one connection: who the peer is, where it comes from, and which address and port it wants.

A condition is a tree of frozen terms.  It can be evaluated against a `Peer`, and specialised: what is already known (the
pod's own address; that a plaintext peer has no identity) is put in and the tree folds, so that Envoy is only asked what
depends on the connection.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache, partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Peer:
    """One connection as a policy sees it.  `identity`: SPIFFE URI, None for plaintext."""

    identity: str | None
    source: Address
    destination: Address
    port: int


@dataclass(frozen=True)
class Constant:
    """Always or never."""

    value: bool


@dataclass(frozen=True)
class IdentityMatches:
    """The peer has an identity and its whole SPIFFE URI matches the expression (common subset of RE2 and `re`)."""

    regex: str


@dataclass(frozen=True)
class SourceIn:
    """The TCP peer's address is in one of the networks."""

    networks: tuple[Network, ...]


@dataclass(frozen=True)
class DestinationIn:
    """The pod's address is in one of the networks."""

    networks: tuple[Network, ...]


@dataclass(frozen=True)
class PortIn:
    """The pod's port (after Service mapping) is one of these."""

    ports: tuple[int, ...]


@dataclass(frozen=True)
class AnyOf:
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class AllOf:
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Not:
    term: Term


Term: TypeAlias = Constant | IdentityMatches | SourceIn | DestinationIn | PortIn | AnyOf | AllOf | Not

ALWAYS = Constant(True)
NEVER = Constant(False)


@lru_cache(maxsize=4096)
def _compiled(regex: str) -> re.Pattern[str]:
    return re.compile(regex, re.DOTALL)


def _within(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def holds(term: Term, peer: Peer) -> bool:
    """Whether the condition holds for the peer."""
    match term:
        case Constant(value):
            return value
        case IdentityMatches(regex):
            return peer.identity is not None and _compiled(regex).fullmatch(peer.identity) is not None
        case SourceIn(networks):
            return _within(peer.source, networks)
        case DestinationIn(networks):
            return _within(peer.destination, networks)
        case PortIn(ports):
            return peer.port in ports
        case AnyOf(terms):
            return any(holds(inner, peer) for inner in terms)
        case AllOf(terms):
            return all(holds(inner, peer) for inner in terms)
        case Not(inner):
            return not holds(inner, peer)


def specialise(
    term: Term, *, destination: Address | None = None, port: int | None = None, plaintext: bool = False
) -> Term:
    """The same condition with what is known put in: the pod's address, its one port, that the peer has no identity.

    Every `Constant` that results is folded away, so the outcome is a constant or a tree without constants.
    """
    known = partial(specialise, destination=destination, port=port, plaintext=plaintext)
    match term:
        case IdentityMatches() if plaintext:
            return NEVER
        case DestinationIn(networks) if destination is not None:
            return Constant(_within(destination, networks))
        case PortIn(ports) if port is not None:
            return Constant(port in ports)
        case AnyOf(terms):
            return any_of([known(inner) for inner in terms])
        case AllOf(terms):
            return all_of([known(inner) for inner in terms])
        case Not(inner):
            return negate(known(inner))
        case _:
            return term


def any_of(terms: list[Term]) -> Term:
    """The disjunction, folded: no terms never hold."""
    if any(term == ALWAYS for term in terms):
        return ALWAYS
    rest = tuple(dict.fromkeys(term for term in terms if term != NEVER))
    if not rest:
        return NEVER
    return rest[0] if len(rest) == 1 else AnyOf(rest)


def all_of(terms: list[Term]) -> Term:
    """The conjunction, folded: no terms always hold."""
    if any(term == NEVER for term in terms):
        return NEVER
    rest = tuple(dict.fromkeys(term for term in terms if term != ALWAYS))
    if not rest:
        return ALWAYS
    return rest[0] if len(rest) == 1 else AllOf(rest)


def negate(term: Term) -> Term:
    """The negation, folded."""
    match term:
        case Constant(value):
            return Constant(not value)
        case Not(inner):
            return inner
        case _:
            return Not(term)
