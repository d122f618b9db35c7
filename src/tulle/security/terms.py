"""One uniform view of a rule.

A source's ``namespaces`` and a ``when`` on ``source.namespace`` ask the same question. Here every field and every key
becomes a ``Term``, a test of one attribute against a list of values, and a rule becomes an AND of groups, each an OR of
entries, each an AND of terms (C2). Conversion, evaluation and explanation all walk this one shape. An entry without terms
never matches, as an empty Match at ztunnel never does (C5).
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from functools import lru_cache

from .model import Condition, Operation, Rule, Source, Strings


class Attribute(enum.Enum):
    """What a term looks at. The value is how messages name it."""

    PRINCIPAL = "client principal"
    NAMESPACE = "client namespace"
    SERVICE_ACCOUNT = "client service account"
    TRUST_DOMAIN = "client trust domain"
    SOURCE_IP = "source IP"
    REMOTE_IP = "remote IP"
    REQUEST_PRINCIPAL = "request principal"
    AUDIENCE = "token audience"
    PRESENTER = "token presenter"
    CLAIM = "token claim"
    DESTINATION_IP = "destination IP"
    DESTINATION_PORT = "destination port"
    HOST = "host"
    METHOD = "method"
    PATH = "path"
    HEADER = "header"
    SNI = "SNI"
    FILTER_METADATA = "filter metadata"


@dataclass(frozen=True, slots=True)
class Field:
    """How one API field is tested. ``ztunnel`` and ``tcp``: whether ztunnel, or a TCP port at a waypoint, can test it."""

    json: str
    attr: str
    attribute: Attribute
    negated: bool
    ztunnel: bool
    tcp: bool


def _pair(
    json: str, attr: str, attribute: Attribute, *, ztunnel: bool = False, tcp: bool = False
) -> tuple[Field, Field]:
    negative = "not" + json[0].upper() + json[1:]
    return (
        Field(json, attr, attribute, False, ztunnel, tcp),
        Field(negative, "not_" + attr, attribute, True, ztunnel, tcp),
    )


# trustDomains could be tested at layer 4, but istio.security has no field for it: ztunnel cannot enforce it (C5).
SOURCE_FIELDS: tuple[Field, ...] = (
    *_pair("principals", "principals", Attribute.PRINCIPAL, ztunnel=True, tcp=True),
    *_pair("requestPrincipals", "request_principals", Attribute.REQUEST_PRINCIPAL),
    *_pair("namespaces", "namespaces", Attribute.NAMESPACE, ztunnel=True, tcp=True),
    *_pair("serviceAccounts", "service_accounts", Attribute.SERVICE_ACCOUNT, ztunnel=True, tcp=True),
    *_pair("ipBlocks", "ip_blocks", Attribute.SOURCE_IP, ztunnel=True, tcp=True),
    *_pair("remoteIpBlocks", "remote_ip_blocks", Attribute.REMOTE_IP, tcp=True),
    *_pair("trustDomains", "trust_domains", Attribute.TRUST_DOMAIN, tcp=True),
)
OPERATION_FIELDS: tuple[Field, ...] = (
    *_pair("hosts", "hosts", Attribute.HOST),
    *_pair("ports", "ports", Attribute.DESTINATION_PORT, ztunnel=True, tcp=True),
    *_pair("methods", "methods", Attribute.METHOD),
    *_pair("paths", "paths", Attribute.PATH),
)
# C3: the keys of ``when``. The booleans are (ztunnel, tcp).
PLAIN_KEYS: dict[str, tuple[Attribute, bool, bool]] = {
    "source.ip": (Attribute.SOURCE_IP, True, True),
    "source.namespace": (Attribute.NAMESPACE, True, True),
    "source.principal": (Attribute.PRINCIPAL, True, True),
    "source.serviceAccount": (Attribute.SERVICE_ACCOUNT, False, True),
    "source.trustDomain": (Attribute.TRUST_DOMAIN, False, True),
    "remote.ip": (Attribute.REMOTE_IP, False, True),
    "destination.ip": (Attribute.DESTINATION_IP, True, True),
    "destination.port": (Attribute.DESTINATION_PORT, True, True),
    "connection.sni": (Attribute.SNI, False, True),
    "request.auth.principal": (Attribute.REQUEST_PRINCIPAL, False, False),
    "request.auth.audiences": (Attribute.AUDIENCE, False, False),
    "request.auth.presenter": (Attribute.PRESENTER, False, False),
}
_HEADER = re.compile(r"request\.headers\[(:?[!#$%&'*+.^_`|~0-9A-Za-z-]+)\]")
"""No other name can be a header's (RFC 9110, 5.1), and Envoy would refuse it together with all other policies of the target."""
_CLAIMS = re.compile(r"request\.auth\.claims((?:\[[^\[\]]+\])+)")
_FILTER = re.compile(r"experimental\.(envoy\.filters\.[A-Za-z0-9_.-]+)((?:\[[^\[\]]+\])+)")
_BRACKETS = re.compile(r"\[([^\[\]]+)\]")


