"""What a waypoint is for: a client's own identity decides, and requests reach the endpoint that they should and no other."""

from __future__ import annotations

import os

import pytest

from tests.waypoint.lab import HTTP, NO_ENDPOINT, PLAIN, TCP, TEST, WAYPOINT, WEB, WRONG_IDENTITY, Mesh, policy

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

ONLY_TEST = policy(
    {
        "rules": [
            {"from": [{"source": {"principals": [TEST.principal]}}], "to": [{"operation": {"methods": ["GET"]}}]},
        ]
    },
    "only-test",
)
ONLY_WEB = policy({"rules": [{"from": [{"source": {"principals": [WEB.principal]}}]}]}, "only-web")


async def test_policy_is_decided_on_the_clients_own_identity(mesh: Mesh) -> None:
    await mesh.configure(ONLY_TEST)
    allowed = await mesh.get(TEST)
    assert (allowed.status, allowed.seen["method"], allowed.seen["path"]) == (200, "GET", "/hello")
    for denied in (await mesh.get(TEST, method="POST"), await mesh.get(WEB)):
        assert (denied.status, denied.body) == (403, "RBAC: access denied")
    assert (await mesh.get(WEB, method="HEAD")).body == ""
    assert [(seen.peer, seen.authority) for seen in mesh.endpoint.seen] == [
        (WAYPOINT.spiffe, f"{mesh.place.host}:8080")
    ]


async def test_an_endpoint_with_another_identity_is_not_spoken_to(mesh: Mesh) -> None:
    await mesh.configure()
    assert (await mesh.get(port=WRONG_IDENTITY)).status == 503
    assert mesh.endpoint.seen == []


async def test_without_endpoints_requests_fail_closed(mesh: Mesh) -> None:
    await mesh.configure()
    assert (await mesh.get(port=NO_ENDPOINT)).status == 503


async def test_an_endpoint_outside_the_mesh_gets_plain_http(mesh: Mesh) -> None:
    await mesh.configure()
    assert (await mesh.get(port=PLAIN)).status == 200
    assert mesh.endpoint.seen == []


async def test_opaque_tcp_is_carried_as_it_is(mesh: Mesh) -> None:
    await mesh.configure()
    await mesh.eventually(200, port=TCP, identity=WEB)


async def test_what_it_does_not_serve_is_refused(mesh: Mesh) -> None:
    answer = await mesh.get(port=15000)
    assert (answer.status, answer.refused) == (404, True)


async def test_a_changed_policy_applies_to_the_next_request(mesh: Mesh) -> None:
    await mesh.configure(ONLY_TEST)
    assert ((await mesh.get(TEST)).status, (await mesh.get(WEB)).status) == (200, 403)
    await mesh.configure(ONLY_WEB)
    assert ((await mesh.get(TEST)).status, (await mesh.get(WEB)).status) == (403, 200)
    await mesh.configure()
    assert ((await mesh.get(TEST)).status, (await mesh.get(WEB)).status) == (200, 200)


async def test_the_log_names_client_service_endpoint_and_policy(mesh: Mesh) -> None:
    deny = policy({"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/no"]}}]}]}, "no-no")
    await mesh.configure(deny)
    assert (await mesh.get(path="/no")).status == 403
    assert (await mesh.get(path="/logged")).status == 200
    denied = await mesh.logged(path="/no")
    assert denied["response_code_details"] == "rbac_access_denied_matched_policy[ns[hello]-policy[no-no]-rule[0]]"
    assert denied["src.identity"] == TEST.spiffe
    passed = await mesh.logged(path="/logged")
    assert passed["dst.service"] == "helloworld.hello.svc.cluster.local"
    assert passed["dst.identity"] == "spiffe://cluster.local/ns/hello/sa/default"
    assert passed["dst.hbone_addr"] == f"{mesh.place.host}:8080"
    assert passed["upstream"] == f"Service/hello/helloworld|{HTTP}"
    assert (await mesh.get(port=PLAIN, path="/plain")).status == 200
    assert not (await mesh.logged(path="/plain")).keys() & {"dst.hbone_addr", "dst.identity"}
