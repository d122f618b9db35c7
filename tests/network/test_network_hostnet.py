"""What a node leaves on the host: refusals of what others use, crash leftovers, and nothing after the end."""

import json
from pathlib import Path

import pytest

from network.conftest import sh
from tulle.cluster import hostnet
from tulle.cluster.hostnet import HostNetworkError

pytestmark = pytest.mark.usefixtures("machine")


def everything() -> tuple[str, str, str, str]:
    forwarding = sh("sh", "-c", "cat /proc/sys/net/ipv4/conf/*/forwarding")
    return sh("ip", "-br", "addr"), sh("ip", "route"), sh("nft", "list", "ruleset"), forwarding


def test_create_and_destroy_leave_no_trace(tmp_path: Path) -> None:
    before = everything()
    for index in (0, 1, 0):
        made = hostnet.create(index, f"n{index}", tmp_path)
    assert made.pod_cidr == "10.244.0.0/24"
    assert (made.host_ip, made.node_ip) == ("169.254.77.1", "169.254.77.2")
    for name in ("n0", "n0", "n1", "never-made"):
        hostnet.destroy(name, tmp_path)
    assert everything() == before
    assert sh("ip", "netns", "list") == ""


def test_forwarding_of_the_uplink_is_given_back(tmp_path: Path) -> None:
    sh("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1")
    sh("ip", "link", "set", "up0", "up")
    sh("ip", "addr", "add", "198.51.100.1/24", "dev", "up0")
    sh("ip", "route", "add", "default", "via", "198.51.100.2")
    hostnet.create(0, "n0", tmp_path)
    hostnet.create(1, "n1", tmp_path)
    assert sh("cat", "/proc/sys/net/ipv4/conf/up0/forwarding") == "1\n"
    assert sh("cat", "/proc/sys/net/ipv4/conf/all/forwarding") == "0\n"
    hostnet.destroy("n0", tmp_path)
    assert sh("cat", "/proc/sys/net/ipv4/conf/up0/forwarding") == "1\n"
    hostnet.destroy("n1", tmp_path)
    assert sh("cat", "/proc/sys/net/ipv4/conf/up0/forwarding") == "0\n"


@pytest.mark.parametrize(
    ("setup", "message"),
    [
        (["ip link add tulle-0 type veth peer name x"], "link tulle-0 exists and belongs to somebody else"),
        (["ip netns add tulle-n0"], "network namespace tulle-n0 exists but is not recorded"),
        (
            ["ip link add x type veth peer name y", "ip link set x up", "ip addr add 10.244.0.7/24 dev x"],
            "pods need 10.244.0.0/24, but the host already routes 10.244.0.0/24 through x",
        ),
        (
            [
                "ip link add x type veth peer name y",
                "ip link set x up",
                "ip addr add 169.254.77.1/32 dev x",
                "ip route add 169.254.77.2/32 dev x",
            ],
            "node link need 169.254.77.0/30, but the host already routes 169.254.77.2/32 through x",
        ),
        (["nft add table ip tulle"], "nftables table ip tulle exists and belongs to somebody else"),
    ],
)
def test_what_others_use_is_refused_and_left_alone(tmp_path: Path, setup: list[str], message: str) -> None:
    for command in setup:
        sh(*command.split())
    before = everything()
    with pytest.raises(HostNetworkError, match=message):
        hostnet.create(0, "n0", tmp_path)
    hostnet.destroy("n0", tmp_path)
    assert everything() == before


def test_a_wider_route_of_others_is_no_obstacle(tmp_path: Path) -> None:
    for command in ("ip link add x type veth peer name y", "ip link set x up", "ip route add 10.0.0.0/8 dev x"):
        sh(*command.split())
    assert hostnet.create(0, "n0", tmp_path).index == 0


def test_another_clusters_link_names_its_state_directory(tmp_path: Path) -> None:
    hostnet.create(0, "n0", tmp_path / "one")
    with pytest.raises(HostNetworkError, match=rf"belongs to tulle:{tmp_path}/one, not to {tmp_path}/two"):
        hostnet.create(0, "other", tmp_path / "two")


@pytest.mark.parametrize("steps", range(4))
def test_half_made_nodes_are_cleared_and_can_be_made_again(tmp_path: Path, steps: int) -> None:
    before = everything()
    made = hostnet.create(0, "n0", tmp_path)
    undo = ["ip link delete tulle-0", "ip netns delete tulle-n0", "nft delete table ip tulle"]
    for command in undo[:steps]:  # as if a crash had come before these steps
        sh(*command.split())
    record = tmp_path / "nodes/n0" / hostnet.RECORD
    assert json.loads(record.read_text())["link"] == made.link
    assert hostnet.create(0, "n0", tmp_path) == made
    for command in undo[:steps]:
        sh(*command.split())
    hostnet.destroy("n0", tmp_path)
    assert everything() == before


def test_firewalls_that_would_drop_egress_are_named() -> None:
    assert hostnet.egress_obstacles() == ()
    sh(
        "nft",
        "-f",
        "-",
        stdin="table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }",
    )
    (said,) = hostnet.egress_obstacles()
    assert said.startswith("chain FORWARD of nftables table ip filter drops forwarded traffic by default")


def test_index_and_prefix_limits(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"index 63 is not within 0\.\.62"):
        hostnet.plan(63, "n")
    with pytest.raises(HostNetworkError, match="longer than the kernel's 15 characters"):
        hostnet.create(0, "n0", tmp_path, prefix="a-very-long-prefix")
