"""The validating webhook: pure reviews, and kubectl's way through a real API server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tulle.istiod.admission_review import ReviewError, review
from tulle.istiod.app import Istiod
from tulle.istiod.index.mesh import MeshIndex
from tulle.kube.client import Client
from tulle.kube.errors import ApiError
from tulle.kube.resources import (
    AUTHORIZATION_POLICIES,
    ENDPOINT_SLICES,
    SERVICES,
    VALIDATING_WEBHOOKS,
)
from tulle.security.mesh import MeshSettings

from .conftest import RunIstiod, eventually
from .test_mesh_index import lesson, pod

ALLOW_GET = {
    "from": [{"source": {"principals": ["cluster.local/ns/test/sa/default"]}}],
    "to": [{"operation": {"methods": ["GET"]}}],
}
BY_NAMESPACE = {"from": [{"source": {"namespaces": ["test"]}}], "to": [{"operation": {"methods": ["GET"]}}]}


def request(
    spec: Any, kind: str = "AuthorizationPolicy", plural: str = "authorizationpolicies", **more: Any
) -> dict[str, Any]:
    body = {
        "uid": "u-1",
        "kind": {"group": "security.istio.io", "version": "v1", "kind": kind},
        "resource": {"group": "security.istio.io", "version": "v1", "resource": plural},
        "operation": "CREATE",
        "namespace": "hello",
        "name": "p",
        "object": {"apiVersion": "security.istio.io/v1", "kind": kind, "metadata": {"name": "p"}, "spec": spec},
    }
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {**body, **more}}


def answer(index: MeshIndex, *arguments: Any, **more: Any) -> dict[str, Any]:
    found = review(request(*arguments, **more), index)
    assert (found["apiVersion"], found["kind"], found["response"]["uid"]) == (
        "admission.k8s.io/v1",
        "AdmissionReview",
        "u-1",
    )
    response: dict[str, Any] = found["response"]
    return response


def test_good_policy_without_a_word() -> None:
    rule = {"from": [{"source": {"principals": ["cluster.local/ns/test/sa/default"]}}]}
    assert answer(MeshIndex(), {"rules": [rule]}) == {"uid": "u-1", "allowed": True}


def test_refusal_names_object_and_fields() -> None:
    response = answer(MeshIndex(), {"action": "DENY", "rules": [{"from": []}]})
    assert not response["allowed"]
    status = response["status"]
    assert (status["code"], status["reason"]) == (422, "Invalid")
    assert status["message"].startswith('AuthorizationPolicy.security.istio.io "p" is invalid: spec.rules[0].from: ')
    assert [cause["field"] for cause in status["details"]["causes"]] == ["spec.rules[0].from"]
    assert not status["details"]["causes"][0]["message"].startswith("spec.")


@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_both_served_versions(version: str) -> None:
    resource = {"group": "security.istio.io", "version": version, "resource": "authorizationpolicies"}
    assert not answer(MeshIndex(), {"action": "DENY"}, resource=resource)["allowed"]


def test_peer_authentication_and_request_authentication() -> None:
    ports = {"portLevelMtls": {"8080": {"mode": "STRICT"}}}
    refused = answer(MeshIndex(), ports, "PeerAuthentication", "peerauthentications")
    assert not refused["allowed"]
    refused = answer(MeshIndex(), {"jwtRules": [{}]}, "RequestAuthentication", "requestauthentications")
    assert not refused["allowed"]
    accepted = answer(MeshIndex(), {"mtls": {"mode": "STRICT"}}, "PeerAuthentication", "peerauthentications")
    assert accepted["allowed"]


def test_deletion_and_foreign_resources_pass() -> None:
    assert answer(MeshIndex(), None, operation="DELETE", object=None)["allowed"]
    assert answer(MeshIndex(), {}, "Telemetry", "telemetries")["allowed"]


@pytest.mark.parametrize("body", [None, [], {}, {"request": {}}, {"request": {"uid": 1}}])
def test_what_is_no_review(body: Any) -> None:
    with pytest.raises(ReviewError):
        review(body, MeshIndex())


SELECTOR = {"matchLabels": {"app": "x"}}


def test_warning_when_a_selector_policy_denies_everything() -> None:
    """Upstream's semantics: HTTP fields in a selector policy, no waypoint that could enforce them."""
    response = answer(MeshIndex(MeshSettings()), {"selector": SELECTOR, "rules": [ALLOW_GET]})
    assert response["allowed"]
    assert "denies all traffic" in response["warnings"][0]
    assert "methods" in response["warnings"][0]


