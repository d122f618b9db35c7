"""Pods that nobody could have meant, and faults half-way: each costs its own pod a delay and tells its owner, nothing else."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock

import msgspec
import pytest

from tests.node.fakes import FakeNode, until
from tests.node.pods import pod
from tulle.cluster.node import linux
from tulle.cluster.node.pods import actions, manager, plan, spec, worker
from tulle.cluster.node.pods.manager import PodManager
from tulle.cluster.node.pods.worker import PodWorker
from tulle.cluster.node.runtime.shim.client import ShimError
from tulle.kube.informer import Change


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No mount on this machine, and no test that waits for seconds."""
    monkeypatch.setattr(linux, "mount", lambda *_: None)
    monkeypatch.setattr(worker, "RETRY", 0.02)
    monkeypatch.setattr(manager, "AGAIN", 0.02)


@pytest.fixture
def fake(tmp_path: Path) -> FakeNode:
    return FakeNode(tmp_path)


@asynccontextmanager
async def working(fake: FakeNode, wanted: spec.Pod) -> AsyncIterator[PodWorker]:
    made = PodWorker(fake.node, wanted, ())
    fake.runtime.on_change = made.container_ended
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


async def test_a_fault_of_a_worker_costs_its_pod_a_delay(fake: FakeNode) -> None:
    fake.network.failures = [KeyError("a fault"), KeyError("a fault")]
    async with working(fake, pod()) as worked:
        await until(lambda: "running" in container(fake))
        assert worked.runs["c"].current is not None
    assert fake.reasons.count("FailedSync") == 2


async def test_a_hook_that_cannot_even_be_tried_holds_up_no_end(fake: FakeNode) -> None:
    hook = {"preStop": {"tcpSocket": {"host": "x" * 70, "port": 80}}}
    wanted = pod({"name": "c", "lifecycle": hook}, terminationGracePeriodSeconds=1)
    async with working(fake, wanted) as worked:
        await until(lambda: "running" in container(fake))
        worked.update(msgspec.structs.replace(wanted, metadata=deleted(wanted)))
        await until(lambda: fake.client.deleted == ["p"])
    assert "FailedPreStopHook" in fake.reasons


def deleted(wanted: spec.Pod) -> spec.Metadata:
    return msgspec.structs.replace(wanted.metadata, deletion_timestamp="2026-01-01T00:00:00Z")


async def test_a_probe_that_cannot_even_be_tried_is_a_bad_answer(fake: FakeNode) -> None:
    handler = spec.Handler(tcp_socket=spec.TCPSocket(host="x" * 70, port=80))
    told = await actions.perform(fake.node, spec.Container(name="c"), "cid", handler, pod_ip="10.244.0.9", timeout=1)
    assert "label" in told


async def test_a_run_whose_predecessor_will_not_go_is_still_watched(
    fake: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "FIRST_BACKOFF", 0.0)

    async def stuck(_cid: str) -> None:
        raise ShimError("cgroup still has processes")

    async with working(fake, pod()) as worked:
        monkeypatch.setattr(fake.runtime, "remove", stuck)
        for attempt in range(3):
            await until(lambda: fake.runtime.created.count("c") == attempt + 1)  # noqa: B023
            await until(lambda: worked.runs["c"].current is not None and worked.runs["c"].current.startup_complete)
            if attempt < 2:
                fake.runtime.end(fake.runtime.running("c"), 1)


def document(uid: str = "u1", **status: Any) -> dict[str, Any]:
    meta = {"name": "p", "namespace": "ns", "uid": uid}
    return {"metadata": meta, "spec": {"containers": [{"name": "c"}]}, "status": status}


@asynccontextmanager
async def managing(fake: FakeNode) -> AsyncIterator[PodManager]:
    made = PodManager()
    made.attach(fake.node)
    try:
        yield made
    finally:
        await made.close()


async def test_a_pod_whose_worker_failed_and_that_is_deleted_then_is_cleaned_up(fake: FakeNode) -> None:
    fake.network.failures = [KeyError("a fault")] * 1000
    async with managing(fake) as pods:
        pods.changed(Change(("ns", "p"), None, document()))
        await until(lambda: "FailedSync" in fake.reasons)
        pods.changed(Change(("ns", "p"), document(), None))
        await until(lambda: bool(fake.network.detached) and not pods.workers)


async def test_a_pod_has_one_worker_also_when_there_is_news_after_a_fault(fake: FakeNode) -> None:
    fake.network.failures = [KeyError("a fault")]
    async with managing(fake) as pods:
        pods.changed(Change(("ns", "p"), None, document()))
        await until(lambda: "FailedSync" in fake.reasons)
        pods.changed(Change(("ns", "p"), document(), document()))
        await until(lambda: "running" in container(fake))
        await asyncio.sleep(0.1)
    assert sorted(fake.runtime.created) == ["POD", "c"]


