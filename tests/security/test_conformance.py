"""The conformance table: every row of ``conformance/*.yaml``, decided, explained and held against both compiled forms.

A file is a section of the specification. A group sets the scene (settings, policies, PeerAuthentications, how the request
travels); a row is one request. ``at: waypoint`` attaches each policy to Service helloworld by targetRefs.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import yaml

from tulle.security.decision import decide
from tulle.security.mesh import parse_mesh_config, profile
from tulle.security.model import AuthorizationPolicy
from tulle.security.policies import PolicySet

from . import world
from .agreement import check

TABLES = sorted(pathlib.Path(__file__).with_name("conformance").glob("*.yaml"))
TARGET = {"targetRefs": [{"kind": "Service", "group": "", "name": "helloworld"}]}
GROUP_KEYS = {
    "name",
    "at",
    "profile",
    "mesh",
    "policies",
    "peerAuthentications",
    "labels",
    "namespace",
    "waypoint",
    "ports",
    "rows",
}
ROW_KEYS = {
    "client", "request", "tcp", "port", "service_port", "via", "source_ip", "headers", "claims", "remote_ip", "sni",
    "declared", "expect", "because", "by",
}  # fmt: skip


def _rows() -> Iterator[Any]:
    for path in TABLES:
        table = yaml.safe_load(path.read_text())
        for group in table["groups"]:
            assert set(group) <= GROUP_KEYS, set(group) - GROUP_KEYS
            for index, row in enumerate(group["rows"]):
                assert set(row) <= ROW_KEYS, set(row) - ROW_KEYS
                yield pytest.param(group, row, id=f"{table['section']}: {group['name']} [{index + 1}]")


def _policy(item: Mapping[str, Any], attach: bool) -> AuthorizationPolicy:
    spec = dict(item.get("spec") or {})
    if attach and not spec.keys() & {"selector", "targetRef", "targetRefs"}:
        spec.update(TARGET)
    return world.policy(spec, item.get("name", "policy"), item.get("namespace", "hello"), **item.get("metadata", {}))


def build_policies(group: Mapping[str, Any]) -> PolicySet:
    settings = profile(group["profile"]) if "profile" in group else parse_mesh_config(group.get("mesh"))
    attach = group.get("at") == "waypoint"
    modes = [
        world.peer_authentication(
            pa["spec"], pa.get("name", "default"), pa.get("namespace", "hello"), **pa.get("metadata", {})
        )
        for pa in group.get("peerAuthentications", ())
    ]
    return PolicySet(settings, [_policy(item, attach) for item in group.get("policies", ())], modes)


@pytest.mark.parametrize(("group", "row"), list(_rows()))
def test_row(group: Mapping[str, Any], row: Mapping[str, Any]) -> None:
    policies = build_policies(group)
    waypoint = world.waypoint(policies.settings.trust_domain)
    waypoints = (waypoint,) if group.get("waypoint", group.get("at") == "waypoint") else ()
    target = world.workload(group.get("namespace", "hello"), group.get("labels"), waypoints)
    via = row.get("via", "waypoint" if waypoints else "direct")
    service = (
        None
        if via in ("direct", "pod ip")
        else world.service(target, ports=tuple(map(tuple, group.get("ports", [[5000, 5000]]))))
    )
    call = None
    if not row.get("tcp"):
        text = row.get("request", "GET /hello")
        call = world.http(text, row.get("headers"), claims=row.get("claims"), remote_ip=row.get("remote_ip", ""))
    request = world.request(
        row["client"],
        target,
        port=row.get("port", 5000),
        via=waypoint if via in ("waypoint", "pod ip") else None,
        to=service,
        service_port=row.get("service_port", 5000),
        source_ip=row.get("source_ip", world.CLIENT_IP),
        call=call,
        http_declared=row.get("declared", False),
        sni=row.get("sni", ""),
    )
    decision = decide(policies, request)
    assert decision.outcome.value == str(row["expect"]), decision.reason
    assert decision.allowed == (row["expect"] == "allowed")
    if "because" in row:
        assert row["because"] in decision.reason
    if "by" in row:
        hop = decision.hops[-1]
        assert hop.decided_by is not None, hop.reason
        assert f"{hop.decided_by.name} {hop.field}" == row["by"]
    check(policies, request, decision)
