"""The objects that istiod follows, each list watched once and shared by everybody who needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import msgspec

from tulle.istiod.gateway_objects import MANAGED
from tulle.istiod.index import labels as names
from tulle.istiod.settings import Settings
from tulle.kube import resources as res
from tulle.kube.client import Client
from tulle.kube.errors import NotFound
from tulle.kube.informer import Informer
from tulle.kube.objects import (
    ConfigMap,
    Deployment,
    EndpointSlice,
    Gateway,
    GatewayClass,
    Namespace,
    Node,
    Pod,
    Service,
    ServiceAccount,
)
from tulle.kube.resources import Resource

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Informers:
    """Every informer. `optional` ones belong to custom resources that the cluster does not serve (yet): nobody waits for them."""

    namespaces: Informer[Namespace]
    nodes: Informer[Node]
    pods: Informer[Pod]
    services: Informer[Service]
    endpoint_slices: Informer[EndpointSlice]
    gateway_classes: Informer[GatewayClass]
    gateways: Informer[Gateway]
    authorization_policies: Informer[Manifest]
    peer_authentications: Informer[Manifest]
    request_authentications: Informer[Manifest]
    service_entries: Informer[Manifest]
    workload_entries: Informer[Manifest]
    mesh_config: Informer[ConfigMap]
    managed_deployments: Informer[Deployment]
    managed_accounts: Informer[ServiceAccount]
    managed_budgets: Informer[Manifest]
    optional: frozenset[str]

    @classmethod
    async def create(cls, client: Client, settings: Settings) -> Informers:
        """Informers for everything; asks the server which custom resources it serves. Raises ApiError."""
        managed = f"{names.GATEWAY_MANAGED}={MANAGED}"
        served = await _served(client)
        return cls(
            namespaces=Informer(client, res.NAMESPACES),
            nodes=Informer(client, res.NODES),
            pods=Informer(client, res.PODS),
            services=Informer(client, res.SERVICES),
            endpoint_slices=Informer(client, res.ENDPOINT_SLICES),
            gateway_classes=Informer(client, res.GATEWAY_CLASSES),
            gateways=Informer(client, res.GATEWAYS),
            authorization_policies=Informer(client, res.AUTHORIZATION_POLICIES),
            peer_authentications=Informer(client, res.PEER_AUTHENTICATIONS),
            request_authentications=Informer(client, res.REQUEST_AUTHENTICATIONS),
            service_entries=Informer(client, res.SERVICE_ENTRIES),
            workload_entries=Informer(client, res.WORKLOAD_ENTRIES),
            mesh_config=Informer(
                client, res.CONFIG_MAPS, settings.namespace, field_selector=f"metadata.name={settings.mesh_config}"
            ),
            managed_deployments=Informer(client, res.DEPLOYMENTS, label_selector=managed),
            managed_accounts=Informer(client, res.SERVICE_ACCOUNTS, label_selector=managed),
            managed_budgets=Informer(client, res.POD_DISRUPTION_BUDGETS, label_selector=managed),
            optional=frozenset(one.plural for one in _OPTIONAL if one.plural not in served),
        )

    def __iter__(self) -> Iterator[Informer[Any]]:
        values = (getattr(self, field.name) for field in fields(self))
        return (value for value in values if isinstance(value, Informer))

    async def run(self) -> None:
        """Follow everything until cancelled."""
        async with asyncio.TaskGroup() as group:
            for informer in self:
                group.create_task(informer.run())

    async def synced(self) -> None:
        """Wait until the first list of everything that is served is there."""
        await asyncio.gather(*(one.synced() for one in self if one.resource.plural not in self.optional))


class _ApiResource(msgspec.Struct):
    name: str = ""


class _ResourceList(msgspec.Struct):
    resources: tuple[_ApiResource, ...] = ()


_OPTIONAL: tuple[Resource[Any], ...] = (
    res.SERVICE_ENTRIES,
    res.WORKLOAD_ENTRIES,
    res.GATEWAYS,
    res.GATEWAY_CLASSES,
)


async def _served(client: Client) -> frozenset[str]:
    """The plural names that the server offers in the groups of the optional resources."""
    found: set[str] = set()
    for group_version in {one.api_version for one in _OPTIONAL}:
        try:
            listed = await client.raw("GET", f"/apis/{group_version}")
        except NotFound:
            continue
        found.update(one.name for one in msgspec.json.decode(listed, type=_ResourceList).resources)
    return frozenset(found)
