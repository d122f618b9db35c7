"""The waypoint controller and the status writer against a real API server."""

from __future__ import annotations

import asyncio
from typing import Any

from tulle.istiod.app import Istiod
from tulle.kube.client import Client
from tulle.kube.errors import NotFound
from tulle.kube.objects import Condition, Deployment, Gateway, Service
from tulle.kube.resources import (
    AUTHORIZATION_POLICIES,
    CONFIG_MAPS,
    DEPLOYMENTS,
    GATEWAY_CLASSES,
    GATEWAYS,
    LEASES,
    NAMESPACES,
    POD_DISRUPTION_BUDGETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    Resource,
)

from .conftest import RunIstiod, eventually

MESH = {"name": "mesh", "port": 15008, "protocol": "HBONE"}


def gateway(namespace: str, *listeners: dict[str, Any]) -> dict[str, Any]:
    spec = {"gatewayClassName": "istio-waypoint", "listeners": list(listeners or (MESH,))}
    return {"metadata": {"name": "waypoint", "namespace": namespace}, "spec": spec}


async def present(client: Client, resource: Resource[Any], name: str, namespace: str | None = None) -> Any:
    async def look() -> Any:
        try:
            return await client.get(resource, name, namespace)
        except NotFound:
            return None

    return await eventually(look, f"{resource.kind} {namespace}/{name}")


async def condition(client: Client, resource: Resource[Any], key: tuple[str, str], type_: str, reason: str) -> Any:
    """Wait until an object has a condition with a reason; returns it."""

    async def look() -> Any:
        obj = await client.get(resource, key[1], key[0])
        if isinstance(obj, dict):
            found = obj.get("status", {}).get("conditions", [])
            return next((one for one in found if (one["type"], one["reason"]) == (type_, reason)), None)
        return next((one for one in obj.status.conditions if (one.type, one.reason) == (type_, reason)), None)

    return await eventually(look, f"{key} {type_} {reason}")


async def make_ready(client: Client, namespace: str, ready: int = 1) -> None:
    """Play the Deployment controller."""
    await present(client, DEPLOYMENTS, "waypoint", namespace)
    status = {"status": {"replicas": 1, "readyReplicas": ready}}
    await client.patch(DEPLOYMENTS, "waypoint", status, namespace, subresource="status")


async def test_class_is_created_and_accepted(client: Client, run_istiod: RunIstiod) -> None:
    async with run_istiod():
        found = await present(client, GATEWAY_CLASSES, "istio-waypoint")
        assert found.spec.controller_name == "istio.io/mesh-controller"
        await condition(client, GATEWAY_CLASSES, ("", "istio-waypoint"), "Accepted", "Accepted")


async def test_waypoint_from_gateway_to_address(client: Client, namespace: str, run_istiod: RunIstiod) -> None:
    async with run_istiod():
        await client.create(GATEWAYS, gateway(namespace))
        pending: Condition = await condition(
            client, GATEWAYS, (namespace, "waypoint"), "Programmed", "AddressNotAssigned"
        )
        assert pending.status == "False"
        created = await client.get(GATEWAYS, "waypoint", namespace)
        for resource in (SERVICE_ACCOUNTS, DEPLOYMENTS, SERVICES, POD_DISRUPTION_BUDGETS):
            obj = await present(client, resource, "waypoint", namespace)
            meta = obj["metadata"] if isinstance(obj, dict) else None
            owner = meta["ownerReferences"][0]["uid"] if meta else obj.metadata.owner_references[0].uid
            assert owner == created.metadata.uid
        deployment: Deployment = await client.get(DEPLOYMENTS, "waypoint", namespace)
        labels = deployment.spec.template["metadata"]["labels"]
        assert labels["gateway.networking.k8s.io/gateway-name"] == "waypoint"
        assert labels["gateway.istio.io/managed"] == "istio.io-mesh-controller"
        assert labels["istio.io/dataplane-mode"] == "none"
        assert labels["sidecar.istio.io/inject"] == "false"
        service: Service = await client.get(SERVICES, "waypoint", namespace)
        assert [(port.name, port.port) for port in service.spec.ports] == [("status-port", 15021), ("mesh", 15008)]
        assert service.spec.traffic_distribution == "PreferClose"
        await make_ready(client, namespace)
        await condition(client, GATEWAYS, (namespace, "waypoint"), "Programmed", "Programmed")
        programmed: Gateway = await client.get(GATEWAYS, "waypoint", namespace)
        assert [(one.type, one.value) for one in programmed.status.addresses] == [
            ("IPAddress", service.spec.cluster_ip),
            ("Hostname", f"waypoint.{namespace}.svc.cluster.local"),
        ]


