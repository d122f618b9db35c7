"""The policy objects, as frozen values.

These types mirror the fields of the Istio API one for one and carry no behaviour beyond naming themselves, so that a
decision can always point back to the object and field that it came from. They are hashable: conversions are cached by
value, and two equal objects mean the same thing.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

Labels = tuple[tuple[str, str], ...]
Strings = tuple[str, ...]


class Action(enum.Enum):
    """What a matching AuthorizationPolicy does (C1)."""

    ALLOW = "ALLOW"
    DENY = "DENY"
    AUDIT = "AUDIT"
    CUSTOM = "CUSTOM"


class MtlsMode(enum.Enum):
    """A PeerAuthentication mode (B1). UNSET takes the parent's."""

    UNSET = "UNSET"
    DISABLE = "DISABLE"
    PERMISSIVE = "PERMISSIVE"
    STRICT = "STRICT"


@dataclass(frozen=True, slots=True)
class Meta:
    """Where a rule comes from. ``creation`` is the RFC 3339 creationTimestamp in UTC ("" when unknown)."""

    kind: str
    namespace: str
    name: str
    creation: str = ""
    generation: int = 0

    @property
    def key(self) -> str:
        """``namespace/name``, as ztunnel names a policy."""
        return f"{self.namespace}/{self.name}"

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class TargetRef:
    """A reference to what a policy attaches to (C6). The core group is the empty string."""

    group: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}.{self.group}:{self.name}" if self.group else f"{self.kind}:{self.name}"


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of ``from``: all fields that are set must hold (C2)."""

    principals: Strings = ()
    not_principals: Strings = ()
    request_principals: Strings = ()
    not_request_principals: Strings = ()
    namespaces: Strings = ()
    not_namespaces: Strings = ()
    service_accounts: Strings = ()
    not_service_accounts: Strings = ()
    ip_blocks: Strings = ()
    not_ip_blocks: Strings = ()
    remote_ip_blocks: Strings = ()
    not_remote_ip_blocks: Strings = ()
    trust_domains: Strings = ()
    not_trust_domains: Strings = ()


@dataclass(frozen=True, slots=True)
class Operation:
    """One entry of ``to``: all fields that are set must hold (C2)."""

    hosts: Strings = ()
    not_hosts: Strings = ()
    ports: Strings = ()
    not_ports: Strings = ()
    methods: Strings = ()
    not_methods: Strings = ()
    paths: Strings = ()
    not_paths: Strings = ()


@dataclass(frozen=True, slots=True)
class Condition:
    """One entry of ``when``: one of ``values`` and none of ``not_values``.

    ``position`` is its index in the manifest, kept when neighbours are dropped; None takes the place in the tuple.
    """

    key: str
    values: Strings = ()
    not_values: Strings = ()
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: any source, any operation, every condition. ``path`` is where the rule stands in its manifest."""

    sources: tuple[Source, ...] = ()
    operations: tuple[Operation, ...] = ()
    conditions: tuple[Condition, ...] = ()
    path: str = "spec.rules[0]"


@dataclass(frozen=True, slots=True)
class AuthorizationPolicy:
    """An AuthorizationPolicy. ``selector`` None means absent; an empty one means ``matchLabels`` without entries."""

    meta: Meta
    action: Action = Action.ALLOW
    selector: Labels | None = None
    target_refs: tuple[TargetRef, ...] = ()
    rules: tuple[Rule, ...] = ()
    provider: str = ""
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class PeerAuthentication:
    """A PeerAuthentication. ``ports`` maps target ports to modes, sorted by port."""

    meta: Meta
    selector: Labels | None = None
    mode: MtlsMode = MtlsMode.UNSET
    ports: tuple[tuple[int, MtlsMode], ...] = ()


@dataclass(frozen=True, slots=True)
class JwtRule:
    """One issuer that a RequestAuthentication accepts.

    Keys come from ``jwks``, else ``jwks_uri``, else the issuer's OpenID discovery document. ``output_claims`` are (header,
    claim) pairs; ``timeout`` is for one fetch of the keys, in seconds.
    """

    issuer: str
    audiences: Strings = ()
    jwks_uri: str = ""
    jwks: str = ""
    from_headers: tuple[tuple[str, str], ...] = ()
    from_params: Strings = ()
    forward: bool = False
    from_cookies: Strings = ()
    output_payload_header: str = ""
    output_claims: tuple[tuple[str, str], ...] = ()
    space_delimited_claims: Strings = ()
    timeout: float = 5.0


@dataclass(frozen=True, slots=True)
class RequestAuthentication:
    """A RequestAuthentication: a request with a bad token is refused, one without a token passes."""

    meta: Meta
    selector: Labels | None = None
    target_refs: tuple[TargetRef, ...] = ()
    jwt_rules: tuple[JwtRule, ...] = ()


def labels_match(selector: Labels, labels: Mapping[str, str]) -> bool:
    """Whether every pair of ``selector`` stands in ``labels``."""
    return all(labels.get(key) == value for key, value in selector)
