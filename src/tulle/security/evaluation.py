"""Evaluating one policy against one request, with reasons.

Patterns are compiled once per policy. An evaluation does not stop at yes or no: for a policy that does not match it finds
the rule that came nearest and the first field in it that failed, since that is what an author needs to see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .identity import Identity
from .match import (
    Predicate,
    element_predicate,
    exact_predicate,
    glob_predicate,
    header_elements,
    host_predicate,
    network_predicate,
    read_service_account,
    split_request_principal,
    string_predicate,
)
from .model import Action, AuthorizationPolicy, Meta
from .paths import path_predicate
from .terms import Attribute, Group, Term, groups
from .trust import expand_principals, expand_trust_domains

_PAIR = "\x00"

Candidates = Callable[["Facts", tuple[str, ...]], tuple[str, ...]]
"""Reads the strings that a term is tested against, given its argument."""


class Facts(NamedTuple):
    """What is known of one request at one hop. ``path`` is normalised, ``target`` is it as sent, with its query; ``claims`` is
    None without a valid token.

    A tuple, since one is made for each request and hop, and a frozen dataclass takes three times as long to make.
    """

    identity: Identity | None = None
    source_ip: str = ""
    remote_ip: str = ""
    destination_ip: str = ""
    destination_port: int = 0
    host: str = ""
    method: str = ""
    path: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    claims: Mapping[str, Any] | None = None
    sni: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a hop reads patterns. At ztunnel principals are literal; a waypoint expands trust domains, takes a star
    anywhere in a namespace, and with ``head_is_get`` takes HEAD for GET."""

    waypoint: bool = False
    trust_domains: tuple[str, ...] = ("cluster.local",)
    head_is_get: bool = False


