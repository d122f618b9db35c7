"""What a cluster is made of for a number of nodes, and how it is found again."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tulle.cluster import hostnet, lifecycle
from tulle.cluster.lifecycle import ClusterError, ClusterSpec

NODES = st.integers(min_value=1, max_value=lifecycle.MAX_NODES)


@given(NODES)
def test_every_node_has_names_and_addresses_of_its_own(nodes: int) -> None:
    spec = ClusterSpec("/state", 6443, "lesson", nodes)
    plans = [hostnet.plan(i, lifecycle.node_name(i)) for i in spec.node_indices]
    assert [plan.name for plan in plans] == list(spec.node_names)
    for values in zip(*((p.netns, p.link, p.host_ip, p.node_ip, p.pod_cidr) for p in plans), strict=True):
        assert len(set(values)) == nodes


@given(NODES)
def test_the_control_plane_starts_first_and_serves_every_node(nodes: int) -> None:
    spec = ClusterSpec("/state", 7443, "lesson", nodes)
    plans = [hostnet.plan(i, lifecycle.node_name(i)) for i in spec.node_indices]
    first, *rest = lifecycle.processes(spec, plans)
    assert first.name == "control-plane"
    given_addresses = [first.command[i + 1] for i, word in enumerate(first.command) if word == "--address"]
    assert given_addresses == [plan.host_ip for plan in plans]
    assert [process.name for process in rest] == list(spec.node_names)
    for process, plan in zip(rest, plans, strict=True):
        assert process.command[:4] == ("ip", "netns", "exec", plan.netns)
        assert plan.node_ip in process.command
        assert plan.pod_cidr in process.command


def test_a_recorded_cluster_is_found(tmp_path: Path) -> None:
    assert lifecycle.find(tmp_path) is None
    (tmp_path / "cluster.json").write_text(json.dumps({"state": "/s", "port": 1, "profile": "istio", "nodes": 3}))
    assert lifecycle.find(tmp_path) == ClusterSpec("/s", 1, "istio", 3)


@pytest.mark.parametrize("nodes", [-1, 0, lifecycle.MAX_NODES + 1])
def test_an_impossible_number_of_nodes(tmp_path: Path, nodes: int) -> None:
    with pytest.raises(ClusterError, match=f"--nodes {nodes} is not possible: accepted are 1 to 8"):
        lifecycle.start(ClusterSpec(str(tmp_path), 6443, "lesson", nodes))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="the message for everybody else comes first")
def test_a_missing_tool_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match=r"ip, nft, conntrack, crun, mount not found: .*conntrack crun iproute2"):
        lifecycle.start(ClusterSpec(str(tmp_path / "state"), 6443, "lesson"))


@pytest.mark.skipif(os.geteuid() != 0, reason="the message for everybody else comes first")
@pytest.mark.parametrize(("port", "why"), [(70000, "is not a port"), (None, "cannot be used")])
def test_a_port_that_cannot_be_had(tmp_path: Path, port: int | None, why: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = port or taken.getsockname()[1]
        with pytest.raises(ClusterError, match=why):
            lifecycle.start(ClusterSpec(str(tmp_path / "state"), wanted, "lesson"))
    assert not (tmp_path / "state").exists()


def test_nothing_to_stop(tmp_path: Path) -> None:
    assert lifecycle.stop(tmp_path) is False
