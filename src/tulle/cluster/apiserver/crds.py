"""CustomResourceDefinitions at work: accepted names, conditions, and the kinds they add to the registry.

A definition whose names nobody else has is served from the moment it is stored, so that a file with definitions and
their objects can be applied in one go. Its conditions are written a moment later by this module, as the API server's own
controllers do in a real cluster: NamesAccepted and Established; from then on they say whether it is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import structlog

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.kinds import Kind, PrinterColumn
from tulle.cluster.apiserver.registry import Registry, version_rank
from tulle.cluster.apiserver.rest.call import Options
from tulle.cluster.apiserver.rest.deleter import DeleteOptions, Deleter
from tulle.cluster.apiserver.rest.objects import now
from tulle.cluster.apiserver.rest.writer import Writer
from tulle.cluster.apiserver.strategy.admission import CLEANUP, hold_definition
from tulle.cluster.store import Event, Store

Object = dict[str, Any]
RESOURCE = "customresourcedefinitions.apiextensions.k8s.io"
_RETRY_SECONDS = 5.0
_AGAIN_SECONDS = 1.0
_EMPTY_SCHEMA: Mapping[str, Any] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_log = structlog.get_logger("apiserver")


def kinds_of(definition: Mapping[str, Any]) -> tuple[Kind, ...]:
    """The kinds that an accepted definition serves."""
    versions = sorted(definition["spec"].get("versions") or (), key=lambda v: version_rank(v["name"]))
    storage = stored_kind(definition).version
    stored = (definition.get("status") or {}).get("storedVersions") or ()
    mixed, ending = any(other != storage for other in stored), bool(definition["metadata"].get("deletionTimestamp"))
    kinds = (_kind(definition["spec"], version, storage) for version in versions if version.get("served"))
    return tuple(replace(kind, mixed=mixed, ending=ending) for kind in kinds)


def stored_kind(definition: Mapping[str, Any]) -> Kind:
    """The kind as its objects are stored, served in that version or not."""
    spec = definition["spec"]
    version = next(version for version in spec["versions"] if version.get("storage"))
    return _kind(spec, version, version["name"])


def _kind(spec: Mapping[str, Any], version: Mapping[str, Any], storage: str) -> Kind:
    names = spec["names"]
    subresources = version.get("subresources") or {}
    columns = tuple(
        PrinterColumn(
            c["name"], c["type"], c.get("description", ""), c.get("priority", 0), c.get("format", ""), c["jsonPath"]
        )
        for c in version.get("additionalPrinterColumns") or ()
    )
    deprecation = (
        version.get("deprecationWarning") or f"{spec['group']}/{version['name']} {names['kind']} is deprecated"
    )
    return Kind(
        group=spec["group"],
        version=version["name"],
        kind=names["kind"],
        plural=names["plural"],
        namespaced=spec.get("scope") == "Namespaced",
        schema=(version.get("schema") or {}).get("openAPIV3Schema") or _EMPTY_SCHEMA,
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        subresources=tuple(sorted(name for name in ("status", "scale") if subresources.get(name) is not None)),
        generation=True,
        columns=columns,
        singular_name=names.get("singular", ""),
        list_kind=names.get("listKind", ""),
        storage_version=storage,
        scale=subresources.get("scale"),
        warning=deprecation if version.get("deprecated") else "",
        fields=_selectable(version),
    )


def _selectable(version: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    paths = [field["jsonPath"].lstrip(".") for field in version.get("selectableFields") or ()]
    return {path: tuple(path.split(".")) for path in paths}


def _conditions(definition: Object, problem: str) -> list[Object]:
    """NamesAccepted and Established as they should be, with old transition times where nothing changed."""
    accepted = not problem
    wanted = [
        ("NamesAccepted", accepted, "NoConflicts" if accepted else "NamesConflict", problem or "no conflicts found"),
        (
            "Established",
            accepted,
            "InitialNamesAccepted" if accepted else "NotAccepted",
            "the initial names have been accepted" if accepted else "not all names are accepted",
        ),
    ]
    before = {c.get("type"): c for c in _conditions_of(definition)}
    conditions = [c for kind, c in before.items() if kind not in ("NamesAccepted", "Established")]
    for kind, true, reason, message in wanted:
        status = "True" if true else "False"
        old = before.get(kind)
        when = old.get("lastTransitionTime") if old and old.get("status") == status else None
        conditions.append(
            {"lastTransitionTime": when or now(), "message": message, "reason": reason, "status": status, "type": kind}
        )
    return conditions


def _conditions_of(definition: Object) -> list[Object]:
    return (definition.get("status") or {}).get("conditions") or []


class CustomKinds:
    """Keeps the registry in step with the stored definitions."""

    def __init__(self, store: Store, registry: Registry, writer: Writer) -> None:
        self._store = store
        self._registry = registry
        self._writer = writer
        self._deleter = Deleter(writer)
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        for record in store.list(RESOURCE):
            self._register(record.decode())
            self._dirty.add(record.key.name)
        store.listen(RESOURCE, self._changed)

    def _register(self, definition: Object) -> None:
        said = [c.get("status") for c in _conditions_of(definition) if c.get("type") == "Established"]
        served = "True" in said if said else not self._names_problem(definition)
        name = definition["metadata"]["name"]  # that of its storage resource too
        before = self._registry.fields_in(name)
        self._registry.set_custom(name, kinds_of(definition) if served else ())
        if self._registry.fields_in(name) != before:
            # The records know the values of fields that were selectable when they were made, or loaded.
            self._store.reindex(name)

    def _changed(self, event: Event) -> None:
        if event.new is None:
            self._registry.set_custom(event.key.name, ())
            self._store.interrupt(event.key.name)
            self._names_freed(event.key.name.partition(".")[2])
            return
        self._register(event.new.decode())
        self._dirty.add(event.key.name)
        self._wake.set()

    def _names_freed(self, group: str) -> None:
        """A definition that was refused because of another one's names may be accepted now."""
        names = [record.key.name for record in self._store.list(RESOURCE)]
        refused = {n for n in names if n.partition(".")[2] == group and not self._registry.has_custom(n)}
        if refused:
            self._dirty |= refused
            self._wake.set()

    async def start(self) -> None:
        """Begin to write conditions and clean up."""
        self._wake.set()
        self._task = asyncio.create_task(self._run(), name="crd-controller")

    async def stop(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._dirty:
                name = self._dirty.pop()
                try:
                    await self._reconcile(name)
                except errors.StatusError as error:
                    if error.reason == "NotFound":
                        continue
                    if error.reason != "Conflict":
                        _log.warning("CustomResourceDefinition not reconciled", name=name, error=error.message)
                    # Nothing else may ever come back to it: one that is being deleted changes no more.
                    asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._again, name)

    async def _reconcile(self, name: str) -> None:
        kind = self._registry.find("apiextensions.k8s.io", "v1", "customresourcedefinitions")
        if kind is None:
            raise errors.no_such_path()
        _, definition = self._writer.get(kind, "", name)
        if definition["metadata"].get("deletionTimestamp"):
            await self._clean_up(kind, definition)
            return
        if CLEANUP not in (definition["metadata"].get("finalizers") or ()):
            await self._writer.change(kind, "", name, hold_definition, Options())
        problem = self._names_problem(definition)

        def accept(old: Object) -> Object:
            spec, status = old["spec"], old.setdefault("status", {})
            status["conditions"] = _conditions(old, problem)
            if not problem:
                status["acceptedNames"] = spec["names"]
            storage = next((v["name"] for v in spec["versions"] if v.get("storage")), "")
            stored = status.get("storedVersions") or []
            status["storedVersions"] = stored if storage in stored else [*stored, storage]
            return old

        await self._writer.change(kind, "", name, accept, Options(), subresource="status")

    def _names_problem(self, definition: Object) -> str:
        spec = definition["spec"]
        mine = f"{spec['names']['plural']}.{spec['group']}"
        taken: set[str] = set()
        for kind in self._registry.kinds():
            if kind.group == spec["group"] and f"{kind.plural}.{kind.group}" != mine:
                taken |= {kind.plural, kind.singular, kind.kind, kind.list_name, *kind.short_names}
        names = spec["names"]
        wanted = [
            names["plural"],
            names.get("singular", ""),
            names["kind"],
            names.get("listKind", ""),
            *(names.get("shortNames") or ()),
        ]
        clashes = [name for name in wanted if name and name in taken]
        return f'"{clashes[0]}" is already in use' if clashes else ""

    async def _clean_up(self, kind: Kind, definition: Object) -> None:
        """Delete the custom resources of a definition that goes away, then let it go."""
        name, stored = definition["metadata"]["name"], stored_kind(definition)
        for record in self._store.list(stored.storage):
            try:
                wish = DeleteOptions()
                await self._deleter.delete(stored, record.key.namespace, record.key.name, wish, Options())
            except errors.StatusError as error:
                if error.reason != "NotFound":
                    raise
        if self._store.list(stored.storage) or self._store.writing(stored.storage):
            # Finalizers still hold some of them, or one was on its way to the disk: look again a little later.
            asyncio.get_running_loop().call_later(_AGAIN_SECONDS, self._again, name)
            return
        await self._writer.change(kind, "", name, _without_finalizer, Options())

    def _again(self, name: str) -> None:
        self._dirty.add(name)
        self._wake.set()


def _without_finalizer(obj: Object) -> Object:
    obj["metadata"]["finalizers"] = [f for f in obj["metadata"].get("finalizers") or () if f != CLEANUP]
    return obj
