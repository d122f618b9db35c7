"""The Kubernetes objects that a node proxy's life depends on, made as a cluster's own parts would make them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from tests.wire.stock_ztunnel import Proxy
from tulle.kube.client import Client
from tulle.kube.errors import NotFound
from tulle.kube.resources import (
    AUTHORIZATION_POLICIES,
    CONFIG_MAPS,
    ENDPOINT_SLICES,
    NAMESPACES,
    NODES,
    PODS,
    SERVICE_ACCOUNTS,
    SERVICES,
)

ACCOUNTS = (("istio-system", "ztunnel"), ("shop", "cart"), ("shop", "far"), ("shop", "absent"))
AUDIENCE = "istio-ca"
SHOP = "shop"


class Cluster:
    """What tests make in the cluster; `clean` takes back what came after `found`."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._made: list[tuple[Any, str]] = []

    async def found(self) -> None:
        """Two nodes, a ztunnel pod on each, and the accounts."""
        for name in ("istio-system", SHOP):
            await self.client.create(NAMESPACES, {"metadata": {"name": name}})
        for namespace, name in ACCOUNTS:
            await self.client.create(SERVICE_ACCOUNTS, {"metadata": {"name": name, "namespace": namespace}})
        for node in ("n1", "n2"):
            await self.client.create(NODES, {"metadata": {"name": node}})
            await self._pod("istio-system", f"ztunnel-{node}", "ztunnel", node, f"10.1.9.{node[1]}", captured=False)
        await self._pod(SHOP, "cart-0", "cart", "n1", "10.1.0.4")
        await self._pod(SHOP, "far-0", "far", "n2", "10.1.0.5")
        ports = [{"name": "http", "port": 80, "targetPort": 8080}]
        service = {"metadata": {"name": "cart", "namespace": SHOP}, "spec": {"clusterIP": "10.96.7.7", "ports": ports}}
        await self.client.create(SERVICES, service)
        endpoint = {"addresses": ["10.1.0.4"], "targetRef": {"kind": "Pod", "name": "cart-0", "namespace": SHOP}}
        endpoint_slice = {
            "metadata": {"name": "cart-a", "namespace": SHOP, "labels": {"kubernetes.io/service-name": "cart"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [endpoint],
        }
        await self.client.create(ENDPOINT_SLICES, endpoint_slice)

    async def _pod(
        self, namespace: str, name: str, account: str, node: str, address: str, *, captured: bool = True
    ) -> None:
        annotations = {"ambient.istio.io/redirection": "enabled"} if captured else {}
        body = {
            "metadata": {"name": name, "namespace": namespace, "annotations": annotations, "labels": {"app": account}},
            "spec": {
                "nodeName": node,
                "serviceAccountName": account,
                "containers": [{"name": "main", "image": "example.com/main"}],
            },
        }
        await self.client.create(PODS, body)
        ready = [{"type": "Ready", "status": "True"}]
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": ready}
        await self.client.patch(PODS, name, {"status": status}, namespace, subresource="status")

    async def pod(self, name: str, address: str, account: str = "cart", node: str = "n1") -> None:
        """A captured pod of namespace shop."""
        self._made.append((PODS, name))
        await self._pod(SHOP, name, account, node, address)

    async def remove_pod(self, name: str) -> None:
        await self.client.delete(PODS, name, SHOP, grace_period=0)

    async def policy(self, name: str, spec: dict[str, Any]) -> None:
        self._made.append((AUTHORIZATION_POLICIES, name))
        await self.client.create(AUTHORIZATION_POLICIES, {"metadata": {"name": name, "namespace": SHOP}, "spec": spec})

    async def clean(self) -> None:
        for resource, name in self._made:
            with suppress(NotFound):
                await self.client.delete(resource, name, SHOP, **({"grace_period": 0} if resource is PODS else {}))

    async def root(self) -> bytes:
        """The mesh's root certificate, where pods get it."""
        while True:
            with suppress(NotFound):
                found = await self.client.get(CONFIG_MAPS, "istio-ca-root-cert", "istio-system")
                return found.data["root-cert.pem"].encode()
            await asyncio.sleep(0.05)

    async def token(
        self, account: str, namespace: str = "istio-system", pod: str = "", audience: str = AUDIENCE
    ) -> str:
        """A service account token as a pod gets it by projection."""
        spec: dict[str, Any] = {"audiences": [audience], "expirationSeconds": 3600}
        if pod:
            uid = (await self.client.get(PODS, pod, namespace)).metadata.uid
            spec["boundObjectRef"] = {"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": uid}
        answer = await self.client.post(SERVICE_ACCOUNTS, account, "token", {"spec": spec}, namespace)
        return str(answer["status"]["token"])

    async def ztunnel(self, node: str = "n1") -> Proxy:
        """The ztunnel of a node with its token."""
        return Proxy(f"ztunnel-{node}", node, await self.token("ztunnel", pod=f"ztunnel-{node}"))
