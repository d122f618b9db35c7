"""What is refused at the door.

A policy that cannot mean what it says must not be stored, since each layer would guess differently. The rules are those of
Istio's own validation (C1, B1), plus one: ``trustDomains`` without targetRefs is refused, because ztunnel cannot enforce it
and upstream ignores it in silence, which makes an ALLOW wider than written (C5).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .admission_authentication import check_peer_authentication, check_request_authentication
from .fields import Checker, FieldError
from .match import read_network, read_port
from .paths import template_problem
from .terms import OPERATION_FIELDS, SOURCE_FIELDS, Attribute, Field, Key, read_key

MAX_RULES = 512
MAX_FROM = 512
MAX_SERVICE_ACCOUNTS = 16
MAX_SERVICE_ACCOUNT_LENGTH = 320
ACTIONS = ("ALLOW", "DENY", "AUDIT", "CUSTOM")

_POLICY_FIELDS = ("selector", "targetRef", "targetRefs", "rules", "action", "provider")
_IDENTITY = frozenset(
    {
        Attribute.PRINCIPAL,
        Attribute.NAMESPACE,
        Attribute.SERVICE_ACCOUNT,
        Attribute.TRUST_DOMAIN,
        Attribute.REQUEST_PRINCIPAL,
        Attribute.AUDIENCE,
        Attribute.PRESENTER,
        Attribute.CLAIM,
    }
)
_KEYS_HELP = (
    "accepted are source.ip, source.namespace, source.principal, source.serviceAccount, source.trustDomain, remote.ip, "
    "destination.ip, destination.port, connection.sni, request.headers[NAME], request.auth.principal, "
    "request.auth.audiences, request.auth.presenter, request.auth.claims[NAME] and "
    "experimental.envoy.filters.NAME[KEY]"
)


@dataclass(frozen=True, slots=True)
class Admission:
    """The verdict on one object: it may be stored when there is no error."""

    errors: tuple[FieldError, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def allowed(self) -> bool:
        """Whether the object may be stored."""
        return not self.errors


def validate(manifest: Mapping[str, Any], root_namespace: str = "istio-system") -> Admission:
    """Check a manifest of kind AuthorizationPolicy, PeerAuthentication or RequestAuthentication (C1, B1)."""
    checker = Checker()
    kinds: dict[str, Callable[[Checker], None]] = {
        "AuthorizationPolicy": lambda c: _check_policy(c, manifest),
        "PeerAuthentication": lambda c: check_peer_authentication(c, manifest, root_namespace),
        "RequestAuthentication": lambda c: check_request_authentication(c, manifest),
    }
    kind = manifest.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        checker.refuse("kind", kind, "accepted are " + ", ".join(kinds))
    else:
        kinds[kind](checker)
    return Admission(tuple(checker.errors), tuple(checker.warnings))


def _check_policy(c: Checker, manifest: Mapping[str, Any]) -> None:
    spec = c.mapping(manifest.get("spec"), "spec", _POLICY_FIELDS)
    c.attachment(spec)
    action = spec.get("action") or "ALLOW"
    if action not in ACTIONS:
        c.refuse("spec.action", action, "accepted are " + ", ".join(ACTIONS))
        action = "ALLOW"
    _check_provider(c, spec, action)
    rules = c.sequence(spec.get("rules"), "spec.rules")
    if not rules and action in ("DENY", "CUSTOM"):
        c.refuse(
            "spec.rules", None, f"action {action} needs at least one rule; use `rules: [{{}}]` to match everything"
        )
    if len(rules) > MAX_RULES:
        c.refuse("spec.rules", len(rules), f"at most {MAX_RULES} rules are accepted")
    attached = bool(spec.get("targetRef") or spec.get("targetRefs"))
    for index, rule in enumerate(rules):
        _Rule(c, f"spec.rules[{index}]", action, attached).check(rule)


def _check_provider(c: Checker, spec: Mapping[str, Any], action: str) -> None:
    provider = spec.get("provider")
    if action == "CUSTOM":
        if not c.text(c.mapping(provider, "spec.provider", ("name",)), "name", "spec.provider"):
            c.refuse("spec.provider.name", None, "action CUSTOM needs the name of an extension provider")
    elif provider is not None:
        c.refuse("spec.provider", provider, f"may only be set with action CUSTOM, found action {action}")


@dataclass
class _Rule:
    """The check of one rule."""

    c: Checker
    path: str
    action: str
    attached: bool

    def check(self, rule: object) -> None:
        if not isinstance(rule, Mapping):
            self.c.refuse(
                self.path, rule if rule is not None else "null", "a rule must be an object; `{}` matches everything"
            )
            return
        self.c.mapping(rule, self.path, ("from", "to", "when"))
        before = len(self.c.errors)
        fields = self._entries(rule, "from", "source", SOURCE_FIELDS)
        fields += self._entries(rule, "to", "operation", OPERATION_FIELDS)
        fields += self._conditions(rule)
        if self.action == "DENY" and fields and len(self.c.errors) == before and not any(tcp for tcp in fields):
            self.c.warnings.append(
                f"{self.path}: this DENY rule tests only HTTP attributes; on a TCP port of a waypoint it denies all traffic, "
                "and ztunnel cannot enforce it. Add a port under to.operation.ports to keep it to an HTTP port"
            )

    def _entries(self, rule: Mapping[str, Any], name: str, inner: str, table: tuple[Field, ...]) -> list[bool]:
        if name not in rule:
            return []
        path, entries = f"{self.path}.{name}", rule[name]
        if entries is None or (isinstance(entries, list | tuple) and not entries):
            self.c.refuse(
                path, entries if entries is not None else "null", f"must not be empty; leave {name} out to match any"
            )
            return []
        found: list[bool] = []
        listed = self.c.sequence(entries, path)
        if name == "from" and len(listed) > MAX_FROM:
            self.c.refuse(path, len(listed), f"at most {MAX_FROM} entries are accepted")
        for index, entry in enumerate(listed):
            where = f"{path}[{index}]"
            holder = self.c.mapping(entry, where, (inner,)).get(inner)
            if not holder:
                self.c.refuse(
                    f"{where}.{inner}", None, f"a {inner} must set at least one field; leave {name} out to match any"
                )
                continue
            found += self._fields(holder, f"{where}.{inner}", table)
        return found

    def _fields(self, holder: object, path: str, table: tuple[Field, ...]) -> list[bool]:
        values = self.c.mapping(holder, path, [field.json for field in table])
        found = []
        for field in table:
            where = f"{path}.{field.json}"
            strings = self.c.strings(values.get(field.json), where)
            if not strings:
                continue
            found.append(field.tcp)
            self._values(field.attribute, strings)
            self._surprises(field.attribute, strings)
            self._allowed_here(field.attribute, where, [text for _, text in strings])
            if field.attribute is Attribute.TRUST_DOMAIN and not self.attached:
                self.c.refuse(
                    where,
                    [text for _, text in strings],
                    "ztunnel cannot enforce trust domains, so a policy with them needs targetRefs; to select by trust domain "
                    'at ztunnel use principals, as in ["cluster.local/*"]',
                )
        if not found and isinstance(holder, Mapping) and not any(values.get(field.json) for field in table):
            self.c.refuse(path, None, "must set at least one field with at least one value")
        self._service_accounts(values, path)
        return found

    def _service_accounts(self, values: Mapping[str, Any], path: str) -> None:
        for name in ("serviceAccounts", "notServiceAccounts"):
            accounts = values.get(name)
            if not accounts:
                continue
            for other in ("namespaces", "notNamespaces", "principals", "notPrincipals"):
                if values.get(other):
                    self.c.refuse(f"{path}.{name}", accounts, f"may not be combined with {other} in one source")
            if isinstance(accounts, list | tuple) and len(accounts) > MAX_SERVICE_ACCOUNTS:
                self.c.refuse(f"{path}.{name}", len(accounts), f"at most {MAX_SERVICE_ACCOUNTS} values are accepted")

    def _conditions(self, rule: Mapping[str, Any]) -> list[bool]:
        found = []
        for index, condition in enumerate(self.c.sequence(rule.get("when"), f"{self.path}.when")):
            path = f"{self.path}.when[{index}]"
            if not isinstance(condition, Mapping):
                self.c.refuse(
                    path, condition if condition is not None else "null", "must be an object with key and values"
                )
                continue
            self.c.mapping(condition, path, ("key", "values", "notValues"))
            name = self.c.text(condition, "key", path)
            key = read_key(name)
            if not name:
                self.c.refuse(f"{path}.key", None, _KEYS_HELP)
            elif key is None:
                self.c.refuse(f"{path}.key", name, f"unknown key; {_KEYS_HELP}")
            positive = self.c.strings(condition.get("values"), f"{path}.values")
            negative = self.c.strings(condition.get("notValues"), f"{path}.notValues")
            if not condition.get("values") and not condition.get("notValues"):
                self.c.refuse(f"{path}.values", None, "at least one of values and notValues must be set")
            if key is not None:
                found.append(self._key(key, name, path, positive + negative))
        return found

    def _key(self, key: Key, name: str, path: str, strings: list[tuple[str, str]]) -> bool:
        self._values(key.attribute, strings)
        self._surprises(key.attribute, strings)
        self._allowed_here(key.attribute, f"{path}.key", name)
        return key.tcp

    def _allowed_here(self, attribute: Attribute, path: str, value: object) -> None:
        if self.action == "CUSTOM" and attribute in _IDENTITY:
            self.c.refuse(
                path, value, "action CUSTOM may not test the client's identity or a token; the provider does that"
            )

    def _surprises(self, attribute: Attribute, strings: list[tuple[str, str]]) -> None:
        """Values that are accepted, as upstream, but hardly mean what their author thinks."""
        for path, text in strings:
            if attribute is Attribute.NAMESPACE and text != "*" and "*" in text[1:-1] + text[:1] * text.endswith("*"):
                self.c.warnings.append(
                    f"{path}: {text!r} is a wildcard at a waypoint, but ztunnel takes only one '*' at the start or the end "
                    "for a wildcard and any other for the character itself"
                )
            if attribute is Attribute.PRINCIPAL and text.startswith("spiffe://"):
                self.c.warnings.append(
                    f"{path}: {text!r} matches no client; principals are written without 'spiffe://'"
                )

    def _values(self, attribute: Attribute, strings: list[tuple[str, str]]) -> None:
        check = _VALUE_CHECKS.get(attribute)
        if check is None:
            return
        for path, text in strings:
            if problem := check(text):
                self.c.refuse(path, text, problem)


def _network(text: str) -> str | None:
    try:
        read_network(text)
    except ValueError:
        return "accepted is an IPv4 or IPv6 address, or a CIDR such as 10.0.0.0/8 or 2001:db8::/32"
    return None


def _port(text: str) -> str | None:
    try:
        read_port(text)
    except ValueError:
        return "accepted is a port from 1 to 65535"
    return None


def _service_account(text: str) -> str | None:
    if "*" in text:
        return "wildcards are not accepted; name the service account"
    if len(text) > MAX_SERVICE_ACCOUNT_LENGTH:
        return f"accepted are at most {MAX_SERVICE_ACCOUNT_LENGTH} characters"
    parts = text.split("/")
    if len(parts) > 2 or not all(parts):
        return "accepted is <service account> or <namespace>/<service account>"
    return None


def _trust_domain(text: str) -> str | None:
    if "/" in text:
        return "accepted is a trust domain without '/'"
    if text.count("*") > 1 or "*" in text[1:-1]:
        return "accepted is one '*' at the start or at the end"
    return None


_VALUE_CHECKS: Mapping[Attribute, Callable[[str], str | None]] = {
    Attribute.SOURCE_IP: _network,
    Attribute.REMOTE_IP: _network,
    Attribute.DESTINATION_IP: _network,
    Attribute.DESTINATION_PORT: _port,
    Attribute.SERVICE_ACCOUNT: _service_account,
    Attribute.TRUST_DOMAIN: _trust_domain,
    Attribute.PATH: template_problem,
}