ZTUNNEL_DIALECT = Dialect()


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The field that kept a rule from matching: where it is, what was found, and what it accepts or refuses."""

    path: str
    attribute: str
    found: tuple[str, ...]
    values: tuple[str, ...]
    negated: bool

    def __str__(self) -> str:
        found = ", ".join(self.found) if self.found else "(none)"
        verb = "must be none of" if self.negated else "must be one of"
        return f"{self.path}: the {self.attribute} is {found}, but {verb} {', '.join(self.values)}"


@dataclass(frozen=True, slots=True)
class PolicyTrace:
    """How one policy fared: the rule that matched, or the one that came nearest and the field that failed in it.

    ``nearness`` tells how near: the share of the rule's groups that hold, 0 when no rule is left that could match;
    ``failing`` how many fields of that rule fail, in each group those of its nearest entry.
    """

    meta: Meta
    action: str
    matched: bool
    rule: str = ""
    mismatch: Mismatch | None = None
    note: str = ""
    nearness: float = 0.0
    failing: int = 0

    def __str__(self) -> str:
        if self.matched:
            return f"{self.meta} ({self.action}) matches by {self.rule}"
        if self.mismatch is None:
            return f"{self.meta} ({self.action}) has no rule that can match"
        return f"{self.meta} ({self.action}) does not match: {self.mismatch}"


@dataclass(frozen=True, slots=True)
class CompiledTerm:
    """A term with its patterns compiled."""

    term: Term
    predicates: tuple[Predicate, ...]
    read: Candidates

    def holds(self, facts: Facts) -> bool:
        """Whether one of the values is matched, or with a negated term none."""
        for text in self.read(facts, self.term.argument):
            for predicate in self.predicates:
                if predicate(text):
                    return not self.term.negated
        return self.term.negated


@dataclass(frozen=True, slots=True)
class CompiledGroup:
    """A group with its terms compiled: any entry all of whose tests hold. An entry without tests never does."""

    entries: tuple[tuple[CompiledTerm, ...], ...]

    def holds(self, facts: Facts) -> bool:
        """Whether any entry holds."""
        for entry in self.entries:
            for test in entry:
                if not test.holds(facts):
                    break
            else:
                if entry:
                    return True
        return False

    def nearest_mismatch(self, facts: Facts) -> tuple[Mismatch | None, int]:
        """The first failing test of the entry in which the most tests hold, and how many fail there."""
        best: tuple[int, list[CompiledTerm]] | None = None
        for entry in self.entries:
            failing = [test for test in entry if not test.holds(facts)]
            score = len(entry) - len(failing)
            if failing and (best is None or score > best[0]):
                best = (score, failing)
        if best is None:
            return None, 0
        term = best[1][0].term
        found = tuple(text.replace(_PAIR, "/") for text in candidates(term, facts))
        return Mismatch(term.path, _named(term), found, term.values, term.negated), len(best[1])


class CompiledPolicy:
    """A policy with its patterns compiled for one dialect."""

    __slots__ = ("policy", "rules")

    def __init__(self, policy: AuthorizationPolicy, dialect: Dialect) -> None:
        self.policy = policy
        namespace = policy.meta.namespace
        self.rules = tuple(
            tuple(
                _compile_group(group, namespace, dialect, policy.action is not Action.ALLOW) for group in groups(rule)
            )
            for rule in policy.rules
        )

    def matches(self, facts: Facts) -> bool:
        """Whether any rule matches."""
        return any(all(group.holds(facts) for group in rule) for rule in self.rules)

    def trace(self, facts: Facts, note: str = "") -> PolicyTrace:
        """Evaluate with reasons."""
        meta, action = self.policy.meta, self.policy.action.value
        best: tuple[float, str, list[CompiledGroup]] | None = None
        for written, rule in zip(self.policy.rules, self.rules, strict=True):
            path = written.path
            failing = [group for group in rule if not group.holds(facts)]
            if not failing:
                return PolicyTrace(meta, action, True, path, None, note, 1.0)
            score = 1 - len(failing) / len(rule)
            if best is None or score > best[0]:
                best = (score, path, failing)
        if best is None:
            return PolicyTrace(meta, action, False, note=note)
        score, path, failing = best
        nearest = [group.nearest_mismatch(facts) for group in failing]
        return PolicyTrace(meta, action, False, path, nearest[0][0], note, score, sum(count for _, count in nearest))


def _compile_group(group: Group, namespace: str, dialect: Dialect, denies: bool) -> CompiledGroup:
    def compiled(term: Term) -> CompiledTerm:
        if by_element(term, denies):
            found = tuple(element_predicate(value) for value in term.values)
        else:
            found = predicates(term, namespace, dialect)
        return CompiledTerm(term, found, candidates_of(term.attribute))

    return CompiledGroup(tuple(tuple(compiled(term) for term in entry.terms) for entry in group.entries))


def by_element(term: Term, denies: bool) -> bool:
    """Whether a header's elements count one by one: where a match keeps a request out, so that a joined value hides none.

    Where a match lets a request in, the whole value must match."""
    return term.attribute is Attribute.HEADER and denies != term.negated


def predicates(term: Term, namespace: str, dialect: Dialect) -> tuple[Predicate, ...]:
    """The predicates of a term's values; any of them may hold. ``namespace`` is the policy's own."""
    values = term.values
    match term.attribute:
        case Attribute.PRINCIPAL:
            if dialect.waypoint:
                values = expand_principals(values, dialect.trust_domains)
            return tuple(string_predicate(value) for value in values)
        case Attribute.TRUST_DOMAIN:
            if dialect.waypoint:
                values = expand_trust_domains(values, dialect.trust_domains)
            return tuple(string_predicate(value) for value in values)
        case Attribute.NAMESPACE if dialect.waypoint:
            return tuple(glob_predicate(value) for value in values)
        case Attribute.SERVICE_ACCOUNT:
            return tuple(exact_predicate("/".join(read_service_account(value, namespace))) for value in values)
        case Attribute.SOURCE_IP | Attribute.REMOTE_IP | Attribute.DESTINATION_IP:
            return tuple(network_predicate(value) for value in values)
        case Attribute.HOST:
            return tuple(host_predicate(value) for value in values)
        case Attribute.PATH:
            return tuple(path_predicate(value) for value in values)
        case Attribute.METHOD:
            return tuple(string_predicate(value) for value in expand_methods(values, dialect.head_is_get))
        case Attribute.REQUEST_PRINCIPAL:
            return tuple(_request_principal(value) for value in values)
        case _:
            return tuple(string_predicate(value) for value in values)


def expand_methods(values: tuple[str, ...], head_is_get: bool) -> tuple[str, ...]:
    """With ``headIsGet`` a list that names GET also matches HEAD."""
    return (*values, "HEAD") if head_is_get and "GET" in values and "HEAD" not in values else values


def _request_principal(value: str) -> Predicate:
    """A token without an issuer has no principal, so a pattern without one matches nothing."""
    parts = split_request_principal(value)
    issuer, subject = (string_predicate(part) for part in parts)
    if not parts[0]:
        return lambda _: False

    def matches(pair: str) -> bool:
        left, _, right = pair.partition(_PAIR)
        return issuer(left) and subject(right)

    return matches


def candidates_of(attribute: Attribute) -> Candidates:
    """What reads an attribute from the facts."""
    return _CANDIDATES[attribute]


def superset_of(attribute: Attribute) -> Candidates:
    """What reads at least every string that some term on the attribute is tested against."""
    return _elements if attribute is Attribute.HEADER else candidates_of(attribute)


def value_pair(issuer: str, subject: str) -> str:
    """The principal of a token as one string that no slash in either part can confuse."""
    return issuer + _PAIR + subject


def candidates(term: Term, facts: Facts) -> tuple[str, ...]:
    """The strings that a term is tested against; none when the request lacks the attribute."""
    return _CANDIDATES[term.attribute](facts, term.argument)


def _service_account(facts: Facts, _: tuple[str, ...]) -> tuple[str, ...]:
    identity = facts.identity
    return (f"{identity.namespace}/{identity.service_account}",) if identity else ()


def _remote_ip(facts: Facts, _: tuple[str, ...]) -> tuple[str, ...]:
    address = facts.remote_ip or facts.source_ip
    return (address,) if address else ()


def _target(facts: Facts) -> str:
    """The path with the query, which a policy on paths does not see but one on the header does."""
    return facts.path + "".join(facts.target.partition("?")[1:])


_OWN_HEADERS: Mapping[str, Callable[[Facts], str]] = {
    ":authority": lambda facts: facts.host,
    "host": lambda facts: facts.host,
    ":method": lambda facts: facts.method,
    ":path": _target,
    # What is inside the tunnel to a waypoint is plaintext.
    ":scheme": lambda facts: "http" if facts.method else "",
}
"""What Envoy has as headers of every request; it knows Host only as the authority."""


def _headers(facts: Facts, argument: tuple[str, ...]) -> tuple[str, ...]:
    """Every value of a header on its own, never joined (CVE-2026-26308)."""
    own = _OWN_HEADERS.get(argument[0])
    if own is not None:
        value = own(facts)
        return (value,) if value else ()
    return tuple(value for name, value in facts.headers if name.lower() == argument[0])


def _elements(facts: Facts, argument: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(element for value in _headers(facts, argument) for element in header_elements(value))


def _claim(facts: Facts, path: tuple[str, ...]) -> tuple[str, ...]:
    found: Any = facts.claims
    for step in path:
        if not isinstance(found, Mapping):
            return ()
        found = found.get(step)
    if isinstance(found, str):
        return (found,)
    if isinstance(found, list | tuple):
        return tuple(item for item in found if isinstance(item, str))
    return ()


def _token_principal(facts: Facts, _: tuple[str, ...]) -> tuple[str, ...]:
    issuer, subject = _claim(facts, ("iss",)), _claim(facts, ("sub",))
    # What separates the two parts must not come from the issuer.
    return (value_pair(issuer[0].replace(_PAIR, "\ufffd"), subject[0]),) if issuer and subject else ()


_CANDIDATES: Mapping[Attribute, Candidates] = {
    Attribute.PRINCIPAL: lambda facts, _: (facts.identity.principal,) if facts.identity else (),
    Attribute.NAMESPACE: lambda facts, _: (facts.identity.namespace,) if facts.identity else (),
    Attribute.SERVICE_ACCOUNT: _service_account,
    Attribute.TRUST_DOMAIN: lambda facts, _: (facts.identity.trust_domain,) if facts.identity else (),
    Attribute.SOURCE_IP: lambda facts, _: (facts.source_ip,) if facts.source_ip else (),
    Attribute.REMOTE_IP: _remote_ip,
    Attribute.DESTINATION_IP: lambda facts, _: (facts.destination_ip,) if facts.destination_ip else (),
    Attribute.DESTINATION_PORT: lambda facts, _: (str(facts.destination_port),),
    Attribute.HOST: lambda facts, _: (facts.host,) if facts.host else (),
    Attribute.METHOD: lambda facts, _: (facts.method,) if facts.method else (),
    Attribute.PATH: lambda facts, _: (facts.path,) if facts.path else (),
    Attribute.SNI: lambda facts, _: (facts.sni,) if facts.sni else (),
    Attribute.HEADER: _headers,
    Attribute.CLAIM: _claim,
    Attribute.AUDIENCE: lambda facts, _: _claim(facts, ("aud",)),
    Attribute.PRESENTER: lambda facts, _: _claim(facts, ("azp",)),
    Attribute.REQUEST_PRINCIPAL: _token_principal,
    Attribute.FILTER_METADATA: lambda _, __: (),
}


def _named(term: Term) -> str:
    return term.attribute.value + "".join(f" {part}" for part in term.argument)
