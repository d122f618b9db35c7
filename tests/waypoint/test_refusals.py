"""What a waypoint's client is told when the endpoint's node proxy refuses the waypoint."""

from __future__ import annotations

import os

import pytest

from tests.waypoint.lab import HTTP, TCP, Mesh

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]


async def test_a_refusal_by_status_is_the_waypoints_503(mesh: Mesh) -> None:
    await mesh.configure()
    mesh.endpoint.decide = lambda _accepted: 401
    assert (await mesh.get(path="/refused")).status == 503
    assert {seen.headers["x-tulle-refusal"] for seen in mesh.endpoint.seen} == {"by-status"}
    line = await mesh.logged(path="/refused")
    assert line["response_code"] == 503
    assert line["dst.identity"] == "spiffe://cluster.local/ns/hello/sa/default"


async def test_explained_refusals_are_asked_for_inside_the_tunnel(mesh: Mesh) -> None:
    await mesh.configure(explain=True)
    mesh.endpoint.decide = lambda _accepted: 401
    assert (await mesh.get()).status == 503, "also when the other side knows nothing of that"
    mesh.endpoint.decide = lambda _accepted: 200
    assert (await mesh.get()).status == 200
    assert {seen.headers["x-tulle-refusal"] for seen in mesh.endpoint.seen} == {"in-tunnel"}


async def test_no_header_of_a_client_reaches_the_tunnel(mesh: Mesh) -> None:
    await mesh.configure()
    for port in (HTTP, TCP):
        await mesh.eventually(200, port=port, headers=[("x-tulle-refusal", "in-tunnel")])
    assert {seen.headers["x-tulle-refusal"] for seen in mesh.endpoint.seen} == {"by-status"}
