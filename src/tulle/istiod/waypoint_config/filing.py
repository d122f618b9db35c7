"""Policies filed by the client that they are about, so that a request is not held against those that cannot match it.

Envoy's RBAC tests policy after policy, and most policies of a large Service name the clients they are for. So each client that some
policy names gets a route of its own, with the policies that name it and those that name nobody, and everybody else gets a route with
only the latter. What is left out of a route could not have matched there: a decision, the policy it names and the notes in the access
log are the same as with all of them.

The names are read from the RBAC configuration itself, which is what Envoy enforces; whatever is not understood counts as "anybody".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from tulle.istiod.waypoint_config import names
from tulle.istiod.waypoint_config.view import ActionRules, Rules

_GROWTH: Final = 4
"""How many times as many policies as there are the routes may hold together; beyond, all stay in one."""

_Clients = frozenset[str] | None
"""SPIFFE IDs one of which a request must come from, or None when it may come from anybody."""


@dataclass(frozen=True)
class Filed:
    """`rest` is what a client must pass that is not among `by_client` (SPIFFE IDs, each with what that one must pass)."""

    rest: ActionRules
    by_client: Mapping[str, ActionRules] = field(default_factory=dict)


def file(rules: ActionRules) -> Filed:
    """The policies of one sort of port by client; all in `rest` where filing would multiply them."""
    found = {part: {name: _clients_of(policy) for name, policy in held.items()} for part, held in _parts(rules)}
    named = [(part, name, clients) for part, each in found.items() for name, clients in each.items() if clients]
    anybody = {part: {name for name, clients in each.items() if clients is None} for part, each in found.items()}
    clients = {client for *_, some in named for client in some}
    total, shared = sum(map(len, found.values())), sum(map(len, anybody.values()))
    if (len(clients) + 1) * shared + sum(len(some) for *_, some in named) > _GROWTH * total:
        return Filed(rules)
    own: dict[str, dict[str, set[str]]] = {client: {} for client in sorted(clients)}
    for part, name, some in named:
        for client in some:
            own[client].setdefault(part, set()).add(name)
    by_client = {
        client: _only(rules, {part: anybody[part] | mine.get(part, set()) for part in anybody})
        for client, mine in own.items()
    }
    return Filed(_only(rules, anybody), by_client)


def _parts(rules: ActionRules) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for part in fields(rules):
        held: Rules | None = getattr(rules, part.name)
        if held is not None:
            yield part.name, held["policies"]


def _only(rules: ActionRules, kept: Mapping[str, set[str]]) -> ActionRules:
    """`rules` without the other policies. An action of which nothing is left stays: an ALLOW of nothing denies."""
    left = {
        part: {
            **getattr(rules, part),
            "policies": {name: policy for name, policy in held.items() if name in kept[part]},
        }
        for part, held in _parts(rules)
    }
    return replace(rules, **left)


# -- whom a policy is about -------------------------------------------------------------------------------------------


def _clients_of(policy: Mapping[str, Any]) -> _Clients:
    return _any_of(policy["principals"])


def _clients(principal: Mapping[str, Any]) -> _Clients:
    match principal:
        case {"filter_state": {"key": names.PEER_PRINCIPAL, "string_match": {"exact": str(client), **rest}}} if (
            not rest
        ):
            return frozenset({client})
        case {"or_ids": {"ids": ids}}:
            return _any_of(ids)
        case {"and_ids": {"ids": ids}}:
            known = [clients for clients in map(_clients, ids) if clients is not None]
            return min(known, key=len, default=None)
        case {"not_id": {"any": True}}:
            return frozenset()
        case _:
            return None


def _any_of(ids: list[Mapping[str, Any]]) -> _Clients:
    together: set[str] = set()
    for clients in map(_clients, ids):
        if clients is None:
            return None
        together |= clients
    return frozenset(together)