def test_no_warning_when_the_waypoint_will_enforce_it() -> None:
    assert "warnings" not in answer(lesson(), {"selector": SELECTOR, "rules": [ALLOW_GET]})
    warned = answer(lesson(), {"selector": SELECTOR, "rules": [BY_NAMESPACE]})
    assert "denies all traffic" in warned["warnings"][0]


def test_warning_for_a_target_that_is_not_bound() -> None:
    refs = [{"group": "", "kind": "Service", "name": "nowhere"}]
    response = answer(lesson(), {"targetRefs": refs, "rules": [ALLOW_GET]})
    assert "was not found" in response["warnings"][0]
    refs = [{"group": "", "kind": "Service", "name": "s"}]
    assert "warnings" not in answer(lesson(), {"targetRefs": refs, "rules": [ALLOW_GET]})


def test_warning_when_an_allow_leaves_out_the_waypoint() -> None:
    index = lesson()
    index.apply([pod()])
    index.settings = MeshSettings(waypoint_label_alias=True)
    rule = {"from": [{"source": {"principals": ["cluster.local/ns/test/sa/default"]}}]}
    (warning,) = answer(index, {"selector": SELECTOR, "rules": [rule]})["warnings"]
    assert "cluster.local/ns/hello/sa/waypoint" in warning


# --- through the API server


async def install(client: Client, home: str, istiod: Istiod) -> None:
    """The Service, its endpoint and the configuration that the manifests would bring; the bundle is istiod's to fill."""
    port = {"name": "https-webhook", "port": 443, "targetPort": istiod.ports["webhook"]}
    await client.create(SERVICES, {"metadata": {"name": "istiod", "namespace": home}, "spec": {"ports": [port]}})
    endpoints = {
        "metadata": {"name": "istiod-1", "namespace": home, "labels": {"kubernetes.io/service-name": "istiod"}},
        "addressType": "IPv4",
        "ports": [{"name": "https-webhook", "port": istiod.ports["webhook"], "protocol": "TCP"}],
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
    }
    await client.create(ENDPOINT_SLICES, endpoints)
    webhook = {
        "name": "validation.istio.io",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "failurePolicy": "Fail",
        "clientConfig": {"service": {"name": "istiod", "namespace": home, "path": "/validate", "port": 443}},
        "rules": [
            {
                "apiGroups": ["security.istio.io"],
                "apiVersions": ["*"],
                "operations": ["CREATE", "UPDATE"],
                "resources": ["*"],
            }
        ],
    }
    await client.create(VALIDATING_WEBHOOKS, {"metadata": {"name": "istiod-default-validator"}, "webhooks": [webhook]})


async def bundle(client: Client) -> str:
    found = await client.get(VALIDATING_WEBHOOKS, "istiod-default-validator")
    return str(found["webhooks"][0]["clientConfig"].get("caBundle", ""))


async def test_the_api_server_asks_and_is_answered(client: Client, namespace: str, run_istiod: RunIstiod) -> None:
    home = f"{namespace}-webhook"
    async with run_istiod(home) as istiod:
        await install(client, home, istiod)
        try:
            good = await eventually(lambda: bundle(client), "the bundle is written")
            await client.patch(
                VALIDATING_WEBHOOKS,
                "istiod-default-validator",
                [{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}],
                kind="json",
            )
            assert await eventually(lambda: bundle(client), "the bundle is written again") == good
            policy = {"metadata": {"name": "p", "namespace": namespace}, "spec": {"action": "DENY"}}
            async with asyncio.timeout(60):
                with pytest.raises(ApiError) as refused:
                    await client.create(AUTHORIZATION_POLICIES, policy)
            assert "spec.rules" in str(refused.value)
            policy["spec"] = {"rules": [{}]}
            await client.create(AUTHORIZATION_POLICIES, policy)
        finally:
            await client.delete(VALIDATING_WEBHOOKS, "istiod-default-validator")
