"""Server-side apply: lay what a manager wants over the object, take away what it no longer wants, and refuse to overwrite
what others own unless forced."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.kinds import Kind
from tulle.cluster.apiserver.patch import fieldset, managers, shapes
from tulle.cluster.apiserver.patch.fieldset import Path, Paths
from tulle.cluster.apiserver.patch.managers import APPLY, Managed, Manager, Owned
from tulle.cluster.apiserver.request import truthy
from tulle.cluster.apiserver.rest.call import Options
from tulle.cluster.apiserver.rest.fields import check_fields
from tulle.cluster.apiserver.rest.objects import check_type, now

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ApplyChange:
    """One apply request; `created` and `changed` are what it makes of nothing and of an object."""

    kind: Kind
    applied: Object
    manager: Manager
    force: bool

    def created(self, name: str) -> Object:
        """The new object."""
        obj = copy.deepcopy(self.applied)
        obj.setdefault("metadata", {})["name"] = name
        managers.write(obj, {self.manager: self._owned()})
        return obj

    def _wanted(self) -> Paths:
        paths = fieldset.owned_paths(managers.plain(self.applied), shapes.root(self.kind))
        return managers.significant(self.kind, paths, self.manager.subresource)

    def _owned(self) -> Owned:
        return Owned(self._wanted(), self.kind.api_version, now())

    def changed(self, live: Object) -> Object:
        """The object with the request laid over it. Raises StatusError 409 on conflicts with other managers."""
        root, managed = shapes.root(self.kind), managers.read(live)
        wanted = self._wanted()
        merged = fieldset.merge(live, self._body(live), root)
        changed, _ = fieldset.compare(managers.plain(live), managers.plain(merged), root)
        self._resolve(managed, changed)
        before = managed.get(self.manager)
        others = [owned.paths for manager, owned in managed.items() if manager != self.manager]
        gone = _abandoned(before.paths if before else frozenset(), wanted, others)
        result = fieldset.remove(merged, root, gone) if gone else merged
        for manager, owned in list(managed.items()):
            managed[manager] = Owned(fieldset.without_below(owned.paths, gone), owned.api_version, owned.time)
        unchanged = before is not None and before.paths == wanted and result == live
        managed[self.manager] = before if unchanged and before else self._owned()
        managers.write(result, managed)
        return dict(result)

    def _body(self, live: Object) -> Object:
        """What is laid over: the subresource's part only, and no metadata that is not the client's to apply."""
        body = managers.plain(self.applied)
        if self.manager.subresource == "status":
            body = {"status": body["status"]} if "status" in body else {}
        elif self.kind.status:
            body.pop("status", None)
        revision = (self.applied.get("metadata") or {}).get("resourceVersion")
        if revision:
            body.setdefault("metadata", {})["resourceVersion"] = revision
        return body

    def _resolve(self, managed: Managed, changed: Paths) -> None:
        conflicts: dict[Manager, list[Path]] = {}
        for manager, owned in managed.items():
            if manager == self.manager:
                continue
            taken = sorted(p for p in owned.paths & changed if not p[-1].startswith("k:"))
            if taken:
                conflicts[manager] = taken
        if not conflicts:
            return
        if not self.force:
            raise _conflict(conflicts, managed)
        for manager, taken in conflicts.items():
            owned = managed[manager]
            managed[manager] = Owned(owned.paths - frozenset(taken), owned.api_version, owned.time)


def _abandoned(before: Paths, wanted: Paths, others: list[Paths]) -> Paths:
    """Paths that only this manager owned and no longer wants; never one above something that is still owned."""
    kept = frozenset().union(wanted, *others)
    prefixes = {path[:depth] for path in kept for depth in range(1, len(path) + 1)}
    return frozenset(path for path in before if path not in prefixes)


def _conflict(conflicts: Mapping[Manager, list[Path]], managed: Managed) -> errors.StatusError:
    causes, lines = [], []
    for manager, paths in sorted(conflicts.items(), key=lambda item: item[0].name):
        label = f'"{manager.name}"'
        if manager.operation == managers.UPDATE:
            if manager.subresource:
                label += f' with subresource "{manager.subresource}"'
            label += f" using {managed[manager].api_version}"
            if managed[manager].time:
                label += f" at {managed[manager].time}"
        texts = [fieldset.text(path) for path in paths]
        causes += [{"reason": "FieldManagerConflict", "message": f"conflict with {label}", "field": t} for t in texts]
        lines.append(
            f"conflict with {label}: {texts[0]}"
            if len(texts) == 1
            else f"conflicts with {label}:\n" + "\n".join(f"- {t}" for t in texts)
        )
    count = len(causes)
    message = f"Apply failed with {count} conflict{'s' if count > 1 else ''}: " + "\n".join(lines)
    return errors.StatusError(409, "Conflict", message, {"causes": causes})


def apply_change(
    kind: Kind, applied: Object, options: Options, subresource: str, query: Mapping[str, str]
) -> ApplyChange:
    """Check an apply request. Raises StatusError 400 or 422."""
    if not query.get("fieldManager"):
        problem = errors.required("fieldManager", "is required for apply patch")
        raise errors.invalid("PatchOptions", "meta.k8s.io", "", [problem])
    check_type(applied, kind.api_version, kind.kind)
    if "managedFields" in applied["metadata"]:
        raise errors.bad_request("metadata.managedFields must be nil")
    applied = check_fields(kind, applied, options)
    manager = Manager(options.manager, APPLY, subresource)
    return ApplyChange(kind, applied, manager, truthy(query.get("force")))
