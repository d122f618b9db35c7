"""Hosts outside of the mesh, through a waypoint and past it."""

from __future__ import annotations

import json

import pytest

from .scenes import (
    ENROLLED,
    ask,
    ids,
    policy,
    rule,
    scene,
)


def outside(**spec: object) -> str:
    """A ServiceEntry of namespace hello, whose waypoint holds its policy: GET from namespace test."""
    ports = [
        {"number": 80, "name": "http", "protocol": "HTTP", "targetPort": 8080},
        {"number": 443, "name": "tls", "protocol": "TLS"},
    ]
    entry = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": "api", "namespace": "hello"},
        "spec": {"hosts": ["api.example.com"], "ports": ports, "resolution": "DNS", **spec},
    }
    return json.dumps(entry)


API = "http://api.example.com/x"
ENTRY_POLICY = policy(
    "api",
    {
        "targetRefs": [{"group": "networking.istio.io", "kind": "ServiceEntry", "name": "api"}],
        "rules": [rule(namespaces=["test"], methods=["GET"])],
    },
)


def test_a_host_that_a_waypoint_looks_up() -> None:
    world = scene(ENROLLED, outside(), ENTRY_POLICY)
    report = ask(world, url=API)
    assert report.sees.code == "200"
    last = report.hops[-1]
    assert (last.source, last.destination) == ("endpoint api.example.com (ServiceEntry hello/api)", "its port 8080")
    assert [row.how for row in report.hops] == ["captured", "HBONE", "plaintext", "outside the mesh"]
    assert "server-outside-mesh" in ids(report)
    assert "server-not-captured" not in ids(report)
    assert any("given some by istiod" in one for one in report.assumptions)
    assert ask(world, url=API, method="POST").sees.code == "403"
    assert ask(world, url="https://api.example.com").sees.code == "closed", "an ALLOW of methods allows no bytes"


@pytest.mark.parametrize(
    "spec",
    [
        {"endpoints": [{"address": "a.example.com", "labels": {"networking.istio.io/tunnel": "http"}}]},
        {"endpoints": [{"address": "a.example.com", "network": "far"}]},
        {"endpoints": [{"address": "127.0.0.1"}]},
        {"resolution": "STATIC"},
        {"resolution": "NONE", "addresses": ["192.0.2.1"]},
    ],
)
def test_endpoints_that_a_waypoint_cannot_connect_to(spec: dict[str, object]) -> None:
    report = ask(scene(ENROLLED, outside(**spec)), url=API)
    assert report.sees.code == "503"
    assert "it has none that a waypoint can connect to" in report.summary
    assert report.last == "No policy is at fault. Look at: kubectl get serviceentry -n hello api -o yaml"


def test_of_several_endpoints_each_is_told_apart() -> None:
    far = {"address": "far.example.com", "network": "far"}
    given = [{"address": "a.example.com"}, {"address": "192.0.2.1"}, far]
    report = ask(scene(ENROLLED, outside(endpoints=given)), url=API)
    assert report.endpoints == {"hello/api/192.0.2.1": "200", "hello/api/a.example.com": "200"}
