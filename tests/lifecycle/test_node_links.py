"""Nodes reach each other's pods and addresses without the host's namespace, in whatever order they came."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path

import pytest
from network.conftest import inside, machine, sh

from tulle.cluster import hostnet

__all__ = ["machine"]
pytestmark = pytest.mark.usefixtures("machine")


def nodes(state: Path, *indices: int) -> list[hostnet.HostPlan]:
    return [hostnet.create(index, f"n{index}", state) for index in indices]


def pod(plan: hostnet.HostPlan) -> str:
    """An address of the node's pod range, as if a pod had it; the address itself."""
    address = plan.pod_cidr.replace(".0/24", ".9")
    sh("ip", "-n", plan.netns, "addr", "add", f"{address}/32", "dev", "lo")
    return address


def reaches(source: hostnet.HostPlan, target: hostnet.HostPlan, address: str, local: str = "") -> None:
    """Carry a connection from the source to an address of the target."""
    with inside(f"/run/netns/{target.netns}"), socket.create_server((address, 0)) as server:
        port = server.getsockname()[1]
        with (
            inside(f"/run/netns/{source.netns}"),
            socket.create_connection((address, port), 5, source_address=(local, 0) if local else None),
        ):
            accepted, peer = server.accept()
            accepted.close()
    assert peer[0] == (local or source.node_ip)


def test_every_node_reaches_every_other(tmp_path: Path) -> None:
    made = nodes(tmp_path, 2, 1, 3)
    pods = {plan.name: pod(plan) for plan in made}
    sh("nft", "add table ip deny; add chain ip deny f { type filter hook forward priority 0; policy drop; }")
    for one, other in itertools.permutations(made, 2):
        reaches(one, other, other.node_ip)
        reaches(one, other, pods[other.name])
        reaches(one, other, pods[other.name], pods[one.name])


def test_a_node_made_again_is_linked_again(tmp_path: Path) -> None:
    one, _ = nodes(tmp_path, 1, 2)
    again = hostnet.create(2, "n2", tmp_path)
    reaches(one, again, again.node_ip)
    reaches(again, one, one.node_ip)


def test_the_last_node_takes_everything_with_it(tmp_path: Path) -> None:
    before = sh("ip", "-br", "link"), sh("ip", "route"), sh("nft", "list", "ruleset")
    nodes(tmp_path, 1, 2, 3)
    for name in ("n2", "n1", "n3"):
        hostnet.destroy(name, tmp_path)
    assert (sh("ip", "-br", "link"), sh("ip", "route"), sh("nft", "list", "ruleset")) == before
    assert sh("ip", "netns", "list") == ""


def test_another_clusters_nodes_are_not_linked(tmp_path: Path) -> None:
    hostnet.create(1, "n1", tmp_path / "one", prefix="tk-a")
    with pytest.raises(hostnet.HostNetworkError):
        hostnet.create(1, "n1", tmp_path / "two", prefix="tk-b")
    other = hostnet.create(2, "n2", tmp_path / "two", prefix="tk-b")
    assert "node1" not in sh("ip", "-n", other.netns, "-br", "link")
