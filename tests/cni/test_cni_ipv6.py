"""The redirection of a pod that speaks IPv6, with the rules that the agent puts in force."""

import os
from collections.abc import Iterator

import pytest
from network.conftest import inside, sh
from network.sockets import serving, talk

from tests.ztunnel.lab import Lab, Pod
from tulle.cni import netns as pod_netns
from tulle.cni.enrolment import Redirection
from tulle.cni.netns import PodNetns
from tulle.cni.rules import PROBE_SOURCE_IPV6, pod_ruleset

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
RULES = pod_ruleset(Redirection(dns=True))


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab("tk-c6", "10.244.84")
    lab.up()
    try:
        yield lab
    finally:
        lab.down()


def refused(pod: Pod, address: str, port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        talk(pod.path, address, port)


async def test_ipv6_is_redirected_as_ipv4_is(lab: Lab) -> None:
    stranger, pod = lab.add("stranger", 10), lab.add("pod", 11)
    netns = PodNetns.adopt(os.open(pod.path, os.O_RDONLY))
    with serving(pod.path, "::", 8080, "app"), serving(stranger.path, "::", 8080, "stranger"):
        assert talk(stranger.path, pod.ip6, 8080).startswith("app ")
        await pod_netns.apply(netns, RULES)
        assert await pod_netns.verify(netns, RULES)
        refused(stranger, pod.ip6, 8080)
        refused(pod, stranger.ip6, 8080)
        with serving(pod.path, "::", 15001, "out"), serving(pod.path, "::", 15006, "in"):
            assert talk(pod.path, stranger.ip6, 8080).startswith("out ")
            assert talk(stranger.path, pod.ip6, 8080).startswith("in ")
        with serving(pod.path, "::", 15008, "hbone"):
            assert talk(stranger.path, pod.ip6, 15008).startswith("hbone ")
        assert talk(pod.path, stranger.ip6, 8080, mark=0x539).startswith("stranger "), "ztunnel's own pass"
        assert talk(pod.path, "::1", 8080).startswith("app ")
        assert talk(pod.path, pod.ip6, 8080).startswith("app ")
        with inside(stranger.path):
            sh(
                "ip",
                "-6",
                "addr",
                "add",
                f"{PROBE_SOURCE_IPV6}/128",
                "dev",
                "eth0",
                "nodad",
                "preferred_lft",
                "forever",
            )
            sh("ip", "-6", "route", "replace", f"{pod.ip6}/128", "dev", "eth0", "src", PROBE_SOURCE_IPV6)
        assert talk(stranger.path, pod.ip6, 8080).startswith(f"app {PROBE_SOURCE_IPV6}"), "probes pass"
        await pod_netns.apply(netns, RULES)
        with inside(pod.path):
            assert sh("ip", "-6", "rule").count("0x111") == 1
        await pod_netns.remove(netns)
        assert talk(pod.path, stranger.ip6, 8080).startswith("stranger ")
        with inside(pod.path):
            assert "0x111" not in sh("ip", "-6", "rule")
    netns.close()
