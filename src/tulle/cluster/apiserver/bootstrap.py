"""What every cluster has from the start: namespaces, the `kubernetes` Service and its endpoints, and the default roles.

Run at each start; what exists is left as it is, except that the default roles are brought up to what they should be and
the endpoints follow the address that this server is reached at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tulle.cluster.apiserver import errors
from tulle.cluster.apiserver.auth.bootstrap import cluster_role_bindings, cluster_roles, roles
from tulle.cluster.apiserver.kinds import Kind
from tulle.cluster.apiserver.registry import Registry
from tulle.cluster.apiserver.rest.call import Options
from tulle.cluster.apiserver.rest.writer import Writer, key_of
from tulle.cluster.store import Store

Object = dict[str, Any]
NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
SERVICE_ADDRESS = "10.96.0.1"
_RBAC = "rbac.authorization.k8s.io"
_PROVIDER = {"component": "apiserver", "provider": "kubernetes"}


class Bootstrap:
    """Fills an empty cluster."""

    def __init__(self, store: Store, registry: Registry, writer: Writer) -> None:
        self._store = store
        self._registry = registry
        self._writer = writer

    def _kind(self, group: str, version: str, plural: str) -> Kind:
        kind = self._registry.find(group, version, plural)
        if kind is None:
            raise errors.no_such_path()
        return kind

    async def run(self, endpoint: tuple[str, int]) -> None:
        """Make what is missing; `endpoint` is the address and port behind the `kubernetes` Service."""
        # One wave each: the log commits what is written at the same time in one go.
        namespaces = self._kind("", "v1", "namespaces")
        await asyncio.gather(*(self._ensure(namespaces, "", {"metadata": {"name": name}}) for name in NAMESPACES))
        cluster = [("clusterroles", "", obj) for obj in cluster_roles()]
        cluster += [("clusterrolebindings", "", obj) for obj in cluster_role_bindings()]
        namespaced = [("roles", namespace, obj) for namespace, obj in roles()]
        wanted = [(self._kind(_RBAC, "v1", plural), namespace, obj) for plural, namespace, obj in cluster + namespaced]
        await asyncio.gather(
            self._kubernetes_service(*endpoint),
            *(self._ensure(kind, namespace, obj, _same_rules(obj)) for kind, namespace, obj in wanted),
        )

    async def _kubernetes_service(self, address: str, port: int) -> None:
        port_spec = {"name": "https", "port": 443, "protocol": "TCP", "targetPort": port}
        service: Object = {
            "metadata": {"name": "kubernetes", "labels": dict(_PROVIDER)},
            "spec": {"clusterIP": SERVICE_ADDRESS, "type": "ClusterIP", "ports": [port_spec]},
        }

        def follow_port(old: Object) -> Object:
            old["spec"]["ports"] = [port_spec]
            return old

        await self._ensure(self._kind("", "v1", "services"), "default", service, follow_port)
        endpoint_slice: Object = {
            "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        }

        def follow_address(old: Object) -> Object:
            return {**old, "endpoints": endpoint_slice["endpoints"], "ports": endpoint_slice["ports"]}

        kind = self._kind("discovery.k8s.io", "v1", "endpointslices")
        await self._ensure(kind, "default", endpoint_slice, follow_address)

    async def _ensure(
        self, kind: Kind, namespace: str, obj: Object, bring_up: Callable[[Object], Object] | None = None
    ) -> None:
        name = obj["metadata"]["name"]
        if self._store.get(key_of(kind, namespace, name)) is None:
            await self._writer.create(kind, namespace, obj, Options(manager="kube-apiserver"))
        elif bring_up is not None:
            await self._writer.change(kind, namespace, name, bring_up, Options(manager="kube-apiserver"))


def _same_rules(wanted: Object) -> Callable[[Object], Object]:
    """Default roles gain what they lack; what an administrator added stays, and autoupdate=false is respected."""

    def change(old: Object) -> Object:
        annotations = old["metadata"].get("annotations") or {}
        if annotations.get("rbac.authorization.kubernetes.io/autoupdate") != "true":
            return old
        for field in ("rules", "subjects"):
            missing = [item for item in wanted.get(field) or () if item not in (old.get(field) or ())]
            if missing:
                old[field] = [*(old.get(field) or ()), *missing]
        return old

    return change