async def test_addresses_outlive_the_last_pod(client: Client, namespace: str, run_istiod: RunIstiod) -> None:
    async with run_istiod():
        await client.create(GATEWAYS, gateway(namespace))
        await make_ready(client, namespace)
        await condition(client, GATEWAYS, (namespace, "waypoint"), "Programmed", "Programmed")
        await make_ready(client, namespace, 0)
        await client.patch(GATEWAYS, "waypoint", {"metadata": {"labels": {"seen": "yes"}}}, namespace)
        await _settle(client, namespace)
        assert (await client.get(GATEWAYS, "waypoint", namespace)).status.addresses


async def _settle(client: Client, namespace: str) -> None:
    """Wait until nothing in a namespace changes any more: two looks in a row see the same versions."""

    async def versions() -> list[str]:
        found = []
        for resource in (GATEWAYS, SERVICE_ACCOUNTS, DEPLOYMENTS, SERVICES):
            found += [one.metadata.resource_version for one in (await client.list(resource, namespace)).items]
        return found

    before: list[str] = []
    while before != (before := await versions()):
        await asyncio.sleep(0.3)


async def test_drift_and_deletion_are_repaired_without_a_loop(
    client: Client, namespace: str, run_istiod: RunIstiod
) -> None:
    async with run_istiod():
        await client.create(GATEWAYS, gateway(namespace))
        await make_ready(client, namespace)
        await condition(client, GATEWAYS, (namespace, "waypoint"), "Programmed", "Programmed")
        edited = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "other:1"}]
        await client.patch(DEPLOYMENTS, "waypoint", edited, namespace, kind="json")

        async def repaired() -> bool:
            found = await client.get(DEPLOYMENTS, "waypoint", namespace)
            return bool(found.spec.template["spec"]["containers"][0]["image"] == "tulle/tulle:test")

        await eventually(repaired, "the image is back")
        old = await client.get(SERVICES, "waypoint", namespace)
        await client.delete(SERVICES, "waypoint", namespace)

        async def recreated() -> bool:
            return bool((await present(client, SERVICES, "waypoint", namespace)).metadata.uid != old.metadata.uid)

        await eventually(recreated, "the Service is back")
        await _settle(client, namespace)
        deployment = await client.get(DEPLOYMENTS, "waypoint", namespace)
        assert deployment.metadata.generation == 3, "made, edited, repaired; nothing more"


async def test_objects_of_others_with_the_gateways_name_are_left_alone(
    client: Client, namespace: str, run_istiod: RunIstiod
) -> None:
    """As in Istio; an owner reference would even have them deleted together with the Gateway."""
    meta = {"name": "waypoint", "namespace": namespace}
    ports = [{"name": "http", "port": 80}]
    await client.create(SERVICE_ACCOUNTS, {"metadata": meta})
    await client.create(SERVICES, {"metadata": meta, "spec": {"selector": {"app": "theirs"}, "ports": ports}})
    key = (namespace, "waypoint")
    async with run_istiod():
        await client.create(GATEWAYS, gateway(namespace))
        await make_ready(client, namespace)
        found = await condition(client, GATEWAYS, key, "Programmed", "AddressNotUsable")
        assert found.status == "False"
        assert f"Service {namespace}/waypoint exists and is not the waypoint's" in found.message
        await _settle(client, namespace)
        service: Service = await client.get(SERVICES, "waypoint", namespace)
        account = await client.get(SERVICE_ACCOUNTS, "waypoint", namespace)
        assert service.spec.selector == {"app": "theirs"}
        assert [port.port for port in service.spec.ports] == [80]
        assert (service.metadata.owner_references, account.metadata.owner_references) == ((), ())
        await client.delete(SERVICES, "waypoint", namespace)
        await condition(client, GATEWAYS, key, "Programmed", "Programmed")
        assert not (await client.get(SERVICE_ACCOUNTS, "waypoint", namespace)).metadata.owner_references


