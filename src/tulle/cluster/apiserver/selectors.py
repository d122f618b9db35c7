"""Label and field selectors: text to predicate.

The grammar is the API's: `k=v`, `k==v`, `k!=v`, `k in (a,b)`, `k notin (a,b)`, `k`, `!k`, and for numbers `k>1`, `k<5`.
Absent labels satisfy `!=`, `notin` and `!k`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tulle.cluster.apiserver.errors import bad_request

_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_LABEL_KEY = re.compile(rf"(?:[a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?{_NAME}\Z")
_LABEL_VALUE = re.compile(rf"(?:{_NAME})?\Z")
_REQUIREMENT = re.compile(
    r"\s*(?:"
    r"!\s*(?P<absent>[^\s,=!()<>]+)"
    r"|(?P<key>[^\s,=!()<>]+)\s+(?P<set>in|notin)\s*\((?P<values>[^()]*)\)"
    r"|(?P<key2>[^\s,=!()<>]+)\s*(?P<op>==|=|!=|>|<)\s*(?P<value>[^\s,=!()<>]*)"
    r"|(?P<present>[^\s,=!()<>]+)"
    r")\s*(?:,|\Z)"
)
_FIELD = re.compile(r"([^=!]+)(!=|==|=)(.*)")


@dataclass(frozen=True, slots=True)
class Requirement:
    """One condition on one key; `operator` is in, notin, exists, absent, > or <."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels satisfy it."""
        value = labels.get(self.key)
        match self.operator:
            case "in":
                return value is not None and value in self.values
            case "notin":
                return value is None or value not in self.values
            case "exists":
                return value is not None
            case "absent":
                return value is None
        if value is None or not re.fullmatch(r"-?\d+", value):
            return False
        return int(value) > int(self.values[0]) if self.operator == ">" else int(value) < int(self.values[0])


@dataclass(frozen=True, slots=True)
class Selector:
    """All of its requirements must hold; an empty one matches everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether the labels satisfy every requirement."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def __bool__(self) -> bool:
        return bool(self.requirements)


EVERYTHING = Selector()


def valid_label_key(key: str) -> bool:
    """A qualified name: optional DNS prefix, then up to 63 characters."""
    prefix, slash, name = key.rpartition("/")
    return bool(_LABEL_KEY.match(key)) and len(name) <= 63 and len(prefix) <= 253 and (bool(prefix) or not slash)


def valid_label_value(value: str) -> bool:
    """Empty or up to 63 characters, alphanumeric at both ends."""
    return len(value) <= 63 and bool(_LABEL_VALUE.match(value))


def parse_label_selector(text: str) -> Selector:
    """The selector a `labelSelector` parameter means. Raises StatusError 400."""
    requirements: list[Requirement] = []
    position = 0
    while position < len(text):
        found = _REQUIREMENT.match(text, position)
        if found is None or found.end() == position:
            raise bad_request(
                f'unable to parse requirement: found "{text[position:]}", want key, key=value, key in (...)'
            )
        position = found.end()
        requirement = _requirement(found)
        if not valid_label_key(requirement.key):
            raise bad_request(
                f'unable to parse requirement: <nil>: Invalid value: "{requirement.key}": invalid label key'
            )
        for value in requirement.values:
            if not valid_label_value(value):
                raise bad_request(
                    f"unable to parse requirement: values[0][{requirement.key}]: "
                    f'Invalid value: "{value}": a valid label must be an empty string or consist of alphanumeric '
                    "characters, '-', '_' or '.', and must start and end with an alphanumeric character"
                )
        requirements.append(requirement)
    return Selector(tuple(requirements))


def _requirement(found: re.Match[str]) -> Requirement:
    if found["absent"]:
        return Requirement(found["absent"], "absent")
    if found["present"]:
        return Requirement(found["present"], "exists")
    if found["set"]:
        return Requirement(found["key"], found["set"], tuple(v.strip() for v in found["values"].split(",")))
    operator = {"=": "in", "==": "in", "!=": "notin"}.get(found["op"], found["op"])
    if operator in "<>" and not re.fullmatch(r"-?\d+", found["value"]):
        raise bad_request(f"for '{operator}' operators, the value must be an integer: {found['value']!r}")
    return Requirement(found["key2"], operator, (found["value"],))


def parse_field_selector(text: str, supported: Sequence[str]) -> Selector:
    """The selector a `fieldSelector` parameter means; `supported` are the fields of the resource. Raises StatusError 400."""
    requirements: list[Requirement] = []
    for part in (p for p in text.split(",") if p):
        found = _FIELD.fullmatch(part)
        if found is None:
            raise bad_request(f"invalid selector: '{text}'; can't understand '{part}'")
        field, operator, value = found.groups()
        if field not in supported:
            raise bad_request(f"field label not supported: {field}")
        requirements.append(Requirement(field, "notin" if operator == "!=" else "in", (value,)))
    return Selector(tuple(requirements))


def exact_value(text: str, field: str) -> str:
    """The one value of `field` that a `fieldSelector` parameter can match, or "" if it does not say one."""
    found = (_FIELD.fullmatch(part) for part in text.split(","))
    return next((match[3] for match in found if match and match[1] == field and match[2] != "!="), "")


def from_label_selector_object(selector: Mapping[str, Any] | None) -> Selector:
    """The predicate of a LabelSelector object (matchLabels, matchExpressions); None matches nothing."""
    if selector is None:
        return Selector((Requirement("", "exists"),))
    requirements = [Requirement(k, "in", (str(v),)) for k, v in (selector.get("matchLabels") or {}).items()]
    operators = {"In": "in", "NotIn": "notin", "Exists": "exists", "DoesNotExist": "absent"}
    for expression in selector.get("matchExpressions") or ():
        operator = operators[expression["operator"]]
        requirements.append(Requirement(expression["key"], operator, tuple(expression.get("values") or ())))
    return Selector(tuple(requirements))
