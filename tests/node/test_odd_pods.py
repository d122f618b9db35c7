"""Pods that nobody could have meant, and faults half-way: each costs its own pod a delay and tells its owner, nothing else."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.node.fakes import FakeNode, until
from tests.node.pods import pod
from tulle.cluster.node import linux
from tulle.cluster.node.pods import plan, spec, worker
from tulle.cluster.node.pods.worker import PodWorker


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mount on this machine, and no test that waits for seconds."""
    monkeypatch.setattr(linux, "mount", lambda *_: None)
    monkeypatch.setattr(worker, "RETRY", 0.02)


@pytest.fixture
def fake(tmp_path: Path) -> FakeNode:
    return FakeNode(tmp_path)


@asynccontextmanager
async def working(fake: FakeNode, wanted: spec.Pod) -> AsyncIterator[PodWorker]:
    made = PodWorker(fake.node, wanted, ())
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await made.close()


def container(fake: FakeNode) -> Any:
    """The container's state as the API server was told last."""
    statuses = [p["status"]["containerStatuses"] for p in fake.client.patched if "containerStatuses" in p["status"]]
    return statuses[-1][0]["state"] if statuses else {}


async def test_a_container_that_cannot_be_made_says_why_and_is_tried_again_later(
    fake: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "FIRST_BACKOFF", 0.2)
    fake.runtime.failures = [OSError(28, "No space left on device")]
    async with working(fake, pod()):
        await until(lambda: container(fake).get("waiting", {}).get("reason") == "CreateContainerError")
        assert "No space left on device" in container(fake)["waiting"]["message"]
        await asyncio.sleep(0.05)
        assert fake.runtime.created.count("c") == 1
        await until(lambda: "running" in container(fake))
    assert ("Failed", "Error: [Errno 28] No space left on device") in fake.recorder.told


async def test_a_sub_path_below_a_file_is_told_and_not_tried_at_once(fake: FakeNode) -> None:
    fake.objects.objects["ConfigMap", "cm"] = {"data": {"file": "x"}}
    volume = {"name": "v", "configMap": {"name": "cm"}}
    mount = {"name": "v", "mountPath": "/x", "subPath": "file/below"}
    async with working(fake, pod({"name": "c", "volumeMounts": [mount]}, volumes=[volume])):
        await until(lambda: "Failed" in fake.reasons)
        await asyncio.sleep(0.1)
    assert fake.reasons.count("Failed") == 1


async def test_a_secret_that_is_no_text_is_named(fake: FakeNode) -> None:
    fake.objects.objects["Secret", "s"] = {"data": {"blob": base64.b64encode(b"\xff\xfe").decode()}}
    async with working(fake, pod({"name": "c", "envFrom": [{"secretRef": {"name": "s"}}]})):
        await until(lambda: container(fake).get("waiting", {}).get("reason") == "CreateContainerConfigError")
    message = container(fake)["waiting"]["message"]
    assert "blob" in message
    assert "s" in message
