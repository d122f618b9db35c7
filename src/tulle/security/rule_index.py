"""Finding the few rules that a request could match among very many.

A rule matches only if each of its groups does, so any one group whose entries all name something concrete (an exact value,
a literal beginning or end, a network) is a necessary condition, its *anchor*. Rules are filed under the keys of their
rarest anchor. A request looks its own values up and tests in full only the rules that it finds, and those that have no
anchor. The index thus never decides: it only leaves out what cannot match.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
#: How many rules more behind a key weigh as little as one more look-up by every request.
_NEARLY = 2
_EXACT, _PREFIX, _SUFFIX, _NETWORK = "exact", "prefix", "suffix", "network"


class Key(NamedTuple):
    """Something concrete that a request must have for a rule to match."""

    attribute: Attribute
    argument: tuple[str, ...]
    form: str
    literal: str


@dataclass(frozen=True, slots=True, eq=False)
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
        probes: dict[tuple[Attribute, tuple[str, ...]], dict[Key, list[_Filed]]] = {}
        for (rule, _), keys in zip(filed, _chosen([anchors for _, anchors in filed]), strict=True):
            for key in keys:
                probes.setdefault((key.attribute, key.argument), {}).setdefault(key, []).append(rule)
        rest = [rule for rule, anchors in filed if not anchors]
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
        for read, argument, finders in self._probes:
            for value in read(facts, argument):
                for find in finders:
                    for rule in find(value) or ():
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
_Finder = Callable[[str], _Rules | None]


class _Probe(NamedTuple):
    """The rules filed under one attribute: what reads its values, and for each form of keys what finds the rules of a value."""

    read: Candidates
    argument: tuple[str, ...]
    finders: tuple[_Finder, ...]


def _probe(attribute: Attribute, argument: tuple[str, ...], rules: dict[Key, list[_Filed]]) -> _Probe:
    forms: dict[str, dict[str, _Rules]] = {}
    for key, filed in rules.items():
        forms.setdefault(key.form, {})[key.literal] = tuple(filed)
    finders = tuple(_FINDERS[form](by_literal) for form, by_literal in forms.items())
    if attribute is Attribute.HOST:
        finders = tuple(_folded(finder) for finder in finders)
    return _Probe(superset_of(attribute), argument, finders)


def _folded(find: _Finder) -> _Finder:
    return lambda text: find(ascii_lower(text))


def _suffixes(by_literal: dict[str, _Rules]) -> _Finder:
    find = _Prefixes({literal[::-1]: rules for literal, rules in by_literal.items()}).find
    return lambda text: find(text[::-1])


def _networks(by_literal: dict[str, _Rules]) -> _Finder:
    by_mask: dict[tuple[int, int], dict[int, _Rules]] = {}
    for literal, rules in by_literal.items():
        network = read_network(literal)
        shift = network.max_prefixlen - network.prefixlen
        by_mask.setdefault((network.version, shift), {})[int(network.network_address) >> shift] = rules
    masks = tuple((version, shift, by_bits) for (version, shift), by_bits in by_mask.items())

    def find(text: str) -> _Rules:
        if (address := address_bits(text)) is None:
            return ()
        found: _Rules = ()
        for version, shift, by_bits in masks:
            if version == address[0] and (rules := by_bits.get(address[1] >> shift)):
                found += rules
        return found

    return find


class _Prefixes:
    """The rules of every literal that a text begins with, found by one search however many lengths there are.

    Sorted, the last literal that is not after the text is the longest one that it begins with, or shares all of those with
    it: so it is enough to try that literal and those that it begins with itself.
    """

    __slots__ = ("_chains", "_literals")

    def __init__(self, by_literal: dict[str, _Rules]) -> None:
        self._literals = sorted(by_literal)
        #: For each literal, itself and those that it begins with, longest first, each with the rules of all from it on.
        self._chains: list[tuple[tuple[str, _Rules], ...]] = []
        open_chain: tuple[tuple[str, _Rules], ...] = ()
        for literal in self._literals:
            while open_chain and not literal.startswith(open_chain[0][0]):
                open_chain = open_chain[1:]
            shorter = open_chain[0][1] if open_chain else ()
            open_chain = ((literal, tuple(dict.fromkeys((*by_literal[literal], *shorter)))), *open_chain)
            self._chains.append(open_chain)

    def find(self, text: str) -> _Rules:
        place = bisect_right(self._literals, text)
        if place:
            for literal, rules in self._chains[place - 1]:
                if text.startswith(literal):
                    return rules
        return ()


_FINDERS: Mapping[str, Callable[[dict[str, _Rules]], _Finder]] = {
    _EXACT: lambda by_literal: by_literal.get,
    _PREFIX: lambda by_literal: _Prefixes(by_literal).find,
    _SUFFIX: _suffixes,
    _NETWORK: _networks,
}


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


def _chosen(rules: Sequence[Sequence[_Anchor]]) -> Iterable[tuple[Key, ...]]:
    """For each rule, given its anchors, the keys to file it under; none for a rule without anchors.

    The keys of one anchor, and of rare ones. But every request pays for each kind of key in use, and for a rule too many
    only those pay that have its key: so among anchors of nearly the same rarity it is the one most rules could be under.
    """
    frequency = Counter(
        key for anchors in rules for anchor in anchors for choices in anchor for keys in choices for key in keys
    )
    cost = _cost(frequency)
    near: list[list[tuple[Key, ...]]] = []
    for anchors in rules:
        options = [_rarest(anchor, frequency) for anchor in anchors]
        least = min(map(cost, options), default=0)
        near.append([keys for keys in options if cost(keys) <= least + _NEARLY])
    shared = Counter(kind for options in near for kind in {_kind(key) for keys in options for key in keys})
    for options in near:
        yield min(
            options, key=lambda keys: (-min((shared[_kind(key)] for key in keys), default=0), cost(keys)), default=()
        )


def _kind(key: Key) -> tuple[Attribute, tuple[str, ...], str]:
    """What is looked up together."""
    return key.attribute, key.argument, key.form


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
