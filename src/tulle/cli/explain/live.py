"""A live cluster's objects, read once.

Only what bears on a request's fate is listed. A kind that the cluster does not serve (a custom resource that is not installed) counts as
having no objects; a kind that the user may not list is an error, since silence about it would make a wrong answer look right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from tulle.cli.explain.documents import Document, Key
from tulle.kube import resources as res
from tulle.kube.client import Client
from tulle.kube.errors import NotFound
from tulle.kube.resources import Resource

KINDS: tuple[Resource[Any], ...] = (
    res.NAMESPACES,
    res.PODS,
    res.SERVICES,
    res.ENDPOINT_SLICES,
    res.GATEWAY_CLASSES,
    res.GATEWAYS,
    res.HTTP_ROUTES,
    res.AUTHORIZATION_POLICIES,
    res.PEER_AUTHENTICATIONS,
    res.REQUEST_AUTHENTICATIONS,
    res.SERVICE_ENTRIES,
    res.WORKLOAD_ENTRIES,
    res.VALIDATING_WEBHOOKS,
)
MESH_CONFIG = "istio"


async def load(client: Client, istio_namespace: str) -> tuple[Document, ...]:
    """Every object that bears on the mesh. Raises ApiError."""
    async with client:
        return await lists(client, istio_namespace)


async def lists(client: Client, istio_namespace: str) -> tuple[Document, ...]:
    """As `load`, with a client that stays open."""
    found = await asyncio.gather(*(_list(client, kind) for kind in KINDS), _mesh_config(client, istio_namespace))
    return tuple(document for listed in found for document in listed)


async def _list(client: Client, resource: Resource[Any]) -> Iterable[Document]:
    plain = res.untyped(resource.group, resource.version, resource.plural, resource.kind, resource.namespaced)
    try:
        found = await client.list(plain)
    except NotFound:
        return ()
    return tuple(_document(resource, manifest) for manifest in found.items)


async def _mesh_config(client: Client, namespace: str) -> Iterable[Document]:
    plain = res.untyped("", "v1", "configmaps", "ConfigMap", True)
    try:
        found: dict[str, Any] = await client.get(plain, MESH_CONFIG, namespace)
    except NotFound:
        return ()
    return (_document(plain, found),)


def _document(resource: Resource[Any], manifest: Mapping[str, Any]) -> Document:
    meta = manifest["metadata"]
    key = Key(resource.kind, str(meta.get("namespace") or ""), str(meta["name"]))
    full = {"apiVersion": resource.api_version, "kind": resource.kind, **manifest}
    return Document(key, full, f"the cluster's {key}")