@dataclass(frozen=True, slots=True)
class Key:
    """A ``when`` key, read. ``argument`` is the header's name, the path of a claim, or a filter and its path."""

    attribute: Attribute
    argument: Strings
    ztunnel: bool
    tcp: bool


@dataclass(frozen=True, slots=True)
class Term:
    """A test of one attribute: one of ``values`` holds, or with ``negated`` none does. ``path`` is the field tested."""

    attribute: Attribute
    values: Strings
    negated: bool
    path: str
    field: str
    argument: Strings = ()
    ztunnel: bool = False
    tcp: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """One element of a list in the manifest: all its terms hold. Without terms it never matches."""

    path: str
    terms: tuple[Term, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """``from``, ``to`` or one ``when``: any of its entries matches."""

    kind: str
    entries: tuple[Entry, ...]


@lru_cache(maxsize=4096)
def read_key(key: str) -> Key | None:
    """Read a ``when`` key (C3). None when no such key exists."""
    if key in PLAIN_KEYS:
        attribute, ztunnel, tcp = PLAIN_KEYS[key]
        return Key(attribute, (), ztunnel, tcp)
    if header := _HEADER.fullmatch(key):
        return Key(Attribute.HEADER, (header[1].lower(),), False, False)
    if claims := _CLAIMS.fullmatch(key):
        return Key(Attribute.CLAIM, tuple(_BRACKETS.findall(claims[1])), False, False)
    if found := _FILTER.fullmatch(key):
        return Key(Attribute.FILTER_METADATA, (found[1], *_BRACKETS.findall(found[2])), False, False)
    return None


def groups(rule: Rule) -> tuple[Group, ...]:
    """The rule as an AND of groups. No group at all means that the rule always matches."""
    found: list[Group] = []
    if rule.sources:
        entries = (_fields(s, SOURCE_FIELDS, f"{rule.path}.from[{i}].source") for i, s in enumerate(rule.sources))
        found.append(Group("from", tuple(entries)))
    if rule.operations:
        operations = enumerate(rule.operations)
        entries = (_fields(o, OPERATION_FIELDS, f"{rule.path}.to[{i}].operation") for i, o in operations)
        found.append(Group("to", tuple(entries)))
    for place, condition in enumerate(rule.conditions):
        index = place if condition.position is None else condition.position
        found.append(Group("when", (_condition(condition, f"{rule.path}.when[{index}]"),)))
    return tuple(found)


def terms(rule: Rule) -> tuple[Term, ...]:
    """Every term of the rule, in the order of the manifest."""
    return tuple(term for group in groups(rule) for entry in group.entries for term in entry.terms)


def _fields(holder: Source | Operation, table: tuple[Field, ...], path: str) -> Entry:
    found = []
    for field in table:
        values: Strings = getattr(holder, field.attr)
        if values:
            found.append(
                Term(
                    field.attribute,
                    values,
                    field.negated,
                    f"{path}.{field.json}",
                    field.json,
                    ztunnel=field.ztunnel,
                    tcp=field.tcp,
                )
            )
    return Entry(path, tuple(found))


def _condition(condition: Condition, path: str) -> Entry:
    key = read_key(condition.key)
    if key is None:
        return Entry(path, ())
    found = []
    for values, negated, name in ((condition.values, False, "values"), (condition.not_values, True, "notValues")):
        if values:
            where = f"{path}.{name}"
            found.append(Term(key.attribute, values, negated, where, condition.key, key.argument, key.ztunnel, key.tcp))
    return Entry(path, tuple(found))
