"""Action CUSTOM: an external authorizer is asked about what the policy matches, and nobody to ask means no."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest
from aiohttp import web

from tests.waypoint import signing
from tests.waypoint.authorizers import GRPC_PORT, HTTP_PORT, GrpcAuthorizer, HttpAuthorizer
from tests.waypoint.lab import AUTO, TCP, TEST, Mesh, policy, tokens
from tulle.istiod.waypoint_config import names, resources
from tulle.istiod.waypoint_config.view import AuthorizerView, EndpointView
from tulle.security.mesh import MeshSettings, parse_mesh_config

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

HOST = "authz.tools.svc.cluster.local"


def settings(**http: Any) -> MeshSettings:
    block = {"service": HOST, "port": HTTP_PORT, "timeout": "2s", **http}
    grpc = {"service": HOST, "port": GRPC_PORT, "timeout": "2s"}
    return parse_mesh_config(
        {
            "extensionProviders": [
                {"name": "asks-http", "envoyExtAuthzHttp": block},
                {"name": "asks-grpc", "envoyExtAuthzGrpc": grpc},
                {"name": "traces", "zipkin": {}},
            ]
        }
    )


def custom(provider: str, *paths: str, name: str = "custom") -> dict[str, Any]:
    rule = {"to": [{"operation": {"paths": list(paths)}}]} if paths else {}
    return policy({"action": "CUSTOM", "provider": {"name": provider}, "rules": [rule]}, name)


async def configure(mesh: Mesh, *objects: dict[str, Any], **http: Any) -> None:
    made = settings(**http)
    views = [
        AuthorizerView(one.name, one.ext_authz, HOST, (EndpointView(mesh.place.host, one.ext_authz.port, "", False),))
        for one in made.extension_providers
        if one.ext_authz is not None
    ]
    await mesh.configure(*objects, settings=made, authorizers=views)


async def test_an_http_authorizer_decides_about_what_matches(mesh: Mesh) -> None:
    authorizer = HttpAuthorizer(
        lambda request: web.Response(status=200 if "x-pass" in request.headers else 418, text="no tea")
    )
    async with authorizer.serving(mesh.place.host):
        await configure(mesh, custom("asks-http", "/hello"), includeRequestHeadersInCheck=["x-pass"])
        assert (await mesh.get(path="/other")).status == 200
        assert authorizer.asked == []
        refused = await mesh.get()
        assert (refused.status, refused.body) == (418, "no tea")
        assert (await mesh.get(headers=[("x-pass", "1")])).status == 200
        assert (await mesh.logged(response_code=418))["custom.policy"] == "ns[hello]-policy[custom]-rule[0]"


async def test_what_an_http_authorizer_is_told_and_what_it_tells(mesh: Mesh) -> None:
    def decide(request: web.Request) -> web.Response:
        answer = {"x-user": "alice", "x-secret": "1", "x-note": "kept"}
        return web.Response(status=403 if request.path.endswith("/deny") else 200, headers=answer)

    authorizer = HttpAuthorizer(decide)
    fields = {
        "pathPrefix": "/check",
        "includeRequestHeadersInCheck": ["x-ask", "x-any-*"],
        "includeAdditionalHeadersInCheck": {"x-from": "waypoint"},
        "headersToUpstreamOnAllow": ["x-user"],
        "headersToDownstreamOnDeny": ["x-note"],
        "headersToDownstreamOnAllow": ["x-note"],
    }
    async with authorizer.serving(mesh.place.host):
        await configure(mesh, custom("asks-http"), **fields)
        headers = [("x-ask", "1"), ("x-ask", "2"), ("x-any-thing", "3"), ("x-other", "4"), ("x-user", "mallory")]
        allowed = await mesh.get(path="/hello?q=1", headers=headers)
        assert authorizer.asked[-1][:2] == ("GET", "/check/hello?q=1")
        assert ",".join(authorizer.header_asked("x-ask")).replace(" ", "") == "1,2", "CVE-2021-32777"
        assert authorizer.header_asked("x-any-thing") == ["3"]
        assert authorizer.header_asked("x-from") == ["waypoint"]
        assert authorizer.header_asked("x-other") == []
        assert allowed.header_seen("x-user") == ["alice"]
        assert allowed.header_seen("x-secret") == []
        assert (allowed.headers.get("x-note"), allowed.headers.get("x-secret")) == ("kept", None)
        denied = await mesh.get(path="/deny")
        assert (denied.status, denied.headers.get("x-note"), denied.headers.get("x-secret")) == (403, "kept", None)


async def test_a_grpc_authorizer_decides(mesh: Mesh) -> None:
    authorizer = GrpcAuthorizer(lambda check: check.attributes.request.http.path != "/no")
    async with authorizer.serving(mesh.place.host):
        await configure(mesh, custom("asks-grpc"))
        assert (await mesh.get()).status == 200
        assert (await mesh.get(path="/no")).status == 403
        await mesh.eventually(403, port=AUTO, path="/no")
        assert authorizer.asked[0].attributes.request.http.host == "helloworld"


async def test_an_authorizer_that_does_not_answer(mesh: Mesh) -> None:
    await configure(mesh, custom("asks-http"))
    assert (await mesh.get()).status == 403
    await configure(mesh, custom("asks-http"), statusOnError="503")
    assert (await mesh.get()).status == 503
    await configure(mesh, custom("asks-http"), failOpen=True)
    assert (await mesh.get()).status == 200


@pytest.mark.parametrize(
    ("policies", "reason"),
    [
        ([custom("nobody")], "extension_provider_nobody_is_not_in_the_mesh_configuration"),
        ([custom("traces")], "extension_provider_traces_is_no_external_authorizer"),
        (
            [custom("asks-http"), custom("asks-grpc", "/other", name="second")],
            "only_one_extension_provider_can_be_asked_for_a_workload,_found_asks-grpc_and_asks-http",
        ),
    ],
)
async def test_nobody_to_ask_denies(mesh: Mesh, policies: list[dict[str, Any]], reason: str) -> None:
    await configure(mesh, *policies)
    assert (await mesh.get(path=f"/{reason}")).status == 403
    line = await mesh.logged(path=f"/{reason}")
    assert line["response_code_details"] == f"rbac_access_denied_matched_policy[{reason}]"
    await mesh.eventually(0, port=TCP)
    assert mesh.rejections == []


async def test_a_provider_without_its_service_denies(mesh: Mesh) -> None:
    await mesh.configure(custom("asks-http", "/hello"), settings=settings())
    assert (await mesh.get()).status == 403
    assert (await mesh.get(path="/other")).status == 200


async def test_what_the_routes_mark_is_denied_while_the_filter_does_not_ask(mesh: Mesh) -> None:
    """Policies and authorizer are two resources, of which either may come first, and either be refused."""
    filters = names.EXTENSION_TYPE
    authorizer = HttpAuthorizer()
    async with authorizer.serving(mesh.place.host):
        await configure(mesh, custom("asks-http", "/first"))
        assert (await mesh.get(path="/first")).status == 200
        mesh.maps[filters].replace(resources.build(mesh.view()).by_type[filters])
        await mesh.acknowledged()
        assert ((await mesh.get(path="/first")).status, (await mesh.get(path="/other")).status) == (403, 200)
        reason = "the_waypoint_does_not_ask_extension_provider_asks-http_yet"
        assert (await mesh.logged(path="/first", response_code=403))["response_code_details"].endswith(f"[{reason}]")
        assert len(authorizer.asked) == 1


async def test_custom_comes_before_tokens_and_deny_and_cannot_overrule_them(mesh: Mesh) -> None:
    authorizer = HttpAuthorizer()
    deny = policy({"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/no"]}}]}]}, "deny")
    key = signing.EcKey("k")
    async with authorizer.serving(mesh.place.host):
        rule = {"issuer": "https://i.example.com", "jwks": signing.jwks(key)}
        await configure(mesh, custom("asks-http"), deny, tokens(rule))
        assert (await mesh.get()).status == 200
        assert (await mesh.get(headers=[signing.bearer("x.y.z")])).status == 401
        assert (await mesh.get(path="/no")).status == 403
        assert len(authorizer.asked) == 3


async def test_opaque_connections(mesh: Mesh) -> None:
    """A gRPC authorizer is asked about connections; one that speaks HTTP cannot be, so they are denied (spec C4, C5)."""
    verdict = [True]
    authorizer = GrpcAuthorizer(lambda _: verdict[0])
    async with authorizer.serving(mesh.place.host):
        await configure(mesh, custom("asks-grpc"))
        await mesh.eventually(200, port=TCP)
        async with asyncio.timeout(60):
            while not any(check.attributes.request.http.path == "" for check in authorizer.asked):
                await mesh.get(port=TCP)
        verdict[0] = False
        await mesh.eventually(0, port=TCP)
        await configure(mesh, custom("asks-http"))
        await mesh.eventually(0, port=TCP)
        await configure(mesh)
        await mesh.eventually(200, port=TCP, identity=TEST)
