"""Manifests into a cluster and out of it again, by server-side apply: what `tulle up` and `tulle install` have in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tulle.cli import unready
from tulle.cli.console import CommandError
from tulle.kube import resources as r
from tulle.kube.client import Client
from tulle.kube.errors import NotFound
from tulle.kube.resources import Resource

FIELD_MANAGER = "tulle"
Document = Mapping[str, Any]
_POLL = 0.05
_AT_ONCE = 8
_WORKLOADS = ("Deployment", "DaemonSet")
_CRD = "CustomResourceDefinition"
_KINDS: Mapping[tuple[str, str], Resource[Any]] = {
    (resource.api_version, resource.kind): resource
    for resource in (
        r.NAMESPACES,
        r.SERVICE_ACCOUNTS,
        r.CONFIG_MAPS,
        r.SERVICES,
        r.DEPLOYMENTS,
        r.DAEMON_SETS,
        r.CLUSTER_ROLES,
        r.CLUSTER_ROLE_BINDINGS,
        r.ROLES,
        r.ROLE_BINDINGS,
        r.VALIDATING_WEBHOOKS,
        r.CUSTOM_RESOURCE_DEFINITIONS,
    )
}
"""The kinds that the manifests are made of."""


class NotReadyError(CommandError):
    """Something did not become ready in time; the message names it."""


def resource_of(document: Document) -> Resource[Any]:
    return _KINDS[document["apiVersion"], document["kind"]]


def _named(document: Document) -> tuple[str, str | None]:
    return document["metadata"]["name"], document["metadata"].get("namespace")


async def apply_all(client: Client, documents: Sequence[Document], deadline: float) -> None:
    """Apply documents so that what needs something else comes after it: namespaces and definitions first, and last the pods, which
    need everything. Raises NotReadyError, ApiError. `deadline` is on the monotonic clock.
    """
    first = [document for document in documents if document["kind"] in ("Namespace", _CRD)]
    workloads = [document for document in documents if document["kind"] in _WORKLOADS]
    others = [document for document in documents if document["kind"] not in (*_WORKLOADS, "Namespace", _CRD)]
    await _apply(client, first)
    definitions = [document["metadata"]["name"] for document in first if document["kind"] == _CRD]
    await asyncio.gather(_apply(client, others), _until_established(client, definitions, deadline))
    await _apply(client, workloads)


async def _apply(client: Client, documents: Iterable[Document]) -> None:
    """Apply documents that do not need each other."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(document: Document) -> None:
        name, namespace = _named(document)
        async with gate:
            await client.patch(
                *(resource_of(document), name, dict(document), namespace),
                kind="apply",
                field_manager=FIELD_MANAGER,
                force=True,
            )

    await asyncio.gather(*map(one, documents))


async def _until_established(client: Client, names: Sequence[str], deadline: float) -> None:
    while True:
        found = {crd["metadata"]["name"]: crd for crd in (await client.list(r.CUSTOM_RESOURCE_DEFINITIONS)).items}
        waiting = [name for name in names if name not in found or not _established(found[name])]
        if not waiting:
            return
        if time.monotonic() > deadline:
            raise NotReadyError(f"these custom resources are not established: {', '.join(waiting)}")
        await asyncio.sleep(_POLL)


def _established(crd: Document) -> bool:
    conditions = crd.get("status", {}).get("conditions", ())
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)


async def until_ready(
    client: Client, documents: Sequence[Document], deadline: float, hint: str, nodes: int = 1
) -> None:
    """Wait until every pod of the documents' Deployments and DaemonSets is ready, on at least so many nodes.

    Raises NotReadyError with `hint` on where to look.
    """
    waiting = [document for document in documents if document["kind"] in _WORKLOADS]
    while True:
        waiting = [document for document in waiting if not await _is_ready(client, document, nodes)]
        if not waiting:
            return
        if time.monotonic() > deadline:
            raise NotReadyError(await _unready(client, waiting, hint))
        await asyncio.sleep(_POLL)


async def _unready(client: Client, waiting: Sequence[Document], hint: str) -> str:
    names = ", ".join(f"{document['kind']} {document['metadata']['name']}" for document in waiting)
    found = [await client.get(resource_of(document), *_named(document)) for document in waiting]
    lines = [line for workload in found for line in await unready.reasons(client, workload)]
    return "\n".join((f"not Ready in time: {names}; everything is left as it is for a look: {hint}", *lines))


async def _is_ready(client: Client, document: Document, nodes: int) -> bool:
    found = await client.get(resource_of(document), *_named(document))
    status = found.status
    if status.observed_generation < found.metadata.generation:
        return False
    if document["kind"] == "Deployment":
        return bool(status.updated_replicas == status.ready_replicas == status.replicas > 0)
    return bool(status.updated_number_scheduled == status.number_ready == status.desired_number_scheduled >= nodes)


async def remove_all(client: Client, documents: Sequence[Document]) -> tuple[str, ...]:
    """Delete documents in the reverse of their order; returns what was there, as `kind/name`."""
    removed: list[str] = []
    for document in reversed(documents):
        name, namespace = _named(document)
        try:
            await client.delete(resource_of(document), name, namespace)
        except NotFound:
            continue
        removed.append(f"{document['kind'].lower()}/{name}")
    return tuple(removed)