async def test_a_pod_with_a_nameless_container_status_costs_the_node_nothing(fake: FakeNode) -> None:
    async with managing(fake) as pods:
        pods.changed(Change(("ns", "p"), None, document(containerStatuses=[{"ready": True}])))
        await until(lambda: "running" in container(fake))


async def test_a_pod_that_cannot_be_taken_on_is_tried_again(fake: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = [KeyError("a fault")]

    def parse(found: dict[str, Any]) -> spec.Pod:
        if faults:
            raise faults.pop()
        return msgspec.convert(found, spec.Pod)

    monkeypatch.setattr(spec, "parse", parse)
    async with managing(fake) as pods:
        pods.changed(Change(("ns", "p"), None, document()))
        await until(lambda: "running" in container(fake))
    assert "FailedSync" in fake.reasons


async def test_a_container_that_had_started_before_the_node_did_is_not_asked_again(
    fake: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def perform(*_: Any, **__: Any) -> str:
        asked.append("startup")
        return "not any more"

    probe = {"exec": {"command": ["x"]}, "failureThreshold": 1}
    wanted = {"name": "c", "startupProbe": probe}
    async with working(fake, pod(wanted)):
        monkeypatch.setattr(actions, "perform", AsyncMock(return_value=""))
        await until(lambda: bool(statuses(fake)) and statuses(fake)[-1]["started"])
    before = [*fake.runtime.statuses.values()]
    monkeypatch.setattr(actions, "perform", perform)
    told = pod(wanted, status={"containerStatuses": statuses(fake)[-1:]})
    adopting = PodWorker(fake.node, told, before)
    task = asyncio.create_task(adopting.run())
    await until(lambda: adopting.sandbox is not None)
    await asyncio.sleep(0.1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await adopting.close()
    run = adopting.runs["c"].current
    assert not asked
    assert run is not None
    assert run.startup_complete


def statuses(fake: FakeNode) -> list[Any]:
    """Every state of the container that the API server was told."""
    told = [p["status"].get("containerStatuses", ()) for p in fake.client.patched]
    return [status for one in told for status in one]


async def test_what_was_said_of_an_earlier_run_does_not_hold_for_the_next(fake: FakeNode) -> None:
    async with working(fake, pod({"name": "c"})):
        await until(lambda: bool(statuses(fake)) and statuses(fake)[-1]["ready"])
    before = [*fake.runtime.statuses.values()]
    same = statuses(fake)[-1]
    other = {**same, "containerID": "crun://another"}
    for said, holds in ((same, True), (other, False)):
        run = PodWorker(fake.node, pod({"name": "c"}, status={"containerStatuses": [said]}), before).runs["c"].current
        assert run is not None
        assert (run.started, run.ready) == (holds, holds)


CONFIGURED: dict[str, Any] = {"volumes": [{"name": "v", "configMap": {"name": "cm"}}]}


async def test_a_pod_whose_config_map_is_gone_still_ends(fake: FakeNode) -> None:
    fake.objects.objects["ConfigMap", "cm"] = {"data": {"file": "x"}}
    async with working(fake, pod(restartPolicy="Never", **CONFIGURED)) as worked:
        await until(lambda: "running" in container(fake))
        del fake.objects.objects["ConfigMap", "cm"]
        worked.sources_changed()
        await until(lambda: "FailedMount" in fake.reasons)
        fake.runtime.end(fake.runtime.running("c"), 0)
        await until(lambda: any(p["status"].get("phase") == "Succeeded" for p in fake.client.patched))


async def test_files_whose_update_failed_are_brought_up_to_date_later(fake: FakeNode) -> None:
    fake.objects.objects["ConfigMap", "cm"] = {"data": {"file": "old"}}
    file = fake.node.paths.pod("u1") / "volumes/v/file"
    async with working(fake, pod(**CONFIGURED)) as worked:
        await until(lambda: "running" in container(fake))
        del fake.objects.objects["ConfigMap", "cm"]
        worked.sources_changed()
        await until(lambda: "FailedMount" in fake.reasons)
        assert file.read_text() == "old"
        fake.objects.objects["ConfigMap", "cm"] = {"data": {"file": "new"}}  # nobody tells the worker of it
        await until(lambda: file.read_text() == "new")
        told = fake.reasons.count("FailedMount")
        await asyncio.sleep(0.1)
        assert fake.reasons.count("FailedMount") == told
