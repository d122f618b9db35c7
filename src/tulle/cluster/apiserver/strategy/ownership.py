"""Keeps managedFields through updates and creates that are not applies."""

from __future__ import annotations

from typing import Any

from tulle.cluster.apiserver.kinds import Kind
from tulle.cluster.apiserver.patch import managers
from tulle.cluster.apiserver.rest.objects import now

Object = dict[str, Any]


def record(kind: Kind, old: Object | None, new: Object, manager: str, subresource: str) -> None:
    """Move ownership after `manager` has made `new` out of `old`. A client that sends managedFields of its own (to clear or
    migrate them) is obeyed; one that sends none keeps what was there."""
    if old is not None:
        before = old["metadata"].get("managedFields")
        sent = new["metadata"].get("managedFields")
        if sent is None and before is not None:
            new["metadata"]["managedFields"] = before
        elif sent != before and sent is not None:
            managers.write(new, managers.read(new))
            return
    managers.update(kind, old, new, managers.Manager(manager, managers.UPDATE, subresource), now())
