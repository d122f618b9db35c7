"""Writes docs/security.md: `python -m tests.security.conformance_page`."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from tulle.security.decision import decide

from . import world
from .conformance_rows import Group, Row, build_policies, build_request, path_of, sections
from .known_bypasses import KNOWN

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "security.md"
TEXT = pathlib.Path(__file__).with_name("page.md")
_WORLD = f"""Unless a row says otherwise the destination is port 5000 of a pod of Service `helloworld` in namespace `hello`, with the
labels `app: helloworld` and `version: v1` and the address {world.POD_IP}; the Service's address is {world.SERVICE_IP}, the client's
{world.CLIENT_IP}, and the request is `GET /hello` for host `helloworld:5000`. A client is written `namespace/service account` in trust
domain `cluster.local`. Policies at a waypoint have `targetRefs` to the Service, which is left out below. *reset* is curl's exit code
56. The reason is given in the engine's words.
"""
_DETAILS = (
    ("service_port", "Service port"),
    ("port", "port"),
    ("source_ip", "from"),
    ("remote_ip", "forwarded for"),
    ("sni", "SNI"),
)
_WAYS = {
    "direct": "to the pod directly",
    "pod ip": "to the pod's address, through the waypoint",
    "waypoint": "to the Service",
}


def render() -> str:
    """The whole page."""
    parts, number = [TEXT.read_text().rstrip(), "", _bypasses(), "## Conformance table", _WORLD], 0
    body: list[str] = []
    for section, opening, groups in sections():
        body += [f"### {section}", opening, ""]
        for group in groups:
            body += _group(group)
            number += len(group["rows"])
    parts.insert(4, f"{number} requests, each written by hand from the specification.")
    return "\n".join([*parts, *body]).rstrip() + "\n"


def _bypasses() -> str:
    lines = ["## Known bypasses", "| bypass | idea | held by |", "|---|---|---|"]
    for one in KNOWN:
        held = [f"rows “{part}”" for part in one.rows] + [f"`{where.removesuffix('::')}`" for where in one.tests]
        lines.append(f"| {one.name} | {one.idea} | {'; '.join(held) or one.absent} |")
    return "\n".join([*lines, ""])


def _group(group: Group) -> list[str]:
    lines = [f"**{group['name']}**", ""]
    scene = [
        "at a waypoint" if group.get("at") == "waypoint" else "",
        "reached through a waypoint" if group.get("waypoint") else "",
    ]
    scene += [
        f"{name} {_flow(group[name])}" for name in ("profile", "mesh", "namespace", "labels", "ports") if name in group
    ]
    if found := "; ".join(part for part in scene if part):
        lines += [found, ""]
    objects = [_object("PeerAuthentication", item) for item in group.get("peerAuthentications", ())]
    objects += [_object("AuthorizationPolicy", item) for item in group.get("policies", ())]
    if objects:
        lines += ["```yaml", *objects, "```"]
    lines += ["| client | request | decision | reason |", "|---|---|---|---|"]
    policies = build_policies(group)
    for row in group["rows"]:
        reason = decide(policies, build_request(group, row, policies)).reason
        cells = (row["client"], _request(group, row), str(row["expect"]), reason)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("*", "\\*") for cell in cells) + " |")
    return [*lines, ""]


def _object(kind: str, item: Mapping[str, Any]) -> str:
    name = f"{item.get('namespace', 'hello')}/{item.get('name', 'policy')}"
    extra = f" {_flow(item['metadata'])}" if "metadata" in item else ""
    return f"{kind}/{name}{extra}: {_flow(item.get('spec') or {})}"


def _request(group: Group, row: Row) -> str:
    parts = [f"`{'TCP' if row.get('tcp') else row.get('request', 'GET /hello')}`"]
    if "via" in row:
        parts.append(_WAYS[path_of(group, row)])
    parts += [f"{text} {row[key]}" for key, text in _DETAILS if key in row]
    parts += [f"{key} `{_flow(row[key])}`" for key in ("headers", "claims") if key in row]
    return ", ".join([*parts, *(["port declared HTTP"] if row.get("declared") else [])])


def _flow(value: Any) -> str:
    """YAML on one line, without the quotes that it does not need."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return re.sub(r'"([A-Za-z_./][A-Za-z0-9_./-]*|[0-9.]+/[0-9]+)"', r"\1", text)


if __name__ == "__main__":
    PAGE.write_text(render())
