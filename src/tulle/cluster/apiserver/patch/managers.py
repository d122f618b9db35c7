"""metadata.managedFields as a mapping of managers to the fields they own, and the rules by which writes move ownership."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tulle.cluster.apiserver.kinds import Kind
from tulle.cluster.apiserver.patch import fieldset, shapes
from tulle.cluster.apiserver.patch.fieldset import Path, Paths

Object = dict[str, Any]
APPLY, UPDATE = "Apply", "Update"
_SYSTEM = (
    "name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp",
    "deletionGracePeriodSeconds", "selfLink", "managedFields", "generateName",
)  # fmt: skip
_IGNORED: frozenset[Path] = frozenset(
    {("f:apiVersion",), ("f:kind",), ("f:metadata",)} | {("f:metadata", f"f:{name}") for name in _SYSTEM}
)


@dataclass(frozen=True, slots=True)
class Manager:
    """Who owns fields: a name, how it writes, and through which subresource."""

    name: str
    operation: str
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Owned:
    """What a manager owns."""

    paths: Paths
    api_version: str
    time: str


Managed = dict[Manager, Owned]


def read(obj: Object) -> Managed:
    """The managers of an object."""
    found: Managed = {}
    for entry in obj.get("metadata", {}).get("managedFields") or ():
        if not entry.get("manager") and not entry.get("fieldsV1"):
            continue
        manager = Manager(entry.get("manager", ""), entry.get("operation", UPDATE), entry.get("subresource", ""))
        paths = fieldset.from_fields_v1(entry.get("fieldsV1") or {})
        found[manager] = Owned(paths, entry.get("apiVersion", ""), entry.get("time", ""))
    return found


def write(obj: Object, managed: Mapping[Manager, Owned]) -> None:
    """Put the managers into an object; managers that own nothing are left out."""
    entries = [_entry(manager, owned) for manager, owned in managed.items() if owned.paths]
    # Applies first, then by time: the order that clients show.
    entries.sort(key=lambda entry: (entry["operation"] != APPLY, entry.get("time", ""), entry["manager"]))
    if entries:
        obj["metadata"]["managedFields"] = entries
    else:
        obj["metadata"].pop("managedFields", None)


def _entry(manager: Manager, owned: Owned) -> Object:
    entry: Object = {
        "manager": manager.name,
        "operation": manager.operation,
        "apiVersion": owned.api_version,
        "time": owned.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": fieldset.to_fields_v1(owned.paths),
    }
    if not entry["time"]:
        del entry["time"]
    if manager.subresource:
        entry["subresource"] = manager.subresource
    return entry


def significant(kind: Kind, paths: Paths, subresource: str) -> Paths:
    """Paths that ownership is kept of: no system metadata, and nothing that this endpoint cannot write."""
    kept = (p for p in paths if p not in _IGNORED and not (len(p) > 2 and p[:2] in _IGNORED))
    if subresource == "status":
        return frozenset(p for p in kept if p[0] == "f:status")
    if kind.status:
        return frozenset(p for p in kept if p[0] != "f:status")
    return frozenset(kept)


def plain(obj: Object) -> Object:
    """An object without what ownership never covers."""
    metadata = {k: v for k, v in (obj.get("metadata") or {}).items() if k not in _SYSTEM}
    body = {k: v for k, v in obj.items() if k not in ("apiVersion", "kind", "metadata")}
    return {**body, "metadata": metadata} if metadata else body


def update(kind: Kind, old: Object | None, new: Object, manager: Manager, time: str) -> None:
    """Ownership after an update (or create) by `manager`: it gets what it changed, the others lose that and what is gone."""
    managed = read(new)
    changed, removed = fieldset.compare(plain(old) if old else {}, plain(new), shapes.root(kind))
    mine = significant(kind, changed, manager.subresource)
    if not mine and not removed:
        return
    taken = frozenset(p for p in mine if not p[-1].startswith("k:"))  # an item may have several owners
    for other, owned in list(managed.items()):
        if other != manager:
            rest = fieldset.without_below(owned.paths, removed) - taken
            managed[other] = Owned(rest, owned.api_version, owned.time)
    before = managed.get(manager)
    kept = fieldset.without_below(before.paths, removed) if before else frozenset()
    if mine:
        managed[manager] = Owned(kept | mine, new["apiVersion"], time)
    elif before:
        managed[manager] = Owned(kept, before.api_version, before.time)
    write(new, managed)
