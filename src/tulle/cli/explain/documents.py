"""Kubernetes objects out of YAML files, each with the place it came from.

An error that names only a line of a stream helps nobody who keeps forty manifests in a folder, so every document remembers its file and its
position, and what cannot be read says which file, which object and which field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tulle.cli.explain.kubeyaml import read_all

SUFFIXES = (".yaml", ".yml", ".json")
CLUSTER_SCOPED = frozenset(
    {
        "Namespace",
        "Node",
        "GatewayClass",
        "CustomResourceDefinition",
        "ClusterRole",
        "ClusterRoleBinding",
        "ValidatingWebhookConfiguration",
        "MutatingWebhookConfiguration",
        "PersistentVolume",
        "PriorityClass",
        "StorageClass",
    }
)
_NAMESPACE = re.compile(r"([a-z0-9](?:[-a-z0-9]*[a-z0-9])?)=(.+)", re.DOTALL)


class InputError(ValueError):
    """Something given to the command cannot be used; the message names file, object and field."""


class Key(NamedTuple):
    """An object: its kind, namespace ("" for cluster-scoped kinds) and name."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return "/".join(part for part in self if part)


@dataclass(frozen=True)
class Document:
    """One object and where it stands."""

    key: Key
    manifest: Mapping[str, Any]
    source: str


def load(paths: Iterable[str], stdin: str | None = None) -> tuple[Document, ...]:
    """Read files and folders, in order. `NAMESPACE=PATH` gives the objects of a path that name no namespace one, as
    `kubectl apply -n` does; else it is `default`. `-` reads `stdin`. Raises InputError, for an object that stands twice too.
    """
    found: dict[Key, Document] = {}
    for given in paths:
        for document in _load(given, stdin):
            other = found.get(document.key)
            if other is not None and other.manifest != document.manifest:
                raise InputError(
                    f"{document.source}: {document.key} stands in {other.source} too, and differs there; keep one of them"
                )
            found[document.key] = document
    return tuple(found.values())


def _load(given: str, stdin: str | None) -> Iterator[Document]:
    named = None if Path(given).exists() else _NAMESPACE.fullmatch(given)
    namespace, place = (named[1], named[2]) if named else ("default", given)
    if place == "-":
        yield from _documents("stdin", stdin or "", namespace)
        return
    path = Path(place)
    if not path.exists():
        raise InputError(
            f"{place}: no such file or folder; accepted is PATH or NAMESPACE=PATH, and - for standard input"
        )
    for file in _files(path):
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: cannot be read: {error}") from error
        yield from _documents(str(file), text, namespace)


def _files(path: Path) -> Iterable[Path]:
    if not path.is_dir():
        return (path,)
    found = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and file.is_file())
    if not found:
        raise InputError(f"{path}: no {', '.join(SUFFIXES)} file in this folder")
    return found


def _documents(source: str, text: str, namespace: str) -> Iterator[Document]:
    try:
        values = read_all(text)
    except ValueError as error:
        raise InputError(f"{source}: this is no YAML: {error}") from error
    for position, value in enumerate(values):
        if value is not None:
            where = source if len(values) == 1 else f"{source} (document {position + 1})"
            yield from _objects(where, value, namespace)


def _objects(source: str, value: Any, namespace: str) -> Iterator[Document]:
    if not isinstance(value, Mapping):
        raise InputError(
            f"{source}: found {type(value).__name__}; a Kubernetes object is a mapping with apiVersion and kind"
        )
    kind = value.get("kind")
    if not isinstance(kind, str) or not kind:
        raise InputError(f"{source}: kind: found {kind!r}; accepted is the kind of a Kubernetes object")
    if kind.endswith("List") and isinstance(value.get("items"), list):
        for index, item in enumerate(value["items"]):
            bare = isinstance(item, Mapping) and not item.get("kind") and kind != "List"
            head = {"apiVersion": value.get("apiVersion"), "kind": kind.removesuffix("List")} if bare else {}
            yield from _objects(f"{source} items[{index}]", {**head, **item} if bare else item, namespace)
        return
    meta = value.get("metadata")
    if not isinstance(meta, Mapping):
        raise InputError(f"{source}: {kind}: metadata: found {meta!r}; accepted is a mapping with a name")
    name = meta.get("name")
    if not isinstance(name, str) or not name:
        raise InputError(f"{source}: {kind}: metadata.name: found {name!r}; accepted is the object's name")
    own = "" if kind in CLUSTER_SCOPED else str(meta.get("namespace") or namespace)
    yield Document(Key(kind, own, name), {**value, "metadata": {**meta, **({"namespace": own} if own else {})}}, source)
