"""What the server calls itself: validating webhooks and kubelets, played by real TLS servers."""

from __future__ import annotations

import base64
import ssl
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from tulle.cluster import pki as pki_module

from .conftest import Api, free_port

CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"


def server_tls(api: Api, name: str, addresses: tuple[str, ...] = ()) -> ssl.SSLContext:
    profile = pki_module.Profile(f"test-{name}", name, (), (name,), addresses)
    pki_module._ensure_leaf(api.pki, profile)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(api.pki.certificate(profile.stem), api.pki.key(profile.stem))
    context.load_verify_locations(str(api.pki.ca))
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


async def serve(handler: Any, tls: ssl.SSLContext) -> tuple[web.AppRunner, int]:
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handler)
    runner, port = web.AppRunner(app, shutdown_timeout=1.0), free_port()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=tls).start()
    return runner, port


class Webhook:
    """A validating webhook that refuses config maps with `bad` in their data and warns about the others."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.answer: Any = None
        self.said: Any = {}

    async def handle(self, request: web.Request) -> web.Response:
        review = (await request.json())["request"]
        self.requests.append(review)
        if self.answer is not None:
            return web.json_response(self.answer)
        obj = review["object"] or review["oldObject"]
        response: dict[str, Any] = {"uid": review["uid"], "allowed": True, "warnings": ["seen"]}
        if "bad" in (obj.get("data") or {}):
            response |= {
                "allowed": False,
                "status": {"message": "data.bad: found it", "code": 422, "reason": "Invalid"},
            }
        if self.said:
            response = {"uid": review["uid"], **self.said}
        return web.json_response({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})


@pytest_asyncio.fixture
async def webhook(api: Api) -> AsyncIterator[Webhook]:
    hook = Webhook()
    runner, port = await serve(hook.handle, server_tls(api, "hook.system.svc"))
    namespace = await api.namespace("system")
    service = {"metadata": {"name": "hook"}, "spec": {"ports": [{"name": "https", "port": 443}]}}
    await api.ok("POST", f"{namespace}/services", service)
    endpoints = {
        "metadata": {"name": "hook-1", "labels": {"kubernetes.io/service-name": "hook"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
        "ports": [{"name": "https", "port": port}],
    }
    await api.ok("POST", "/apis/discovery.k8s.io/v1/namespaces/system/endpointslices", endpoints)
    await api.ok("POST", CONFIGURATIONS, configuration(api))
    yield hook
    await runner.cleanup()


def configuration(api: Api, **more: Any) -> Any:
    hook = {
        "name": "hook.example.com",
        "clientConfig": {
            "service": {"namespace": "system", "name": "hook", "path": "/validate"},
            "caBundle": base64.b64encode(api.pki.ca.read_bytes()).decode(),
        },
        "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        **more,
    }
    return {"metadata": {"name": "hook"}, "webhooks": [hook]}


async def test_a_webhook_is_asked_and_obeyed(api: Api, webhook: Webhook) -> None:
    path = f"{await api.namespace('n')}/configmaps"
    async with api.session.post(api.url + path, json={"metadata": {"name": "a"}}) as answer:
        assert answer.status == 201
        assert answer.headers["Warning"] == '299 - "seen"'
    asked = webhook.requests[-1]
    assert (asked["operation"], asked["namespace"], asked["name"]) == ("CREATE", "n", "a")
    assert asked["userInfo"]["username"] == "kubernetes-admin"
    assert asked["oldObject"] is None
    status, refused = await api.call("POST", path, {"metadata": {"name": "b"}, "data": {"bad": "1"}})
    assert status == 422
    assert refused["message"] == 'admission webhook "hook.example.com" denied the request: data.bad: found it'
    await api.ok("DELETE", f"{path}/a")
    assert (webhook.requests[-1]["operation"], webhook.requests[-1]["object"]) == ("DELETE", None)
    await api.ok("POST", "/api/v1/namespaces/n/secrets", {"metadata": {"name": "s"}})
    assert webhook.requests[-1]["resource"]["resource"] == "configmaps"


async def test_namespace_selectors_narrow_a_webhook(api: Api, webhook: Webhook) -> None:
    await api.ok("DELETE", f"{CONFIGURATIONS}/hook")
    selector = {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["n"]}]}
    await api.ok("POST", CONFIGURATIONS, configuration(api, namespaceSelector=selector))
    path = f"{await api.namespace('n')}/configmaps"
    await api.ok("POST", path, {"metadata": {"name": "b"}, "data": {"bad": "1"}})
    assert not webhook.requests


@pytest.mark.parametrize("answer", [{}, {"response": {"uid": "other", "allowed": True}}, ["x"]])
async def test_a_webhook_that_answers_nonsense_fails_closed(api: Api, webhook: Webhook, answer: Any) -> None:
    path = f"{await api.namespace('n')}/configmaps"
    webhook.answer = answer
    status, refused = await api.call("POST", path, {"metadata": {"name": "a"}})
    assert status == 500
    assert 'failed calling webhook "hook.example.com"' in refused["message"]


async def test_a_webhook_that_is_gone_fails_by_its_policy(api: Api, webhook: Webhook) -> None:
    path = f"{await api.namespace('n')}/configmaps"
    await api.ok("DELETE", "/apis/discovery.k8s.io/v1/namespaces/system/endpointslices/hook-1")
    status, refused = await api.call("POST", path, {"metadata": {"name": "a"}})
    assert status == 500
    assert 'no endpoints available for service "hook"' in refused["message"]
    await api.ok("DELETE", f"{CONFIGURATIONS}/hook")
    await api.ok("POST", CONFIGURATIONS, configuration(api, failurePolicy="Ignore"))
    await api.ok("POST", path, {"metadata": {"name": "a"}})


async def test_a_webhook_with_a_wrong_certificate_is_not_trusted(api: Api, webhook: Webhook) -> None:
    runner, port = await serve(webhook.handle, server_tls(api, "other.system.svc"))
    path = "/apis/discovery.k8s.io/v1/namespaces/system/endpointslices/hook-1"
    merge = {"Content-Type": "application/merge-patch+json"}
    await api.ok("PATCH", path, {"ports": [{"name": "https", "port": port}]}, headers=merge)
    status, refused = await api.call("POST", f"{await api.namespace('n')}/configmaps", {"metadata": {"name": "a"}})
    assert status == 500
    assert "certificate" in refused["message"].lower()
    await runner.cleanup()


async def kubelet(request: web.Request) -> web.StreamResponse:
    transport = request.transport
    assert transport is not None
    subject = dict(pair for part in transport.get_extra_info("peercert")["subject"] for pair in part)
    if subject["commonName"] != "kube-apiserver-kubelet-client":
        return web.Response(status=401)
    if request.path.startswith("/containerLogs/"):
        return web.Response(text=f"{request.path}?{request.query_string}\n")
    if "ended" in request.query_string:
        return web.Response(status=404, text="it has ended")
    socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io",))
    await socket.prepare(request)
    await socket.send_bytes(b"\x01" + request.path_qs.encode())
    async for message in socket:
        if message.data == b"\xff\x00":
            break
        await socket.send_bytes(b"\x01" + message.data[1:])
    await socket.send_bytes(b'\x03{"status":"Success"}')
    await socket.close()
    return socket


@pytest_asyncio.fixture
async def pod(api: Api) -> AsyncIterator[str]:
    runner, port = await serve(kubelet, server_tls(api, "node-1", ("127.0.0.1",)))
    await api.ok("POST", "/api/v1/nodes", {"metadata": {"name": "node-1"}})
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }
    merge = {"Content-Type": "application/merge-patch+json"}
    await api.ok("PATCH", "/api/v1/nodes/node-1/status", {"status": status}, headers=merge)
    path = f"{await api.namespace('n')}/pods"
    containers = [{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]
    await api.ok("POST", path, {"metadata": {"name": "p"}, "spec": {"containers": containers, "nodeName": "node-1"}})
    yield f"{path}/p"
    await runner.cleanup()


async def test_logs_come_from_the_kubelet(api: Api, pod: str) -> None:
    _, text = await api.call("GET", f"{pod}/log?container=c&tailLines=5&pretty=1")
    assert text == "/containerLogs/n/p/c?tailLines=5\n"
    status, refused = await api.call("GET", f"{pod}/log")
    assert status == 400
    assert refused["message"] == "a container name must be specified for pod p, choose one of: [c d]"
    status, refused = await api.call("GET", f"{pod}/log?container=x")
    assert refused["message"] == "container x is not valid for pod p"


async def test_exec_is_joined_with_the_kubelet(api: Api, pod: str) -> None:
    url = f"{api.url}{pod}/exec?container=d&command=sh&command=-c&stdin=true&stdout=true"
    async with api.session.ws_connect(url, protocols=("v5.channel.k8s.io", "v4.channel.k8s.io")) as socket:
        assert socket.protocol == "v5.channel.k8s.io"
        assert await socket.receive_bytes() == b"\x01/exec/n/p/d?command=sh&command=-c&stdin=true&stdout=true"
        await socket.send_bytes(b"\x00" + b"x" * 100_000)
        assert await socket.receive_bytes() == b"\x01" + b"x" * 100_000
        await socket.send_bytes(b"\xff\x00")
        assert await socket.receive_bytes() == b'\x03{"status":"Success"}'
        assert (await socket.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)


async def test_exec_needs_a_websocket_and_a_known_protocol(api: Api, pod: str) -> None:
    assert (await api.call("POST", f"{pod}/exec?container=c&command=ls"))[0] == 400
    with pytest.raises(aiohttp.WSServerHandshakeError):
        await api.session.ws_connect(f"{api.url}{pod}/exec?container=c", protocols=("base64.channel.k8s.io",))


@pytest.mark.parametrize("upgrade", ["websocket", "SPDY/3.1"])
async def test_a_client_of_either_protocol_hears_why_the_kubelet_refuses(api: Api, pod: str, upgrade: str) -> None:
    asked = {
        "Connection": "Upgrade",
        "Upgrade": upgrade,
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(b"0" * 16).decode(),
        "Sec-WebSocket-Protocol": "v5.channel.k8s.io",
    }
    status, refused = await api.call("GET", f"{pod}/exec?container=c&command=ended", headers=asked)
    assert (status, refused["reason"], refused["message"]) == (404, "NotFound", "it has ended")


async def test_an_unscheduled_pod_has_no_kubelet(api: Api) -> None:
    path = f"{await api.namespace('n')}/pods"
    await api.ok("POST", path, {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
    status, refused = await api.call("GET", f"{path}/p/log")
    assert status == 400
    assert refused["message"] == "pod p does not have a host assigned"


@pytest.mark.parametrize(
    "said",
    [{"allowed": "false"}, {"allowed": 1}, {"status": "no"}, {"status": {"code": None}}, {"status": {"code": "x"}}],
)
async def test_a_webhook_is_believed_only_a_plain_yes(api: Api, webhook: Webhook, said: Any) -> None:
    path = f"{await api.namespace('n')}/configmaps"
    webhook.said = said
    status, refused = await api.call("POST", path, {"metadata": {"name": "a"}})
    assert status in (400, 500)
    assert 'webhook "hook.example.com"' in refused["message"]
    assert (await api.call("GET", f"{path}/a"))[0] == 404


async def test_a_slice_without_port_numbers_is_no_way_to_a_webhook(api: Api, webhook: Webhook) -> None:
    path = "/apis/discovery.k8s.io/v1/namespaces/system/endpointslices/hook-1"
    merge = {"Content-Type": "application/merge-patch+json"}
    await api.ok("PATCH", path, {"ports": [{"name": "https"}]}, headers=merge)
    namespace = await api.namespace("n")
    status, refused = await api.call("POST", f"{namespace}/configmaps", {"metadata": {"name": "a"}})
    assert (status, refused["reason"]) == (500, "InternalError")
    assert 'no endpoints available for service "hook"' in refused["message"]
