"""Policies that change hands between a waypoint and ztunnel must not lose force on the way.

A waypoint reads two things more widely than ztunnel: a star in the middle of a namespace is a wildcard there and a plain
character at ztunnel, and only a waypoint expands trust domain aliases (C3). With ``liftSelectorPolicies`` one policy is
enforced now here, now there, so what ztunnel gets then is widened to cover the waypoint's reading wherever the narrower
one would let somebody in: in what a DENY matches, and in what an ALLOW excludes.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

from .match import read_string
from .model import Action, AuthorizationPolicy, Condition, Rule, Source, Strings
from .terms import Attribute, read_key
from .trust import expand_principals


@lru_cache(maxsize=16384)
def closed_for_ztunnel(policy: AuthorizationPolicy, trust_domains: Strings) -> AuthorizationPolicy:
    """The policy with its namespace patterns and principals restated so that ztunnel lets nobody in whom a waypoint
    would refuse by the same policy. ``trust_domains`` is the mesh's own first, then its aliases."""
    rules = tuple(_rule(rule, policy.action is Action.DENY, trust_domains) for rule in policy.rules)
    return policy if rules == policy.rules else replace(policy, rules=rules)


def widened_namespace(pattern: str) -> str:
    """A pattern of one star at one end that matches at ztunnel at least what ``pattern`` matches at a waypoint."""
    if "*" not in read_string(pattern).value:
        return pattern
    head, *_, tail = pattern.split("*")
    return f"{head}*" if head else f"*{tail}"


def _rule(rule: Rule, deny: bool, trust_domains: Strings) -> Rule:
    sources = tuple(_source(source, deny, trust_domains) for source in rule.sources)
    conditions = tuple(_condition(condition, deny, trust_domains) for condition in rule.conditions)
    return replace(rule, sources=sources, conditions=conditions)


def _source(source: Source, deny: bool, trust_domains: Strings) -> Source:
    if deny:
        return replace(
            source,
            namespaces=_namespaces(source.namespaces),
            principals=expand_principals(source.principals, trust_domains),
        )
    return replace(
        source,
        not_namespaces=_namespaces(source.not_namespaces),
        not_principals=expand_principals(source.not_principals, trust_domains),
    )


def _condition(condition: Condition, deny: bool, trust_domains: Strings) -> Condition:
    key = read_key(condition.key)
    values = condition.values if deny else condition.not_values
    if key is not None and key.attribute is Attribute.NAMESPACE:
        values = _namespaces(values)
    elif key is not None and key.attribute is Attribute.PRINCIPAL:
        values = expand_principals(values, trust_domains)
    return replace(condition, values=values) if deny else replace(condition, not_values=values)


def _namespaces(values: Strings) -> Strings:
    return tuple(dict.fromkeys(widened_namespace(value) for value in values))
