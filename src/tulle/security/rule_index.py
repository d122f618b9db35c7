"""Finding the few rules that a request could match among very many.

A rule matches only if each of its groups does, so any one group whose entries all name something concrete (an exact value,
a literal beginning or end, a network) is a necessary condition, its *anchor*. Rules are filed under the keys of their
rarest anchor. A request looks its own values up and tests in full only the rules that it finds, and those that have no
anchor. The index thus never decides: it only leaves out what cannot match.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .evaluation import Candidates, CompiledGroup, CompiledPolicy, Dialect, Facts, superset_of, value_pair
from .evaluation import expand_methods as expanded
from .match import (
    StringForm,
    address_bits,
    ascii_lower,
    read_network,
    read_service_account,
    read_string,
    split_request_principal,
)
from .model import Action
from .paths import is_template
from .terms import Attribute, Term
from .trust import expand_principals

_ADDRESSES = frozenset({Attribute.SOURCE_IP, Attribute.REMOTE_IP, Attribute.DESTINATION_IP})
#: Attributes whose patterns are the four string forms and nothing else.
_STRINGS = frozenset(
    {Attribute.SNI, Attribute.HEADER, Attribute.CLAIM, Attribute.AUDIENCE, Attribute.PRESENTER, Attribute.METHOD}
)
_EXACT, _PREFIX, _SUFFIX, _NETWORK = "exact", "prefix", "suffix", "network"


class Key(NamedTuple):
    """Something concrete that a request must have for a rule to match."""

    attribute: Attribute
    argument: tuple[str, ...]
    form: str
    literal: str


@dataclass(frozen=True, slots=True)
class _Filed:
    """A rule as it is found: its action's verdict and what must hold."""

    denies: bool
    groups: tuple[CompiledGroup, ...]


_Anchor = list[list[tuple[Key, ...]]]
"""One group: for each of its entries the keys of each of its terms. One key of some term of some entry is necessary."""


class RuleIndex:
    """The rules of some policies. Only CUSTOM, DENY and ALLOW count; the order of the policies does not matter."""

    __slots__ = ("_denies_all", "_has_allow", "_probes", "_rest")

    def __init__(self, policies: Sequence[CompiledPolicy], dialect: Dialect) -> None:
        filed: list[tuple[_Filed, list[_Anchor]]] = []
        self._has_allow = False
        self._denies_all = False
        for compiled in policies:
            policy = compiled.policy
            if policy.action is Action.AUDIT:
                continue
            denies = policy.action is not Action.ALLOW
            self._has_allow |= not denies
            for groups in compiled.rules:
                self._denies_all |= denies and not groups
                possible = (_anchor(group, policy.meta.namespace, dialect) for group in groups)
                filed.append((_Filed(denies, groups), [anchor for anchor in possible if anchor is not None]))
        frequency = Counter(
            key for _, anchors in filed for anchor in anchors for choices in anchor for keys in choices for key in keys
        )
        probes: dict[tuple[Attribute, tuple[str, ...]], dict[Key, list[_Filed]]] = {}
        rest: list[_Filed] = []
        for rule, anchors in filed:
            if not anchors:
                rest.append(rule)
                continue
            for key in min((_rarest(anchor, frequency) for anchor in anchors), key=_cost(frequency)):
                probes.setdefault((key.attribute, key.argument), {}).setdefault(key, []).append(rule)
        self._rest = tuple(sorted(rest, key=lambda rule: not rule.denies))
        self._probes = tuple(_probe(attribute, argument, rules) for (attribute, argument), rules in probes.items())

    def passes(self, facts: Facts) -> bool:
        """Whether no CUSTOM or DENY rule matches and, if there is any ALLOW policy, one of its rules does (C4)."""
        if self._denies_all:
            return False
        allowed = not self._has_allow
        for rule in self._rest:
            if (rule.denies or not allowed) and _holds(rule, facts):
                if rule.denies:
                    return False
                allowed = True
        for probe in self._probes:
            for rules in probe.find(facts):
                for rule in rules:
                    if (rule.denies or not allowed) and _holds(rule, facts):
                        if rule.denies:
                            return False
                        allowed = True
        return allowed


def _holds(rule: _Filed, facts: Facts) -> bool:
    for group in rule.groups:  # noqa: SIM110 (the hot path: a generator costs more than the loop)
        if not group.holds(facts):
            return False
    return True


_Rules = tuple[_Filed, ...]


class _Probe:
    """The rules filed under one attribute, by form."""

    __slots__ = ("_argument", "_exact", "_fold", "_networks", "_prefixes", "_read", "_suffixes")

    def __init__(
        self,
        read: Candidates,
        argument: tuple[str, ...],
        fold: bool,
        forms: dict[str, dict[str, _Rules]],
    ) -> None:
        self._read, self._argument, self._fold = read, argument, fold
        self._exact = forms[_EXACT]
        self._prefixes = _by_length(forms[_PREFIX])
        self._suffixes = _by_length(forms[_SUFFIX])
        self._networks = _by_mask(forms[_NETWORK])

    def find(self, facts: Facts) -> list[_Rules]:
        """The rules that the request's values lead to."""
        found: list[_Rules] = []
        for value in self._read(facts, self._argument):
            text = ascii_lower(value) if self._fold else value
            if rules := self._exact.get(text):
                found.append(rules)
            for length, by_text in self._prefixes:
                if rules := by_text.get(text[:length]):
                    found.append(rules)
            for length, by_text in self._suffixes:
                if rules := by_text.get(text[-length:]):
                    found.append(rules)
            if self._networks and (address := address_bits(text)) is not None:
                for version, shift, by_bits in self._networks:
                    if version == address[0] and (rules := by_bits.get(address[1] >> shift)):
                        found.append(rules)
        return found


