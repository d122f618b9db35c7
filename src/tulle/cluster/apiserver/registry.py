"""Which kinds are served right now: the built-in table plus what CustomResourceDefinitions add.

Lookup is by (group, version, plural). The registry also knows, per storage resource, which values field selectors may ask
for, and a counter that changes whenever discovery changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tulle.cluster.apiserver.kinds import BUILTIN, Kind

# The order in which a cluster names its groups; a client that looks a short name up takes the first group that has it.
GROUP_ORDER = (
    "", "apiregistration.k8s.io", "apps", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io",
    "autoscaling", "policy", "rbac.authorization.k8s.io", "admissionregistration.k8s.io", "apiextensions.k8s.io",
    "coordination.k8s.io", "discovery.k8s.io",
)  # fmt: skip


class Registry:
    """Served kinds."""

    def __init__(self) -> None:
        self.generation = 0
        self._kinds: dict[tuple[str, str, str], Kind] = {(k.group, k.version, k.plural): k for k in BUILTIN}
        self._custom: dict[str, tuple[Kind, ...]] = {}
        self._fields: dict[str, dict[str, tuple[str, ...]]] = {}
        self._index_fields()

    def find(self, group: str, version: str, plural: str) -> Kind | None:
        """The kind served there, or None."""
        return self._kinds.get((group, version, plural))

    def by_kind(self, group: str, version: str, kind: str) -> Kind | None:
        """The kind of that name, or None."""
        return next((k for k in self._kinds.values() if (k.group, k.version, k.kind) == (group, version, kind)), None)

    def by_storage(self, storage: str) -> Kind | None:
        """The kind whose objects are stored under `storage`, in the version they are stored in."""
        found = [k for k in self._kinds.values() if k.storage == storage]
        return next((k for k in found if k.api_version == k.storage_api_version), found[0] if found else None)

    def kinds(self) -> Iterable[Kind]:
        """Every served kind."""
        return self._kinds.values()

    def groups(self) -> dict[str, list[str]]:
        """Group -> versions, most preferred first, groups in the order they are announced."""
        found: dict[str, list[str]] = {}
        for kind in self._kinds.values():
            versions = found.setdefault(kind.group, [])
            if kind.version not in versions:
                versions.append(kind.version)
        order = {name: index for index, name in enumerate(GROUP_ORDER)}
        names = sorted(found, key=lambda name: (order.get(name, len(order)), name))
        return {name: sorted(found[name], key=version_rank) for name in names}

    def resources(self, group: str, version: str) -> list[Kind]:
        """Kinds of one group version, by plural."""
        found = [k for k in self._kinds.values() if (k.group, k.version) == (group, version)]
        return sorted(found, key=lambda kind: kind.plural)

    def set_custom(self, definition: str, kinds: tuple[Kind, ...]) -> None:
        """Replace what the CustomResourceDefinition of that name adds (nothing: it is gone)."""
        for old in self._custom.pop(definition, ()):
            self._kinds.pop((old.group, old.version, old.plural), None)
        if kinds:
            self._custom[definition] = kinds
            self._kinds.update({(k.group, k.version, k.plural): k for k in kinds})
        self.generation += 1
        self._index_fields()

    def has_custom(self, definition: str) -> bool:
        """Whether the CustomResourceDefinition of that name adds anything."""
        return definition in self._custom

    def _index_fields(self) -> None:
        self._fields.clear()
        for kind in self._kinds.values():
            self._fields.setdefault(kind.storage, {}).update(kind.fields)

    def fields_in(self, storage: str) -> Mapping[str, tuple[str, ...]]:
        """Name and path of each selectable field of a storage resource, beside those of the metadata."""
        return self._fields.get(storage, {})

    def supported_fields(self, kind: Kind) -> list[str]:
        """Field selector keys of a kind."""
        return ["metadata.name", "metadata.namespace", *kind.fields]

    def fields_of(self, storage: str, obj: Mapping[str, Any]) -> Mapping[str, str]:
        """Values of the selectable fields of a stored object."""
        metadata = obj.get("metadata") or {}
        values = {"metadata.name": metadata.get("name", ""), "metadata.namespace": metadata.get("namespace", "")}
        for name, path in self._fields.get(storage, {}).items():
            values[name] = _text(obj, path)
        return values


def _text(obj: Any, path: tuple[str, ...]) -> str:
    for part in path:
        if not isinstance(obj, Mapping):
            return ""
        obj = obj.get(part)
    if obj is None:
        return "false" if path[-1] in ("unschedulable", "hostNetwork") else ""
    return str(obj).lower() if isinstance(obj, bool) else str(obj)


def version_rank(version: str) -> tuple[int, int, int, str]:
    """Sort key of version names: stable before beta before alpha, newer first, other names last in alphabetical order."""
    text = version[1:] if version.startswith("v") else ""
    for rank, stage in enumerate(("", "beta", "alpha")):
        major, found, minor = text.partition(stage) if stage else (text, "", "0")
        if major.isdigit() and minor.isdigit() and (bool(stage) == bool(found)):
            return (rank, -int(major), -int(minor), "")
    return (3, 0, 0, version)
