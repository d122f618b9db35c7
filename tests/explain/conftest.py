"""An API server with the small mesh in it, as controllers and agents would have left it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.support.api_server import api_server
from tulle.cli.explain.world import World
from tulle.kube import resources as res
from tulle.kube.client import Client
from tulle.kube.errors import AlreadyExists

from .scenes import ENROLLED, STRICT, TEST, rule, scene, selecting

_KINDS = {
    one.kind: one
    for one in (
        res.NAMESPACES,
        res.PODS,
        res.SERVICES,
        res.ENDPOINT_SLICES,
        res.GATEWAY_CLASSES,
        res.GATEWAYS,
        res.AUTHORIZATION_POLICIES,
        res.PEER_AUTHENTICATIONS,
        res.CONFIG_MAPS,
    )
}
_CONFIG = "{kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: 'tulle: {liftSelectorPolicies: true}'}}"
_WAYPOINT_POD = """
kind: Pod
metadata:
  name: waypoint-0
  namespace: hello
  labels: {gateway.networking.k8s.io/gateway-name: waypoint, istio.io/dataplane-mode: none}
spec: {serviceAccountName: waypoint, containers: [{name: proxy}]}
"""


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    world = scene(_CONFIG, ENROLLED, _WAYPOINT_POD, STRICT, selecting("v2", rule(principals=[TEST], methods=["GET"])))
    with api_server(tmp_path_factory.mktemp("tk-explain"), lambda client: _fill(client, world)) as made:
        yield made


async def _fill(client: Client, world: World) -> None:
    documents = sorted(world.objects.values(), key=lambda one: one.key.kind != "Namespace")
    accounts = {(one.key.namespace, _account(one.manifest)) for one in documents if one.key.kind == "Pod"}
    for document in documents:
        if document.key.kind in _KINDS and document.key.kind != "Pod":
            await _put(client, document.manifest, document.key.namespace)
    for namespace, name in accounts:
        await _put(client, {"kind": "ServiceAccount", "metadata": {"name": name}}, namespace)
    for document in documents:
        if document.key.kind == "Pod":
            await _put(client, document.manifest, document.key.namespace)


def _account(manifest: Mapping[str, Any]) -> str:
    return str(manifest["spec"].get("serviceAccountName") or "default")


async def _put(client: Client, manifest: Mapping[str, Any], namespace: str) -> None:
    kind = manifest["kind"]
    known = res.SERVICE_ACCOUNTS if kind == "ServiceAccount" else _KINDS[kind]
    plain = res.untyped(known.group, known.version, known.plural, known.kind, known.namespaced)
    body = {key: value for key, value in manifest.items() if key != "status"}
    if kind == "Service":
        body["spec"] = {key: value for key, value in manifest["spec"].items() if not key.startswith("clusterIP")}
    if kind == "Pod":
        containers = [{"image": "example/app", **one} for one in manifest["spec"]["containers"]]
        body["spec"] = {**manifest["spec"], "containers": containers}
        body["metadata"] = {key: value for key, value in manifest["metadata"].items() if key != "ownerReferences"}
    try:
        await client.create(plain, body, namespace or None)
    except AlreadyExists:
        await client.patch(plain, manifest["metadata"]["name"], {"metadata": manifest["metadata"]}, namespace or None)
    if manifest.get("status"):
        status = {"status": manifest["status"]}
        await client.patch(plain, manifest["metadata"]["name"], status, namespace or None, subresource="status")