async def test_replicas_belong_to_whoever_scales(client: Client, namespace: str, run_istiod: RunIstiod) -> None:
    async with run_istiod():
        await client.create(GATEWAYS, gateway(namespace))
        await present(client, DEPLOYMENTS, "waypoint", namespace)
        await client.patch(DEPLOYMENTS, "waypoint", {"spec": {"replicas": 3}}, namespace)
        await _settle(client, namespace)
        assert (await client.get(DEPLOYMENTS, "waypoint", namespace)).spec.replicas == 3


async def test_unsupported_listener_is_named(client: Client, namespace: str, run_istiod: RunIstiod) -> None:
    async with run_istiod():
        await client.create(GATEWAYS, gateway(namespace, {"name": "web", "port": 80, "protocol": "HTTP"}))
        await condition(client, GATEWAYS, (namespace, "waypoint"), "Accepted", "ListenersNotValid")
        found: Gateway = await client.get(GATEWAYS, "waypoint", namespace)
        accepted = next(one for one in found.status.listeners[0].conditions if one.type == "Accepted")
        assert (accepted.status, accepted.reason) == ("False", "UnsupportedProtocol")
        assert "HTTP" in accepted.message


async def test_gateways_of_other_classes_are_left_alone(client: Client, namespace: str, run_istiod: RunIstiod) -> None:
    async with run_istiod():
        other = gateway(namespace)
        other["spec"]["gatewayClassName"] = "someone-elses"
        await client.create(GATEWAYS, other)
        await client.create(GATEWAYS, {**gateway(namespace), "metadata": {"name": "mine", "namespace": namespace}})
        await present(client, DEPLOYMENTS, "mine", namespace)
        await _settle(client, namespace)
        assert {one.metadata.name for one in (await client.list(DEPLOYMENTS, namespace)).items} == {"mine"}


async def bound_service(client: Client, namespace: str) -> None:
    port = {"name": "http", "port": 80}
    labels = {"istio.io/use-waypoint": "waypoint"}
    metadata = {"name": "s", "namespace": namespace, "labels": labels}
    await client.create(SERVICES, {"metadata": metadata, "spec": {"selector": {"app": "s"}, "ports": [port]}})


async def test_waypoint_bound_follows_the_waypoint_and_the_label(
    client: Client, namespace: str, run_istiod: RunIstiod
) -> None:
    key = (namespace, "s")
    async with run_istiod():
        await bound_service(client, namespace)
        missing = await condition(client, SERVICES, key, "istio.io/WaypointBound", "WaypointIsNotReady")
        assert missing.status == "False"
        await client.create(GATEWAYS, gateway(namespace))
        await make_ready(client, namespace)
        bound = await condition(client, SERVICES, key, "istio.io/WaypointBound", "WaypointAccepted")
        assert bound.message.startswith(f"Successfully attached to waypoint {namespace}/waypoint")
        await client.patch(SERVICES, "s", {"metadata": {"labels": {"istio.io/use-waypoint": None}}}, namespace)

        async def removed() -> bool:
            return not (await client.get(SERVICES, "s", namespace)).status.conditions

        await eventually(removed, "no condition without a label")
        managers = await client.raw("GET", SERVICES.path(namespace, "s"))
        assert b"istio-ambient-service" not in managers or b"WaypointBound" not in managers


