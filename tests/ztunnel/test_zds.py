"""The hand-over of pods: the protocol with a real socket, and namespaces as paths."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tulle.ztunnel.netns import NetnsDirectory
from tulle.ztunnel.pods import PodInfo, PodRefusedError, listener_reader
from tulle.ztunnel.zds import ZdsClient

from .agent import Agent


class Pods:
    """Remembers what it was told; refuses the name `bad`."""

    def __init__(self) -> None:
        self.known: dict[str, PodInfo] = {}

    def __contains__(self, uid: str) -> bool:
        return uid in self.known

    async def add(self, uid: str, info: PodInfo, descriptor: int) -> None:
        os.close(descriptor)
        if info.name == "bad":
            raise PodRefusedError("pod ns/bad: no good")
        self.known[uid] = info

    def remove(self, uid: str) -> None:
        self.known.pop(uid, None)

    def remove_others(self, keep: frozenset[str]) -> None:
        for uid in set(self.known) - keep:
            del self.known[uid]


@pytest_asyncio.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    found = Agent(tmp_path / "zds.sock")
    yield found
    found.close()


@pytest_asyncio.fixture
async def pods(agent: Agent) -> AsyncIterator[Pods]:
    found = Pods()
    client = ZdsClient(str(agent.path), found)
    task = asyncio.create_task(client.run())
    yield found
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_snapshot_then_changes(agent: Agent, pods: Pods) -> None:
    await agent.accept()
    netns = "/proc/self/ns/net"
    assert await agent.add("u1", "a", "ns", netns) == ""
    assert await agent.add("u2", "bad", "ns", netns) == "pod ns/bad: no good"
    assert await agent.snapshot_sent() == ""
    assert await agent.add("u3", "c", "ns", netns, "sa") == ""
    assert pods.known == {"u1": PodInfo("a", "ns", "default"), "u3": PodInfo("c", "ns", "sa")}
    assert await agent.delete("u1") == ""
    assert await agent.delete("never") == ""
    assert set(pods.known) == {"u3"}


async def test_nothing_is_dropped_while_the_agent_is_away(agent: Agent, pods: Pods) -> None:
    await agent.accept()
    for uid in ("u1", "u2", "u3"):
        await agent.add(uid, uid, "ns", "/proc/self/ns/net")
    await agent.snapshot_sent()
    agent.hang_up()
    await agent.accept()
    assert set(pods.known) == {"u1", "u2", "u3"}
    assert await agent.keep("u1") == ""
    assert await agent.keep("u9") == "keep of u9: not known here; send it with its network namespace"
    assert await agent.add("u2", "u2", "ns", "/proc/self/ns/net") == ""
    assert set(pods.known) == {"u1", "u2", "u3"}
    await agent.snapshot_sent()
    assert set(pods.known) == {"u1", "u2"}


async def test_an_add_needs_a_namespace(agent: Agent, pods: Pods) -> None:
    from tulle.xds.proto import zds_pb2

    await agent.accept()
    request = zds_pb2.WorkloadRequest(add=zds_pb2.AddWorkload(uid="u1"))
    assert "exactly one network namespace" in await agent._ask(request)
    assert pods.known == {}


def test_paths_are_never_used_twice(tmp_path: Path) -> None:
    directory = NetnsDirectory(tmp_path / "netns")
    first = directory.hold("u1", os.open("/proc/self/ns/net", os.O_RDONLY))
    assert Path(first.path).stat().st_ino == first.inode == Path("/proc/self/ns/net").stat().st_ino
    directory.release(first)
    assert not os.path.lexists(first.path)
    second = directory.hold("u1", os.open("/proc/self/ns/net", os.O_RDONLY))
    assert second.descriptor == first.descriptor, "the number is the same, as it would be for another pod"
    assert second.path != first.path
    directory.release(second)


def test_links_of_a_process_before_are_removed(tmp_path: Path) -> None:
    (tmp_path / "netns").mkdir()
    (tmp_path / "netns" / "old.1").symlink_to("/proc/1/fd/1")
    NetnsDirectory(tmp_path / "netns")
    assert list((tmp_path / "netns").iterdir()) == []


async def test_only_the_open_listeners_of_the_pod_are_asked_for() -> None:
    asked = []

    async def get(path: str) -> str:
        asked.append(path)
        open_one = {"name": "pod/a.b/outbound", "active_state": {"version_info": "1"}}
        return json.dumps({"configs": [open_one, {"name": "pod/a.b/hbone"}]})

    assert await listener_reader(get)("a.b") == {"pod/a.b/outbound"}
    assert "name_regex=pod%2Fa%5C.b%2F.%2A&" in asked[0]
