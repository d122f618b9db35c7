"""What `tulle up`, `tulle install` and `istioctl waypoint apply --wait` say of pods that do not become Ready."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.support.api_server import api_server, empty_api_server
from tulle.cli import applying, waypoint
from tulle.kube.client import Client
from tulle.kube.resources import DEPLOYMENTS, EVENTS, PODS, SERVICE_ACCOUNTS

LABELS = {"app": "istiod"}
DEPLOYMENT: Mapping[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "istiod", "namespace": "default"},
    "spec": {
        "selector": {"matchLabels": LABELS},
        "template": {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "discovery", "image": "x"}]}},
    },
}
NO_ROOM = "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }."
STATUS: Mapping[str, Any] = {
    "phase": "Pending",
    "conditions": [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": NO_ROOM},
        {"type": "Ready", "status": "False"},
    ],
    "containerStatuses": [
        {
            "name": "discovery",
            "image": "x",
            "imageID": "",
            "ready": False,
            "restartCount": 2,
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 20s"}},
            "lastState": {"terminated": {"exitCode": 3}},
        }
    ],
}


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    with empty_api_server(tmp_path) as kubeconfig:
        async with Client.from_kubeconfig(kubeconfig) as made:
            account = {"metadata": {"name": "default", "namespace": "default"}}
            await made.create(SERVICE_ACCOUNTS, {"apiVersion": "v1", "kind": "ServiceAccount", **account})
            await made.create(DEPLOYMENTS, dict(DEPLOYMENT))
            yield made


async def waited_in_vain(client: Client) -> str:
    with pytest.raises(applying.NotReadyError) as refused:
        await applying.until_ready(client, [DEPLOYMENT], time.monotonic(), "kubectl get pods -A")
    return str(refused.value)


async def test_a_workload_without_pods(client: Client) -> None:
    assert await waited_in_vain(client) == (
        "not Ready in time: Deployment istiod; everything is left as it is for a look: kubectl get pods -A\n"
        "Deployment default/istiod has no pods"
    )


async def test_the_pods_their_events_and_containers(client: Client) -> None:
    pod = {"name": "istiod-1", "namespace": "default", "labels": LABELS}
    await client.create(
        PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": pod, "spec": DEPLOYMENT["spec"]["template"]["spec"]}
    )
    await client.patch(PODS, "istiod-1", {"status": STATUS}, "default", subresource="status")
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "istiod-1.1", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "istiod-1"},
        "type": "Warning",
        "reason": "FailedScheduling",
        "message": NO_ROOM,
    }
    await client.create(EVENTS, event)
    said = (await waited_in_vain(client)).splitlines()
    assert said[1:5] == [
        "pod default/istiod-1: Pending on node <none>",
        f"  PodScheduled is False: {NO_ROOM}",
        f"  event FailedScheduling: {NO_ROOM}",
        "  container discovery: waiting, CrashLoopBackOff back-off 20s; before that it ended with exit code 3",
    ]
    assert said[5].startswith("    no log: ")
    assert len(said) == 6


def test_a_waypoint_that_nobody_makes(tmp_path: Path) -> None:
    with api_server(tmp_path, _nothing) as kubeconfig:
        said = CliRunner().invoke(
            waypoint.app, ["apply", "-n", "default", "--wait", "--waypoint-timeout", "1", "--kubeconfig", kubeconfig]
        )
    assert said.exit_code == 1
    assert said.stderr.splitlines() == [
        "Error: waypoint default/waypoint is not ready after 1 s (Pending: Waiting for controller)",
        "it has no Deployment default/waypoint yet: see the log of istiod",
    ]


async def _nothing(_: Client) -> None:
    """The custom resources are enough."""
