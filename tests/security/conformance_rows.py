"""The rows of ``conformance/*.yaml`` as policy sets and requests.

A file is a section of the specification. A group sets the scene (settings, policies, PeerAuthentications, how the request
travels); a row is one request. ``at: waypoint`` attaches each policy to Service helloworld by targetRefs.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from tulle.security.decision import Request
from tulle.security.mesh import parse_mesh_config, profile
from tulle.security.model import AuthorizationPolicy
from tulle.security.policies import PolicySet

from . import world

TABLES = sorted(pathlib.Path(__file__).with_name("conformance").glob("*.yaml"))
TARGET = {"targetRefs": [{"kind": "Service", "group": "", "name": "helloworld"}]}
GROUP_KEYS = {
    "name", "at", "profile", "mesh", "policies", "peerAuthentications", "labels", "namespace", "waypoint", "ports", "rows",
}  # fmt: skip
ROW_KEYS = {
    "client", "request", "tcp", "port", "service_port", "via", "source_ip", "headers", "claims", "remote_ip", "sni",
    "declared", "expect", "because", "by",
}  # fmt: skip

Group = Mapping[str, Any]
Row = Mapping[str, Any]


def sections() -> Iterator[tuple[str, str, list[Group]]]:
    """Each file's section, the comment that opens it, and its groups."""
    for path in TABLES:
        text = path.read_text()
        opening = " ".join(line[2:] for line in text.splitlines() if line.startswith("# "))
        table = yaml.safe_load(text)
        for group in table["groups"]:
            assert set(group) <= GROUP_KEYS, set(group) - GROUP_KEYS
            for row in group["rows"]:
                assert set(row) <= ROW_KEYS, set(row) - ROW_KEYS
        yield table["section"], opening, table["groups"]


def build_policies(group: Group) -> PolicySet:
    """What is in force in a group."""
    settings = profile(group["profile"]) if "profile" in group else parse_mesh_config(group.get("mesh"))
    attach = group.get("at") == "waypoint"
    modes = [
        world.peer_authentication(
            pa["spec"], pa.get("name", "default"), pa.get("namespace", "hello"), **pa.get("metadata", {})
        )
        for pa in group.get("peerAuthentications", ())
    ]
    return PolicySet(settings, [_policy(item, attach) for item in group.get("policies", ())], modes)


def _policy(item: Mapping[str, Any], attach: bool) -> AuthorizationPolicy:
    spec = dict(item.get("spec") or {})
    if attach and not spec.keys() & {"selector", "targetRef", "targetRefs"}:
        spec.update(TARGET)
    return world.policy(spec, item.get("name", "policy"), item.get("namespace", "hello"), **item.get("metadata", {}))


def has_waypoint(group: Group) -> bool:
    """Whether the group's pod is reached through a waypoint."""
    return bool(group.get("waypoint", group.get("at") == "waypoint"))


def path_of(group: Group, row: Row) -> str:
    """How a row's request travels: ``direct``, through the waypoint to the Service (``waypoint``) or to the ``pod ip``."""
    return str(row.get("via", "waypoint" if has_waypoint(group) else "direct"))


def build_request(group: Group, row: Row, policies: PolicySet) -> Request:
    """A row's request."""
    waypoint = world.waypoint(policies.settings.trust_domain)
    waypoints = (waypoint,) if has_waypoint(group) else ()
    target = world.workload(group.get("namespace", "hello"), group.get("labels"), waypoints)
    via = path_of(group, row)
    ports = tuple(map(tuple, group.get("ports", [[5000, 5000]])))
    call = None
    if not row.get("tcp"):
        text = row.get("request", "GET /hello")
        call = world.http(text, row.get("headers"), claims=row.get("claims"), remote_ip=row.get("remote_ip", ""))
    return world.request(
        row["client"],
        target,
        port=row.get("port", 5000),
        via=waypoint if via in ("waypoint", "pod ip") else None,
        to=None if via in ("direct", "pod ip") else world.service(target, ports=ports),
        service_port=row.get("service_port", 5000),
        source_ip=row.get("source_ip", world.CLIENT_IP),
        call=call,
        http_declared=row.get("declared", False),
        sni=row.get("sni", ""),
    )
