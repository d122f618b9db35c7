"""RBAC, the pure part: does one rule cover one request, and do some rules cover another rule.

Semantics are those of rbac.authorization.k8s.io/v1: rules only ever allow; `*` stands for every verb, group or resource;
`resource/subresource` and `*/subresource` name subresources; `resourceNames` never covers a request without a name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Attributes:
    """What is to be authorised. For a path that is no resource, `resource` is empty and `path` is set."""

    verb: str
    group: str = ""
    version: str = ""
    resource: str = ""
    subresource: str = ""
    name: str = ""
    namespace: str = ""
    path: str = ""

    @property
    def full_resource(self) -> str:
        """`pods/log`, or `pods`."""
        return f"{self.resource}/{self.subresource}" if self.subresource else self.resource


@dataclass(frozen=True, slots=True)
class Rule:
    """One PolicyRule."""

    verbs: frozenset[str]
    groups: frozenset[str] = frozenset()
    resources: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    paths: tuple[str, ...] = ()

    @classmethod
    def parse(cls, rule: Mapping[str, Any]) -> Rule:
        """From a PolicyRule object."""
        return cls(
            frozenset(rule.get("verbs") or ()),
            frozenset(rule.get("apiGroups") or ()),
            frozenset(rule.get("resources") or ()),
            frozenset(rule.get("resourceNames") or ()),
            tuple(rule.get("nonResourceURLs") or ()),
        )

    def covers(self, attributes: Attributes) -> bool:
        """Whether the rule allows the request."""
        if "*" not in self.verbs and attributes.verb not in self.verbs:
            return False
        if not attributes.resource:
            return any(_path_matches(pattern, attributes.path) for pattern in self.paths)
        return (
            ("*" in self.groups or attributes.group in self.groups)
            and self._covers_resource(attributes)
            and (not self.names or attributes.name in self.names)
        )

    def _covers_resource(self, attributes: Attributes) -> bool:
        if "*" in self.resources or attributes.full_resource in self.resources:
            return True
        return bool(attributes.subresource) and f"*/{attributes.subresource}" in self.resources


def _path_matches(pattern: str, path: str) -> bool:
    if pattern in ("*", path):
        return True
    return pattern.endswith("*") and path.startswith(pattern[:-1])


def _breakdown(rule: Mapping[str, Any]) -> Iterable[Attributes]:
    """Every single permission of a PolicyRule object, with `*` kept as a literal."""
    for verb in rule.get("verbs") or ():
        for path in rule.get("nonResourceURLs") or ():
            yield Attributes(verb, path=path)
        for group in rule.get("apiGroups") or ():
            for resource in rule.get("resources") or ():
                base, _, sub = resource.partition("/")
                for name in rule.get("resourceNames") or ("",):
                    yield Attributes(verb, group=group, resource=base, subresource=sub, name=name)


def uncovered(held: Iterable[Rule], wanted: Iterable[Mapping[str, Any]]) -> list[Attributes]:
    """Permissions in `wanted` that nobody holding `held` has (the escalation check of roles and bindings)."""
    rules = tuple(held)
    return [a for rule in wanted for a in _breakdown(rule) if not any(r.covers(a) for r in rules)]