def _probe(attribute: Attribute, argument: tuple[str, ...], rules: dict[Key, list[_Filed]]) -> _Probe:
    forms: dict[str, dict[str, _Rules]] = {_EXACT: {}, _PREFIX: {}, _SUFFIX: {}, _NETWORK: {}}
    for key, filed in rules.items():
        forms[key.form][key.literal] = tuple(filed)
    return _Probe(superset_of(attribute), argument, attribute is Attribute.HOST, forms)


def _by_length(found: dict[str, _Rules]) -> tuple[tuple[int, dict[str, _Rules]], ...]:
    lengths: dict[int, dict[str, _Rules]] = {}
    for literal, rules in found.items():
        lengths.setdefault(len(literal), {})[literal] = rules
    return tuple(sorted(lengths.items()))


def _by_mask(found: dict[str, _Rules]) -> tuple[tuple[int, int, dict[int, _Rules]], ...]:
    masks: dict[tuple[int, int], dict[int, _Rules]] = {}
    for literal, rules in found.items():
        network = read_network(literal)
        shift = network.max_prefixlen - network.prefixlen
        masks.setdefault((network.version, shift), {})[int(network.network_address) >> shift] = rules
    return tuple((version, shift, by_bits) for (version, shift), by_bits in masks.items())


# -- anchors ---------------------------------------------------------------------------------------------------------


def _anchor(group: CompiledGroup, namespace: str, dialect: Dialect) -> _Anchor | None:
    """For each entry that can hold at all, the keys of each of its terms that names something concrete; None when an
    entry has no such term."""
    found: _Anchor = []
    for entry in filter(None, group.entries):
        terms = (_keys(test.term, namespace, dialect) for test in entry if not test.term.negated)
        choices = [keys for keys in terms if keys is not None]
        if not choices:
            return None
        found.append(choices)
    return found


def _rarest(anchor: _Anchor, frequency: Counter[Key]) -> tuple[Key, ...]:
    """Keys of which a request must have one for the group to hold: of each entry those of its rarest term."""
    cost = _cost(frequency)
    return tuple(dict.fromkeys(key for choices in anchor for key in min(choices, key=cost)))


def _cost(frequency: Counter[Key]) -> Callable[[tuple[Key, ...]], int]:
    """How many rules some keys lead to together."""
    return lambda keys: sum(frequency[key] for key in keys)


def _keys(term: Term, namespace: str, dialect: Dialect) -> tuple[Key, ...] | None:
    found: list[Key] = []
    for form, literal in _literals(term, namespace, dialect):
        if not literal:
            return None
        found.append(Key(term.attribute, term.argument, form, literal))
    return tuple(found)


def _literals(term: Term, namespace: str, dialect: Dialect) -> Iterable[tuple[str, str]]:
    """For each value its form and what is literal in it; "" when nothing is."""
    match term.attribute:
        case Attribute.PRINCIPAL:
            values = expand_principals(term.values, dialect.trust_domains) if dialect.waypoint else term.values
            return (_string(value) for value in values)
        case Attribute.NAMESPACE if dialect.waypoint:
            return (_glob(value) for value in term.values)
        case Attribute.SERVICE_ACCOUNT:
            return ((_EXACT, "/".join(read_service_account(value, namespace))) for value in term.values)
        case attribute if attribute in _ADDRESSES:
            return ((_NETWORK, str(read_network(value))) for value in term.values)
        case Attribute.DESTINATION_PORT:
            return ((_EXACT, value) for value in term.values)
        case Attribute.HOST:
            return (_string(ascii_lower(value)) for value in term.values)
        case Attribute.PATH:
            return (
                (_PREFIX, value.split("{", 1)[0]) if is_template(value) else _string(value) for value in term.values
            )
        case Attribute.REQUEST_PRINCIPAL:
            return (_token(value) for value in term.values)
        case attribute if attribute in _STRINGS or attribute is Attribute.NAMESPACE:
            methods = attribute is Attribute.METHOD
            return (_string(v) for v in (expanded(term.values, dialect.head_is_get) if methods else term.values))
        case _:
            return [(_EXACT, "")]


def _string(pattern: str) -> tuple[str, str]:
    read = read_string(pattern)
    if read.form is StringForm.PRESENCE:
        return _EXACT, ""
    return read.form.value, read.value


def _glob(pattern: str) -> tuple[str, str]:
    head, star, rest = pattern.partition("*")
    if not star:
        return _EXACT, pattern
    return (_PREFIX, head) if head else (_SUFFIX, rest.rpartition("*")[2])


def _token(pattern: str) -> tuple[str, str]:
    """A token's principal is the pair of its issuer and subject; a pattern with an exact part is found by that part."""
    issuer, subject = (read_string(part) for part in split_request_principal(pattern))
    if issuer.form is StringForm.EXACT and issuer.value:
        both = subject.form is StringForm.EXACT
        return (_EXACT if both else _PREFIX), value_pair(issuer.value, subject.value if both else "")
    return _EXACT, ""
