"""The world that a request is explained in: objects, and istiod's index over them.

The index is istiod's own, fed with the same records, so that binding, capture and attachment are decided here by the code that decides them
in the mesh. `suppose` answers "what if": it lets the index take over a few changed objects, as it would a watch event, and takes them back
afterwards; what is tried costs what a change costs, not what a mesh costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import yaml

from tulle.cli.explain import shapes
from tulle.cli.explain.completion import Completion
from tulle.cli.explain.documents import Document, InputError, Key
from tulle.cli.explain.objects import records, typed
from tulle.istiod.index import convert
from tulle.istiod.index.mesh import MeshIndex
from tulle.istiod.index.records import Change
from tulle.kube.objects import ConfigMap
from tulle.security.mesh import InvalidMeshConfig, MeshSettings, parse_mesh_config, profile

Edits = Mapping[Key, Mapping[str, Any] | None]
"""Changed objects; None for one that is deleted."""


@dataclass(frozen=True)
class World:
    """`live`: the objects come from a cluster, so that what is not there does not exist. `assumptions` says what was taken for granted."""

    objects: Mapping[Key, Document]
    index: MeshIndex
    live: bool
    assumptions: tuple[str, ...] = ()
    admitted: bool = True
    """Whether the objects went through admission (see `objects.records`)."""

    @property
    def settings(self) -> MeshSettings:
        return self.index.settings

    def of(self, kind: str, namespace: str | None = None) -> Iterator[Document]:
        """The documents of a kind, in one namespace or everywhere."""
        for key, document in self.objects.items():
            if key.kind == kind and namespace in (None, key.namespace):
                yield document

    def manifest(self, kind: str, namespace: str, name: str) -> Mapping[str, Any] | None:
        found = self.objects.get(Key(kind, namespace, name))
        return found.manifest if found else None

    def labels(self, kind: str, namespace: str, name: str) -> Mapping[str, str]:
        """An object's labels; none when there is no such object."""
        manifest = self.manifest(kind, namespace, name) or {}
        return (manifest.get("metadata") or {}).get("labels") or {}

    @contextmanager
    def suppose(self, edits: Edits) -> Iterator[World]:
        """The world in which some objects are changed. The index is shared: look at the other world inside the `with` only."""
        objects = dict(self.objects)
        forth: list[Change] = []
        back: list[Change] = []
        for key, manifest in edits.items():
            before = self.objects.get(key)
            after = None if manifest is None else Document(key, manifest, before.source if before else "the change")
            old = records(before, admitted=self.admitted) if before else {}
            new = records(after, admitted=self.admitted) if after else {}
            forth += convert.changes(old, new)
            back += convert.changes(new, old)
            if after is None:
                objects.pop(key, None)
            else:
                objects[key] = after
        self.index.apply(forth)
        self.index.flush()
        try:
            yield replace(self, objects=objects)
        finally:
            self.index.apply(back)
            self.index.flush()


def offline(documents: Iterable[Document], profile_name: str = "", *, admitted: bool = False) -> World:
    """The world of manifests. `profile_name` takes the place of a mesh configuration among them. `admitted` as in `objects.records`.

    Raises InputError.
    """
    completion = Completion(map(shapes.checked, documents))
    given = next(
        (one for key, one in completion.documents.items() if key[0] == "ConfigMap" and key.name == "istio"), None
    )
    assumptions = list(completion.assumptions)
    if given is None or profile_name:
        name = profile_name or "istio"
        settings = _profile(name)
        if not profile_name:
            assumptions.insert(
                0, "no mesh configuration among the files: upstream's defaults (--profile lesson for Tulle's)"
            )
    else:
        settings = _mesh_config(given)
    index = _index(completion.documents, settings, admitted)
    return World(completion.documents, index, False, tuple(assumptions), admitted)


def live(documents: Iterable[Document]) -> World:
    """The world of a cluster. Raises InputError for a mesh configuration that cannot be read."""
    objects = {document.key: document for document in documents}
    given = next((one for key, one in objects.items() if key.kind == "ConfigMap"), None)
    return World(objects, _index(objects, _mesh_config(given) if given else MeshSettings(), True), True)


def _index(objects: Mapping[Key, Document], settings: MeshSettings, admitted: bool) -> MeshIndex:
    index = MeshIndex(settings)
    for document in objects.values():
        index.apply(convert.changes({}, records(document, admitted=admitted)))
    index.flush()
    return index


def _profile(name: str) -> MeshSettings:
    try:
        return profile(name)
    except InvalidMeshConfig as error:
        raise InputError(f"--profile: {error}") from error


def _mesh_config(document: Document) -> MeshSettings:
    text = typed(document, ConfigMap).data.get("mesh", "")
    try:
        return parse_mesh_config(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise InputError(f"{document.source}: {document.key}: data.mesh: this is no YAML: {error}") from error
    except InvalidMeshConfig as error:
        raise InputError(f"{document.source}: {document.key}: data.mesh: {error}") from error
