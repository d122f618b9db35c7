"""Policies that only look: AUDIT and dry runs change no answer and are named in the waypoint's log."""

from __future__ import annotations

import os

import pytest

from tests.waypoint.lab import TCP, TEST, WEB, Mesh, policy

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]

DRY = {"annotations": {"istio.io/dry-run": "true"}}


async def test_audit_names_the_policy_and_decides_nothing(mesh: Mesh) -> None:
    watch = policy({"action": "AUDIT", "rules": [{"to": [{"operation": {"paths": ["/watched"]}}]}]}, "watch")
    await mesh.configure(watch)
    assert (await mesh.get(path="/watched")).status == 200
    assert (await mesh.get(path="/unwatched")).status == 200
    assert (await mesh.logged(path="/watched"))["audit.policy"] == "ns[hello]-policy[watch]-rule[0]"
    assert "audit.policy" not in await mesh.logged(path="/unwatched")


async def test_a_dry_run_deny(mesh: Mesh) -> None:
    deny = policy({"action": "DENY", "rules": [{"to": [{"operation": {"methods": ["POST"]}}]}]}, "no-post", **DRY)
    await mesh.configure(deny)
    assert (await mesh.get(method="POST", path="/dry")).status == 200
    line = await mesh.logged(path="/dry")
    assert line["dry_run.deny.policy"] == "ns[hello]-policy[no-post]-rule[0]"
    assert line["dry_run.deny.result"] == "denied"


async def test_a_dry_run_allow(mesh: Mesh) -> None:
    allow = policy({"rules": [{"from": [{"source": {"namespaces": ["test"]}}]}]}, "only-test", **DRY)
    await mesh.configure(allow)
    assert (await mesh.get(TEST, path="/from-test")).status == 200
    assert (await mesh.get(WEB, path="/from-web")).status == 200
    passed, failed = await mesh.logged(path="/from-test"), await mesh.logged(path="/from-web")
    assert (passed["dry_run.allow.policy"], passed["dry_run.allow.result"]) == (
        "ns[hello]-policy[only-test]-rule[0]",
        "allowed",
    )
    assert failed["dry_run.allow.result"] == "denied"
    assert "dry_run.allow.policy" not in failed


async def test_a_dry_run_beside_a_policy_in_force(mesh: Mesh) -> None:
    enforced = policy({"action": "DENY", "rules": [{"to": [{"operation": {"paths": ["/no"]}}]}]}, "enforced")
    dry = policy({"action": "DENY", "rules": [{}]}, "dry", **DRY)
    await mesh.configure(enforced, dry)
    assert (await mesh.get(path="/no")).status == 403
    assert (await mesh.get(path="/both")).status == 200
    assert (await mesh.logged(path="/both"))["dry_run.deny.policy"] == "ns[hello]-policy[dry]-rule[0]"


async def test_opaque_connections(mesh: Mesh) -> None:
    dry = policy({"action": "DENY", "rules": [{"from": [{"source": {"namespaces": ["test"]}}]}]}, "dry-tcp", **DRY)
    await mesh.configure(dry)
    await mesh.eventually(200, port=TCP)
    fields = {"dst__addr": f"10.96.0.50:{TCP}", "dry_run__deny__policy": "ns[hello]-policy[dry-tcp]-rule[0]"}
    await mesh.eventually(200, port=TCP)
    assert (await mesh.logged(**fields))["dry_run.deny.result"] == "denied"
