"""How a port is read: as HTTP, as bytes, or as what the first bytes of a connection are; and what policies mean in each (spec C5)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from tests.waypoint.lab import (
    APP,
    AUTO,
    AUTO_OPAQUE,
    HTTP,
    NO_ENDPOINT,
    PLAIN,
    SERVER_FIRST,
    TCP,
    TEST,
    VIP,
    WEB,
    Mesh,
    policy,
    read_answer,
)
from tulle.istiod.waypoint_config.view import ANY_PORT, EndpointView, PortView, TargetView

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

GET_ONLY = policy({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}, "get-only")


async def opaque(mesh: Mesh, text: bytes, **where: Any) -> bytes:
    """What comes back for bytes that are not HTTP; b"" when the connection is closed instead."""
    async with mesh.tunnel(
        where.get("identity", TEST), where.get("port", AUTO_OPAQUE), where.get("address", VIP)
    ) as tunnel:
        await tunnel.write(text)
        return await asyncio.wait_for(tunnel.reader.read(len(text)), 60)


async def test_http_on_an_undeclared_port_is_read(mesh: Mesh) -> None:
    await mesh.configure(GET_ONLY)
    await mesh.eventually(403, port=AUTO, method="POST")
    assert (await mesh.get(port=AUTO)).status == 200
    assert (await mesh.raw(b"GET /hello HTTP/1.0\r\nhost: h\r\n\r\n", port=AUTO)).status == 200


async def test_other_bytes_on_an_undeclared_port_are_passed_on(mesh: Mesh) -> None:
    await mesh.configure()
    async with asyncio.timeout(60):
        while await opaque(mesh, b"hello\n") != b"HELLO\n":
            await asyncio.sleep(0.02)


async def test_what_a_server_says_before_it_closes_is_heard(mesh: Mesh) -> None:
    """The end of a tunnel must not overtake the bytes in it."""
    await mesh.configure()
    mesh.endpoint.abrupt = True
    try:
        assert [(await mesh.get(port=TCP)).status for _ in range(10)] == [200] * 10
    finally:
        mesh.endpoint.abrupt = False


async def test_a_server_that_speaks_first_is_heard(mesh: Mesh) -> None:
    await mesh.configure()
    async with mesh.tunnel(TEST, SERVER_FIRST) as tunnel:
        assert await asyncio.wait_for(tunnel.reader.readline(), 60) == b"220 ready\r\n"
        await tunnel.write(b"helo\r\n")
        assert await asyncio.wait_for(tunnel.reader.readline(), 60) == b"HELO\r\n"


async def test_an_allow_with_http_fields_lets_no_opaque_connection_in(mesh: Mesh) -> None:
    await mesh.configure(GET_ONLY)
    await mesh.eventually(0, port=TCP)
    assert await opaque(mesh, b"hello\n") == b""
    assert (await mesh.get(port=HTTP)).status == 200


async def test_a_deny_with_erased_http_fields_matches_any_opaque_connection(mesh: Mesh) -> None:
    """The rule is about GET from web; of opaque connections it denies all from web, and none from elsewhere."""
    source, operation = {"source": {"namespaces": ["web"]}}, {"operation": {"methods": ["GET"]}}
    await mesh.configure(policy({"action": "DENY", "rules": [{"from": [source], "to": [operation]}]}, "deny"))
    await mesh.eventually(0, port=TCP, identity=WEB, method="POST")
    assert (await mesh.get(port=TCP)).status == 200
    assert (await mesh.get(WEB, port=HTTP, method="POST")).status == 200
    assert (await mesh.get(WEB, port=HTTP)).status == 403
    assert await opaque(mesh, b"hello\n", identity=WEB) == b""
    assert await opaque(mesh, b"hello\n") == b"HELLO\n"


async def test_a_deny_of_http_fields_only_denies_every_opaque_connection(mesh: Mesh) -> None:
    await mesh.configure(policy({"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/admin"]}}]}]}, "deny"))
    await mesh.eventually(0, port=TCP)
    assert (await mesh.get(port=HTTP)).status == 200
    assert (await mesh.get(port=AUTO)).status == 200
    assert (await mesh.get(port=AUTO, path="/admin")).status == 403
    assert await opaque(mesh, b"hello\n") == b""


async def test_a_deny_limited_to_an_http_port_leaves_others_alone(mesh: Mesh) -> None:
    operation = {"operation": {"paths": ["/admin"], "ports": [str(HTTP)]}}
    await mesh.configure(policy({"action": "DENY", "rules": [{"to": [operation]}]}, "deny"))
    await mesh.eventually(200, port=TCP)
    assert (await mesh.get(port=HTTP, path="/admin")).status == 403
    assert await opaque(mesh, b"hello\n") == b"HELLO\n"


async def test_a_request_cut_before_its_first_line_is_complete_is_not_passed_on_as_bytes(mesh: Mesh) -> None:
    """Splitting the first bytes must not smuggle HTTP past the rules for HTTP."""
    await mesh.configure(
        policy({"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/no"], "ports": [str(AUTO)]}}]}]})
    )
    await mesh.eventually(403, port=AUTO, path="/no")
    async with mesh.tunnel(TEST, AUTO) as tunnel:
        for part in (b"G", b"ET /", b"no HTTP", b"/1.1\r\nhost: h\r\n\r\n"):
            await tunnel.write(part)
            await asyncio.sleep(0.02)
        assert (await asyncio.wait_for(read_answer(tunnel.reader), 60)).status in (0, 403)


# -- endpoints by name ------------------------------------------------------------------------------------------------


async def with_names(mesh: Mesh, *policies: Mapping[str, Any], one_address: bool = False) -> None:
    """Ports PLAIN and AUTO_OPAQUE lead to one name (an address is one, to a resolver), NO_ENDPOINT to one that nobody knows."""
    host = mesh.place.host
    behind = {
        PLAIN: (EndpointView(host, 8080, "", hbone=False, by_name=True),),
        AUTO_OPAQUE: (EndpointView(host, 8081, "", hbone=False, by_name=True),),
        NO_ENDPOINT: (EndpointView("nobody.invalid", 8080, "", hbone=False, by_name=True),),
    }
    view = mesh.view(*policies)
    (service,) = view.targets
    ports = tuple(
        replace(one, endpoints=behind[one.port], one_address=one_address) if one.port in behind else one
        for one in service.ports
    )
    await mesh.configure()
    mesh.publish(replace(view, targets=(replace(service, ports=ports),)))
    await mesh.acknowledged()
    await mesh.eventually(200, port=PLAIN)


@pytest.mark.parametrize("one_address", [False, True])
async def test_endpoints_by_name_are_dialled_in_plaintext_under_the_same_policies(
    mesh: Mesh, one_address: bool
) -> None:
    await with_names(mesh, GET_ONLY, one_address=one_address)
    assert (await mesh.get(port=PLAIN)).seen["path"] == "/hello"
    assert (await mesh.get(port=PLAIN, method="POST")).status == 403
    assert await opaque(mesh, b"hello\n") == b"", "an ALLOW with HTTP fields allows no bytes"
    await with_names(mesh, policy({"action": "DENY", "rules": [{"from": [{"source": {"namespaces": ["web"]}}]}]}))
    assert (await mesh.get(WEB, port=PLAIN)).status == 403
    assert await opaque(mesh, b"hello\n", identity=WEB) == b""
    assert await opaque(mesh, b"hello\n") == b"HELLO\n"
    assert mesh.endpoint.seen == [], "nothing went by HBONE"


async def test_a_name_that_is_not_found_is_503_and_holds_up_nothing_else(mesh: Mesh) -> None:
    await with_names(mesh)
    assert (await mesh.get(port=NO_ENDPOINT)).status == 503
    line = await mesh.logged(response_flags="UH", upstream_names="nobody.invalid:8080")
    assert line["response_code_details"] == "no_healthy_upstream"
    await mesh.configure(GET_ONLY)
    assert (await mesh.get(port=HTTP, method="POST")).status == 403


# -- pods' own addresses ----------------------------------------------------------------------------------------------


async def with_pod(mesh: Mesh, *policies: Mapping[str, Any], hbone: bool) -> str:
    """The waypoint serves a pod too, whose address is the endpoint's; policies are for both."""
    view = mesh.view(*policies)
    (service,) = view.targets
    address = mesh.place.host
    any_port = PortView(ANY_PORT, "AUTO", (EndpointView(address, ANY_PORT, APP.spiffe, hbone),))
    pod = TargetView("Pod", "hello", "p", "", (address,), (any_port,), service.rules)
    await mesh.configure()
    mesh.publish(replace(view, targets=(service, pod)))
    await mesh.acknowledged()
    await mesh.eventually(200, port=8080, address=address)
    return address


async def test_any_port_of_a_pod_is_served_and_read_as_what_it_carries(mesh: Mesh) -> None:
    """Also a port of which some Service of the waypoint is served, and each port by itself on a kept connection."""
    address = await with_pod(mesh, GET_ONLY, hbone=True)
    for port in (8080, HTTP, 4711, 8080, 4711):
        assert (await mesh.get(port=port, address=address)).status == 200
        assert (await mesh.get(port=port, address=address, method="POST")).status == 403
    assert {one.authority for one in mesh.endpoint.seen} == {f"{address}:{port}" for port in (8080, HTTP, 4711)}
    assert await opaque(mesh, b"hello\n", port=4711, address=address) == b"", (
        "an ALLOW with HTTP fields allows no bytes"
    )


async def test_a_pod_outside_of_the_mesh_is_dialled_at_the_port_that_was_asked_for(mesh: Mesh) -> None:
    address = await with_pod(mesh, hbone=False)
    assert (await mesh.get(port=8080, address=address)).status == 200
    assert await opaque(mesh, b"hello\n", port=8081, address=address) == b"HELLO\n"
    assert mesh.endpoint.seen == []