def policy(namespace: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p", "namespace": namespace}, "spec": spec}


GET = [
    {
        "from": [{"source": {"principals": ["cluster.local/ns/x/sa/default"]}}],
        "to": [{"operation": {"methods": ["GET"]}}],
    }
]


async def test_a_policy_for_a_class_follows_the_class_also_without_any_gateway(
    client: Client, namespace: str, run_istiod: RunIstiod
) -> None:
    name = f"late-{namespace}"
    async with run_istiod():
        ref = {"group": "gateway.networking.k8s.io", "kind": "GatewayClass", "name": name}
        await client.create(AUTHORIZATION_POLICIES, policy("istio-system", targetRefs=[ref], rules=GET))
        key = ("istio-system", "p")
        await condition(client, AUTHORIZATION_POLICIES, key, "WaypointAccepted", "TargetNotFound")
        await client.create(
            GATEWAY_CLASSES, {"metadata": {"name": name}, "spec": {"controllerName": "istio.io/mesh-controller"}}
        )
        await condition(client, AUTHORIZATION_POLICIES, key, "WaypointAccepted", "Accepted")
        await client.delete(GATEWAY_CLASSES, name)
        await condition(client, AUTHORIZATION_POLICIES, key, "WaypointAccepted", "TargetNotFound")
        await client.delete(AUTHORIZATION_POLICIES, "p", "istio-system")


async def test_policy_conditions(client: Client, namespace: str, run_istiod: RunIstiod) -> None:
    key = (namespace, "p")
    async with run_istiod():
        selecting = policy(namespace, selector={"matchLabels": {"app": "s"}}, rules=GET)
        await client.create(AUTHORIZATION_POLICIES, selecting)
        found = await condition(client, AUTHORIZATION_POLICIES, key, "ZtunnelAccepted", "UnsupportedValue")
        assert found["status"] == "True"
        assert "methods" in found["message"]
        assert found["observedGeneration"] == 1
        targeting = policy(namespace, targetRefs=[{"group": "", "kind": "Service", "name": "s"}], rules=GET)
        targeting["spec"]["selector"] = None
        await client.patch(AUTHORIZATION_POLICIES, "p", targeting, namespace)
        await condition(client, AUTHORIZATION_POLICIES, key, "WaypointAccepted", "TargetNotFound")
        conditions = (await client.get(AUTHORIZATION_POLICIES, "p", namespace))["status"]["conditions"]
        await bound_service(client, namespace)
        await condition(client, AUTHORIZATION_POLICIES, key, "WaypointAccepted", "AncestorNotBound")
        await client.create(GATEWAYS, gateway(namespace))
        await make_ready(client, namespace)
        await condition(client, AUTHORIZATION_POLICIES, key, "WaypointAccepted", "Accepted")

        async def only_one() -> bool:
            status = (await client.get(AUTHORIZATION_POLICIES, "p", namespace))["status"]
            return [one["type"] for one in status["conditions"]] == ["WaypointAccepted"]

        await eventually(only_one, f"the other condition is gone from {conditions}")


async def test_mesh_configuration_takes_effect_live(client: Client, namespace: str, run_istiod: RunIstiod) -> None:
    """`istio.io/waypoint=enabled` means nothing, then something, then nothing again."""
    home = f"{namespace}-mesh"
    async with run_istiod(home):
        await client.patch(NAMESPACES, namespace, {"metadata": {"labels": {"istio.io/waypoint": "enabled"}}})
        port = {"name": "http", "port": 80}
        metadata = {"name": "s", "namespace": namespace}
        await client.create(SERVICES, {"metadata": metadata, "spec": {"ports": [port]}})
        await client.create(GATEWAYS, gateway(namespace))
        await make_ready(client, namespace)
        await condition(client, GATEWAYS, (namespace, "waypoint"), "Programmed", "Programmed")
        assert not (await client.get(SERVICES, "s", namespace)).status.conditions
        config = {
            "metadata": {"name": "istio", "namespace": home},
            "data": {"mesh": "tulle: {waypointLabelAlias: true}"},
        }
        await client.create(CONFIG_MAPS, config)
        bound = await condition(client, SERVICES, (namespace, "s"), "istio.io/WaypointBound", "WaypointAccepted")
        assert "waypointLabelAlias" in bound.message
        broken = {"data": {"mesh": "tulle: {waypointLabelAlias: perhaps}"}}
        await client.patch(CONFIG_MAPS, "istio", broken, home)
        await asyncio.sleep(0.3)
        assert (await client.get(SERVICES, "s", namespace)).status.conditions, "a broken configuration changes nothing"
        await client.patch(CONFIG_MAPS, "istio", {"data": {"mesh": "{}"}}, home)

        async def unbound() -> bool:
            return not (await client.get(SERVICES, "s", namespace)).status.conditions

        await eventually(unbound, "the alias is off")


async def test_leadership_passes_on(client: Client, namespace: str, run_istiod: RunIstiod) -> None:
    home = f"{namespace}-leader"

    async def holder() -> str:
        return str((await present(client, LEASES, "istiod-leader", home)).spec.holder_identity)

    async with run_istiod(home, "second") as second:
        first: Istiod
        async with run_istiod(home, "first") as first:
            await eventually(holder, "somebody leads")
            assert await holder() == "second"
            assert first.ready.is_set(), "who does not lead serves all the same"
        assert second.ready.is_set()
    assert await holder() == "", "the Lease is given back at the end"
