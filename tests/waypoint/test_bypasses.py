"""Known ways around HTTP policies (spec G), each tried on a waypoint that must not be had."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest

from tests.waypoint.lab import TEST, VIP, Mesh, policy
from tulle.security.mesh import MeshSettings

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


def deny(**operation: list[str]) -> dict[str, Any]:
    return policy({"action": "DENY", "rules": [{"to": [{"operation": operation}]}]}, "deny")


def deny_header(name: str, value: str) -> dict[str, Any]:
    condition = {"key": f"request.headers[{name}]", "values": [value]}
    return policy({"action": "DENY", "rules": [{"when": [condition]}]}, "deny-header")


async def statuses(mesh: Mesh, *paths: str) -> dict[str, int]:
    return {path: (await mesh.get(path=path)).status for path in paths}


ADMIN = ("/admin", "/./admin", "/x/../admin", "/%61dmin", "/x/%2e%2e/admin", "\\admin", "/x\\..\\admin")
MERGED = ("//admin", "/x/..//admin", "///admin")
DECODED = ("/%2Fadmin", "/%2fadmin", "/%5Cadmin", "/%5cadmin", "/x/..%2Fadmin")


@pytest.mark.parametrize(
    ("normalization", "caught", "passed"),
    [
        ("BASE", ADMIN[:5], (*MERGED[:1], "/%2Fadmin", "/ADMIN", "/admin/")),
        ("MERGE_SLASHES", (*ADMIN[:5], *MERGED), ("/%2Fadmin",)),
        ("DECODE_AND_MERGE_SLASHES", (*ADMIN[:5], *MERGED, *DECODED), ("/ADMIN",)),
    ],
)
async def test_spellings_of_a_path(
    mesh: Mesh, normalization: str, caught: tuple[str, ...], passed: tuple[str, ...]
) -> None:
    """CVE-2021-31920. What passes the filter reaches the app as it was judged, so nothing is read two ways."""
    await mesh.configure(deny(paths=["/admin"]), settings=MeshSettings(path_normalization=normalization))
    await _in_force(mesh, normalization)
    assert set((await statuses(mesh, *caught)).values()) == {403}
    for path in passed:
        answer = await mesh.get(path=path)
        assert (answer.status, answer.seen["path"]) == (200, path)


async def _in_force(mesh: Mesh, normalization: str) -> None:
    """Normalisation stands in the listener, which takes effect after it is acknowledged."""
    probes = {
        "BASE": ("/a//b", "/a//b"),
        "MERGE_SLASHES": ("/a//%2Fb", "/a/%2Fb"),
        "DECODE_AND_MERGE_SLASHES": ("/a/%2Fb", "/a/b"),
    }
    asked, wanted = probes[normalization]
    async with asyncio.timeout(60):
        while (await mesh.get(path=asked)).seen["path"] != wanted:
            await asyncio.sleep(0.02)


async def test_backslashes_never_reach_the_app_unjudged(mesh: Mesh) -> None:
    await mesh.configure(deny(paths=["/admin"]))
    assert set((await statuses(mesh, *ADMIN[5:])).values()) <= {400, 403}


async def test_a_query_and_a_fragment_are_no_part_of_the_path(mesh: Mesh) -> None:
    """CVE-2020-8595, CVE-2021-32779, CVE-2021-39156."""
    await mesh.configure(deny(paths=["/admin"]))
    assert (await mesh.get(path="/admin?x=1")).status == 403
    found = await statuses(mesh, "/admin#x", "/admin?#", "/admin%23", "/admin;x=1")
    assert found["/admin#x"] in (400, 403)
    assert found["/admin?#"] in (400, 403)
    assert (found["/admin%23"], found["/admin;x=1"]) == (200, 200), "other paths, to the app as well"


async def test_headers_that_envoy_would_believe_do_not_count(mesh: Mesh) -> None:
    """CVE-2023-27487, ISTIO-SECURITY-2024-006: neither policies, nor the log, nor the app see them."""
    await mesh.configure(deny(paths=["/admin"]))
    forged = [
        ("x-envoy-original-path", "/innocent"),
        ("X-Envoy-Original-Host", "innocent"),
        ("x-envoy-retry-on", "5xx"),
        ("x-envoy-max-retries", "100"),
        ("x-envoy-upstream-rq-timeout-ms", "1"),
        ("x-envoy-internal", "true"),
    ]
    assert (await mesh.get(path="/admin", headers=forged)).status == 403
    assert (await mesh.logged(path="/admin", response_code=403))["method"] == "GET"
    seen = (await mesh.get(path="/other", headers=forged)).seen["headers"]
    assert [name for name, _ in seen if name.startswith("x-envoy-") and name != "x-envoy-expected-rq-timeout-ms"] == []


async def test_each_value_of_a_repeated_header_is_judged(mesh: Mesh) -> None:
    """CVE-2026-26308."""
    await mesh.configure(deny_header("x-role", "admin"))
    for values in (["admin"], ["user", "admin"], ["admin", "user"], ["admin", "admin"]):
        assert (await mesh.get(headers=[("x-role", value) for value in values])).status == 403, values
    assert (await mesh.get(headers=[("x-role", "user")])).status == 200
    assert (await mesh.get(headers=[("X-ROLE", "admin")])).status == 403


async def test_hosts_are_compared_without_case_and_with_their_port(mesh: Mesh) -> None:
    """CVE-2021-39155; as upstream a port is part of the host, so a rule lists both forms."""
    await mesh.configure(deny(hosts=["secret.example.com", "secret.example.com:*"]))
    for host in ("secret.example.com", "SECRET.example.COM", "secret.example.com:5000", "Secret.Example.com:80"):
        assert (await mesh.get(host=host)).status == 403, host
    assert (await mesh.get(host="public.example.com")).status == 200
    await mesh.configure(policy({"rules": [{"to": [{"operation": {"hosts": ["shop.example.com"]}}]}]}, "allow"))
    assert (await mesh.get(host="shop.example.com")).status == 200
    for host in ("shop.example.com:5000", "shop.example.com.", "xshop.example.com", "shop.example.com.evil"):
        assert (await mesh.get(host=host)).status == 403, host


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /hello HTTP/1.1\r\nhost: h\r\nhost: other\r\n\r\n",
        b"GET /hello HTTP/1.1\r\n\r\n",
        b"POST /hello HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /admin HTTP/1.1\r\n\r\n",
        b"POST /hello HTTP/1.1\r\nhost: h\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        b"GET /hello HTTP/1.1\r\nhost: h\r\nx-a: b\x00c\r\n\r\n",
        b"GET /hello HTTP/1.1\r\nhost : h\r\n\r\n",
        b"GET http://other/admin HTTP/1.1\r\nhost: h\r\n\r\n",
    ],
    ids=["two-hosts", "no-host", "two-lengths", "unlike-lengths", "nul", "space-before-colon", "absolute-form"],
)
async def test_requests_that_two_readers_could_read_differently(mesh: Mesh, request_bytes: bytes) -> None:
    await mesh.configure(deny(paths=["/admin"]), deny_header("host", "other"))
    answer = await mesh.raw(request_bytes)
    assert answer.status in (400, 403, 0)


async def test_a_request_inside_the_body_of_another_stays_there(mesh: Mesh) -> None:
    await mesh.configure(deny(paths=["/admin"]))
    inner = b"GET /admin HTTP/1.1\r\nhost: h\r\n\r\n"
    head = f"POST /hello HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: {len(inner)}\r\n\r\n".encode()
    answer = await mesh.raw(head + inner)
    assert (answer.status, answer.seen["path"]) == (200, "/hello")


async def http2(mesh: Mesh, headers: list[tuple[str, str]]) -> str:
    """The status of a request over HTTP/2 inside the tunnel, "reset" when the stream or connection is refused."""
    connection = h2.connection.H2Connection(
        h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
    )
    connection.initiate_connection()
    async with mesh.tunnel(TEST, 5000) as tunnel:
        connection.send_headers(1, headers, end_stream=True)
        await tunnel.write(connection.data_to_send())
        while data := await asyncio.wait_for(tunnel.reader.read(65536), 60):
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.ResponseReceived):
                    return dict(event.headers)[":status"]
                if isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                    return "reset"
            if pending := connection.data_to_send():
                await tunnel.write(pending)
    return "reset"


def _h2(path: str = "/hello", scheme: str = "http", authority: str = VIP, method: str = "GET") -> list[tuple[str, str]]:
    return [(":method", method), (":scheme", scheme), (":authority", authority), (":path", path)]


async def test_http2_spellings(mesh: Mesh) -> None:
    """CVE-2023-35944 (scheme in mixed case), CVE-2023-27491 (pseudo-headers that are none)."""
    await mesh.configure(deny(paths=["/admin"]), deny_header(":authority", "secret"))
    assert await http2(mesh, _h2()) == "502", "let through to an app that speaks no HTTP/2"
    assert await http2(mesh, _h2("/admin")) == "403"
    assert await http2(mesh, _h2("/admin", scheme="HTTP")) in ("403", "400", "reset")
    assert await http2(mesh, _h2("/admin", scheme="hTTpS")) in ("403", "400", "reset")
    assert await http2(mesh, _h2("/x/../admin")) == "403"
    assert await http2(mesh, _h2("admin")) in ("400", "403", "404", "reset")
    assert await http2(mesh, _h2("/admin#x")) in ("400", "403")
    assert await http2(mesh, [*_h2("/hello"), (":path", "/admin")]) in ("400", "reset")
    assert await http2(mesh, [*_h2("/hello"), ("bad header", "x")]) in ("400", "reset")


async def test_methods_are_compared_as_they_stand(mesh: Mesh) -> None:
    await mesh.configure(policy({"rules": [{"to": [{"operation": {"methods": ["GET"]}}]}]}, "get"))
    for method, status in (
        ("GET", {200}),
        ("HEAD", {403}),
        ("get", {400, 403}),
        ("GETX", {403, 400}),
        ("OPTIONS", {403}),
    ):
        assert (await mesh.get(method=method)).status in status, method
    override = [("x-http-method-override", "POST"), ("x-http-method", "POST")]
    await mesh.configure(deny(methods=["POST"]))
    assert (await mesh.get(headers=override)).status == 200
    assert (await mesh.get(method="POST", headers=[("x-http-method-override", "GET")])).status == 403
