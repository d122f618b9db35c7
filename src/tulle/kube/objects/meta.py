"""What every Kubernetes object shares: metadata, owner references, conditions, selectors and the wire form of
time.

All structs are frozen, because informers hand the same instance to every reader. Absent and default are the
same on the wire (``omit_defaults``), so a field whose zero is meaningful to the API (``replicas: 0``) is
declared ``X | None`` with default ``None``. Every field has a default, also where the API asks for it: it does not check
all of them, and a list with one object that cannot be decoded is a list that nobody can read.
"""

from datetime import UTC, datetime
from typing import Any

import msgspec

IntOrString = int | str
Quantities = dict[str, int | float | str]


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Base of every struct: camelCase on the wire, unknown fields ignored on decode, defaults left out on encode."""


class OwnerReference(Part, frozen=True, kw_only=True):
    """meta/v1 OwnerReference. ``controller`` marks the one owner that manages the object."""

    api_version: str = ""
    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False
    block_owner_deletion: bool = False


class ObjectMeta(Part, frozen=True, kw_only=True):
    """meta/v1 ObjectMeta. Timestamps are RFC 3339 text as the server wrote them; "" when unset."""

    name: str = ""
    generate_name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str = ""
    deletion_timestamp: str = ""
    deletion_grace_period_seconds: int | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()
    finalizers: tuple[str, ...] = ()


class KubeObject(Part, frozen=True, kw_only=True):
    """Base of every typed object. ``api_version`` and ``kind`` are empty on items of a list, as on the wire."""

    api_version: str = ""
    kind: str = ""
    metadata: ObjectMeta = ObjectMeta()


class PartialObject(KubeObject, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Any object, its metadata alone."""


class Condition(Part, frozen=True, kw_only=True):
    """A status condition: meta/v1 Condition, and the older shapes of Pod, Node and the workloads."""

    type: str = ""
    status: str = ""
    reason: str = ""
    message: str = ""
    observed_generation: int = 0
    last_transition_time: str = ""
    last_update_time: str = ""
    last_probe_time: str = ""
    last_heartbeat_time: str = ""


class LabelSelectorRequirement(Part, frozen=True, kw_only=True):
    """One entry of ``matchExpressions``: In, NotIn, Exists, DoesNotExist (node selectors: Gt, Lt too)."""

    key: str = ""
    operator: str = ""
    values: tuple[str, ...] = ()


class LabelSelector(Part, frozen=True, kw_only=True):
    """meta/v1 LabelSelector: ``match_labels`` and ``match_expressions`` are ANDed; an empty one matches everything."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[LabelSelectorRequirement, ...] = ()


class ObjectReference(Part, frozen=True, kw_only=True):
    """core/v1 ObjectReference: who an event is about, or what an address belongs to."""

    api_version: str = ""
    kind: str = ""
    namespace: str = ""
    name: str = ""
    uid: str = ""
    resource_version: str = ""
    field_path: str = ""


class Status(Part, frozen=True, kw_only=True):
    """meta/v1 Status: the body of a refused request, or of a watch's ERROR event."""

    status: str = ""
    message: str = ""
    reason: str = ""
    details: dict[str, Any] = {}
    code: int = 0


def now() -> str:
    """The present as meta/v1 Time (RFC 3339, whole seconds, UTC)."""
    return format_time(datetime.now(UTC))


def now_micro() -> str:
    """The present as meta/v1 MicroTime (microseconds), as Leases and Events carry it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def format_time(moment: datetime) -> str:
    """``moment`` (aware) as meta/v1 Time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """An aware datetime from meta/v1 Time or MicroTime. Raises ValueError."""
    return datetime.fromisoformat(text)
