"""IST0171: conditions that say no. Where nobody has written conditions yet, they are computed as istiod would write them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tulle.cli.analyze.messages import Message
from tulle.cli.explain.documents import Document, Key
from tulle.cli.explain.world import World
from tulle.istiod.policy_status import conditions_of

_NEGATIVE: Mapping[str, frozenset[str]] = {
    "Service": frozenset({"istio.io/WaypointBound"}),
    "ServiceEntry": frozenset({"istio.io/WaypointBound"}),
    "WorkloadEntry": frozenset({"istio.io/WaypointBound"}),
    "AuthorizationPolicy": frozenset({"ZtunnelAccepted", "WaypointAccepted"}),
    "Gateway": frozenset({"Accepted", "Programmed", "ResolvedRefs"}),
}
_ROUTE = frozenset({"Accepted", "ResolvedRefs"})


def conditions(world: World) -> Iterator[Message]:
    """Conditions in the objects' status, or computed ones for policies without."""
    for kind, types in _NEGATIVE.items():
        for document in world.of(kind):
            listed = list(_conditions(document.manifest.get("status")))
            if kind == "AuthorizationPolicy":
                listed = _of_policy(world, document.key)
            for condition in listed:
                if condition.get("type") in types and _negative(condition):
                    yield _message(document, condition)
    for document in world.of("HTTPRoute"):
        for parent in (document.manifest.get("status") or {}).get("parents") or ():
            for condition in _conditions(parent):
                if condition.get("type") in _ROUTE and _negative(condition):
                    yield _message(document, condition)


def _of_policy(world: World, key: Key) -> list[Mapping[str, Any]]:
    policy = world.index.policies.get((key.namespace, key.name))
    found = conditions_of(world.index, policy) if policy else ()
    return [
        {"type": one.type, "status": str(one.status), "reason": one.reason, "message": one.message}
        for one in found
        if one is not None
    ]


def _conditions(status: object) -> Iterator[Mapping[str, Any]]:
    listed = status.get("conditions") if isinstance(status, Mapping) else None
    yield from (one for one in listed or () if isinstance(one, Mapping))


def _negative(condition: Mapping[str, Any]) -> bool:
    return condition.get("status") == "False" or condition.get("reason") == "PartiallyInvalid"


def _message(document: Document, condition: Mapping[str, Any]) -> Message:
    reason = f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
    text = f"Negative condition: {condition['type']}={condition['status']} ({reason})"
    return Message("IST0171", document.key, text)
