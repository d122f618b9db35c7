"""What is left of a policy where HTTP cannot be seen.

ztunnel sees connections, not requests, and a TCP port of a waypoint neither. This module erases the fields that such a
place cannot test, in the way that keeps an ALLOW from becoming wider, and records each thing that it dropped and why, so
that status conditions and explanations can name it (C5).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

from .model import Action, AuthorizationPolicy, Condition, Operation, Rule, Source
from .terms import OPERATION_FIELDS, SOURCE_FIELDS, Field, Key, Term, groups, read_key, terms


class Place(enum.Enum):
    """Where a reduced policy is to be enforced.

    ZTUNNEL: upstream's meaning, in which an entry of HTTP fields only never matches. ZTUNNEL_CLOSED: the same place, but a
    DENY keeps its force: such an entry matches anything. TCP: an Envoy TCP chain, which does that by nature.
    """

    ZTUNNEL = "ztunnel"
    ZTUNNEL_CLOSED = "ztunnel, closed"
    TCP = "a TCP port of a waypoint"


class Effect(enum.Enum):
    """What dropping something does to the policy."""

    RULE_OMITTED = "the rule is omitted, so the policy allows less"
    WIDENED = "the rest of the entry is enforced, so the policy denies more"
    NO_EFFECT = "nothing testable is left in the entry, so the rule never matches"
    MATCHES_ANY = "the entry matches anything, so the policy denies more"


@dataclass(frozen=True, slots=True)
class Dropped:
    """A field that could not be kept: where it stands, its name, and the effect."""

    path: str
    field: str
    effect: Effect


@dataclass(frozen=True, slots=True)
class Reduction:
    """The policy that can be enforced there, and what was dropped. ``policy`` is None when the action is unsupported."""

    policy: AuthorizationPolicy | None
    dropped: tuple[Dropped, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of the fields that were dropped, once each, in the order of the manifest."""
        return tuple(dict.fromkeys(item.field for item in self.dropped))


def uses_http(policy: AuthorizationPolicy) -> bool:
    """Whether some rule tests something that ztunnel cannot test."""
    return any(not term.ztunnel for rule in policy.rules for term in terms(rule))


def never_matches(policy: AuthorizationPolicy) -> bool:
    """Whether no rule of what ztunnel gets of the policy can match. One rule that is lost does not make the others so."""
    reduced = reduce_policy(policy, Place.ZTUNNEL).policy
    rules = () if reduced is None else reduced.rules
    return not any(all(any(entry.terms for entry in group.entries) for group in groups(rule)) for rule in rules)


@lru_cache(maxsize=8192)
def reduce_policy(policy: AuthorizationPolicy, place: Place) -> Reduction:
    """Reduce a policy to what ``place`` can enforce. AUDIT is dropped; CUSTOM too, but at TCP its rules are kept."""
    if policy.action is Action.ALLOW:
        return _reduce_allow(policy, place)
    if policy.action is Action.DENY or (policy.action is Action.CUSTOM and place is Place.TCP):
        return _reduce_deny(policy, place)
    return Reduction(None)


def _testable(place: Place) -> Callable[[Term | Field | Key], bool]:
    if place is Place.TCP:
        return lambda item: item.tcp
    return lambda item: item.ztunnel


def _reduce_allow(policy: AuthorizationPolicy, place: Place) -> Reduction:
    testable = _testable(place)
    kept, dropped = [], []
    for rule in policy.rules:
        lost = [term for term in terms(rule) if not testable(term)]
        if not lost:
            kept.append(rule)
        dropped += [Dropped(term.path, term.field, Effect.RULE_OMITTED) for term in lost]
    return Reduction(replace(policy, rules=tuple(kept)), tuple(dropped))


def _reduce_deny(policy: AuthorizationPolicy, place: Place) -> Reduction:
    testable = _testable(place)
    open_entries = place is not Place.ZTUNNEL
    rules, dropped = [], []
    for rule in policy.rules:
        dropped += _dropped_by_deny(rule, testable, open_entries)
        rules.append(_erase(rule, testable, open_entries))
    return Reduction(replace(policy, rules=tuple(rules)), tuple(dropped))


def _dropped_by_deny(rule: Rule, testable: Callable[[Term | Field | Key], bool], open_entries: bool) -> list[Dropped]:
    found = []
    for group in groups(rule):
        for entry in group.entries:
            empty = not any(testable(term) for term in entry.terms)
            effect = (Effect.MATCHES_ANY if open_entries else Effect.NO_EFFECT) if empty else Effect.WIDENED
            found += [Dropped(term.path, term.field, effect) for term in entry.terms if not testable(term)]
    return found


def _erase(rule: Rule, testable: Callable[[Term | Field | Key], bool], open_entries: bool) -> Rule:
    sources = tuple(Source(**_kept(source, SOURCE_FIELDS, testable)) for source in rule.sources)
    operations = tuple(Operation(**_kept(operation, OPERATION_FIELDS, testable)) for operation in rule.operations)
    conditions = []
    for index, condition in enumerate(rule.conditions):
        position = index if condition.position is None else condition.position
        key = read_key(condition.key)
        if key is not None and testable(key):
            conditions.append(replace(condition, position=position))
        elif not open_entries:
            conditions.append(Condition("", position=position))
    if open_entries:
        # An entry without fields matches anything here, and an alternative that matches anything frees the whole list.
        sources = () if Source() in sources else sources
        operations = () if Operation() in operations else operations
    return replace(rule, sources=sources, operations=operations, conditions=tuple(conditions))


def _kept(
    holder: Source | Operation, table: tuple[Field, ...], testable: Callable[[Term | Field | Key], bool]
) -> dict[str, tuple[str, ...]]:
    return {field.attr: getattr(holder, field.attr) for field in table if testable(field)}
