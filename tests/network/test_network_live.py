"""Pods, Services and DNS on real nodes: a private machine, the real kernel, real packets."""
# ruff: noqa: ASYNC240, ASYNC220, ASYNC221 - the event loop has nothing else to do while a test looks at a file or a command

import asyncio
import contextlib
import json
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from dnslib import QTYPE, RCODE, DNSRecord

from network import objects as o
from network.conftest import inside, sh
from network.fake_api import FakeApi
from network.sockets import serving, talk, udp
from tulle.cluster import hostnet
from tulle.cluster.node.network import namespaces
from tulle.cluster.node.network.config import NetworkConfig
from tulle.cluster.node.network.node_network import NodeNetwork
from tulle.cluster.node.seams import NetworkError, PodNetwork, PodRef

pytestmark = pytest.mark.usefixtures("machine")


@dataclass
class Node:
    api: FakeApi
    network: NodeNetwork
    config: NetworkConfig
    netns: Path

    async def pod(self, name: str, namespace: str = "d") -> PodNetwork:
        return await self.network.attach(PodRef(namespace, name, f"uid-{name}"), False)


@contextlib.asynccontextmanager
async def running(state: Path, index: int = 0, api: FakeApi | None = None) -> AsyncIterator[Node]:
    """A node whose process is this one, for as long as the context lasts."""
    plan = hostnet.plan(index, f"n{index}")
    netns = Path("/run/netns") / plan.netns
    config = NetworkConfig.for_node(index, f"n{index}", state / "nodes" / f"n{index}")
    with inside(netns):
        api = api or FakeApi()
        network = NodeNetwork(config, api, resolv_conf=state / "resolv.conf")  # type: ignore[arg-type]
        await network.setup_node()
        serving_task = asyncio.create_task(network.run())
        try:
            yield Node(api, network, config, netns)
        finally:
            if serving_task.done():
                serving_task.result()  # it must not have ended by itself
            serving_task.cancel()
            await asyncio.gather(serving_task, return_exceptions=True)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "resolv.conf").write_text("nameserver 203.0.113.9\nsearch example.org\n")
    hostnet.create(0, "n0", tmp_path)
    yield tmp_path
    hostnet.destroy("n0", tmp_path)


async def eventually(action: object) -> object:
    """The action's result, tried again until it stops refusing."""
    assert callable(action)
    async with asyncio.timeout(60):
        while True:
            try:
                return action()
            except (OSError, AssertionError):
                await asyncio.sleep(0.01)


async def test_pods_reach_each_other_and_keep_their_source_address(state: Path) -> None:
    async with running(state) as node:
        a, b = await asyncio.gather(node.pod("a"), node.pod("b"))
        with serving(b.netns_path, "0.0.0.0", 8080):
            assert talk(a.netns_path, b.ip, 8080) == f"hello {a.ip} {b.ip}:8080"
            assert talk(node.netns, b.ip, 8080).startswith(f"hello {node.config.gateway} ")
        with pytest.raises(ConnectionRefusedError):
            talk(a.netns_path, b.ip, 8080)


async def test_a_service_works_from_pods_the_node_and_its_own_endpoint(state: Path) -> None:
    async with running(state) as node:
        a, b = await node.pod("a"), await node.pod("b")
        node.api.put("services", o.service("d/web", "10.96.1.1", o.port(80, node_port=30080)))
        node.api.put("endpointslices", o.slice_of("d/web", [b.ip], 8080))
        with serving(b.netns_path, "0.0.0.0", 8080):
            assert await eventually(lambda: talk(a.netns_path, "10.96.1.1", 80)) == f"hello {a.ip} {b.ip}:8080"
            assert talk(b.netns_path, "10.96.1.1", 80).split()[1] == node.config.gateway, (
                "a hairpin comes from the node"
            )
            assert talk(node.netns, "10.96.1.1", 80).startswith("hello")
            assert talk(a.netns_path, node.config.node_ip, 30080).startswith("hello")
            with pytest.raises(ConnectionRefusedError):
                talk(a.netns_path, "10.96.1.1", 81)


async def test_a_service_without_endpoints_resets_and_follows_every_change(state: Path) -> None:
    async with running(state) as node:
        a, b, c = await node.pod("a"), await node.pod("b"), await node.pod("c")
        node.api.put("services", o.service("d/web", "10.96.1.1", o.port(80)))
        with serving(b.netns_path, "0.0.0.0", 8080, "b"), serving(c.netns_path, "0.0.0.0", 8080, "c"):
            for netns in (a.netns_path, node.netns):
                with pytest.raises(ConnectionRefusedError):
                    talk(netns, "10.96.1.1", 80)
            node.api.put("endpointslices", o.slice_of("d/web", [b.ip], 8080))
            assert (await eventually(lambda: talk(a.netns_path, "10.96.1.1", 80)))[0] == "b"  # type: ignore[index]
            node.api.put("endpointslices", o.slice_of("d/web", [c.ip], 8080))
            await eventually(lambda: _says(a.netns_path, "c"))
            node.api.put("endpointslices", o.slice_of("d/web", [b.ip, c.ip], 8080))
            seen: set[str] = set()
            async with asyncio.timeout(60):
                while seen != {"b", "c"}:
                    seen.add(talk(a.netns_path, "10.96.1.1", 80)[0])
                    await asyncio.sleep(0)
            node.api.put("services", o.service("d/web", "10.96.1.1", o.port(80), session_affinity="ClientIP"))
            await eventually(lambda: _needs(node.netns, "clients"))
            assert len({talk(a.netns_path, "10.96.1.1", 80)[0] for _ in range(12)}) == 1
            node.api.remove("services", "d", "web")
            await eventually(lambda: _refused(a.netns_path, "10.96.1.1", 80))
            await eventually(lambda: _lacks(node.netns, "svc-"))


def _needs(netns: Path, text: str) -> None:
    with inside(netns):
        assert text in sh("nft", "list", "table", "ip", "tulle-services")


def _says(netns: str, word: str) -> None:
    assert talk(netns, "10.96.1.1", 80)[0] == word


def _lacks(netns: Path, text: str) -> None:
    with inside(netns):
        assert text not in sh("nft", "list", "table", "ip", "tulle-services")


def _refused(netns: str, address: str, port: int) -> None:
    with contextlib.suppress(ConnectionRefusedError):
        talk(netns, address, port)
        raise AssertionError(f"{address}:{port} still answers")


async def test_a_pod_cannot_speak_in_anothers_name(state: Path) -> None:
    async with running(state) as node:
        a, b = await node.pod("a"), await node.pod("b")
        with serving(b.netns_path, "0.0.0.0", 8080):
            assert talk(a.netns_path, b.ip, 8080).startswith("hello")
            for forged in ("169.254.7.127", b.ip, node.config.gateway, "10.244.0.77"):
                with pytest.raises(OSError, match="timed out"):
                    talk(a.netns_path, b.ip, 8080, source=forged, timeout=0.3)
            with inside(a.netns_path):
                sh("ip", "link", "set", "eth0", "down")
                sh("ip", "link", "set", "eth0", "address", "0a:58:00:00:00:99", "up")
                sh("ip", "route", "add", node.config.gateway, "dev", "eth0")
                sh("ip", "route", "add", "default", "via", node.config.gateway)
            with pytest.raises(OSError, match=r"timed out|No route"):
                talk(a.netns_path, b.ip, 8080, timeout=0.3)


async def test_attach_is_idempotent_and_survives_a_restart_of_the_node(state: Path) -> None:
    async with running(state) as node:
        first = await node.pod("a")
        assert await node.pod("a") == first
    async with running(state) as node:
        again = await node.pod("a")
        b = await node.pod("b")
        assert again.ip == first.ip
        assert b.ip != first.ip
        with serving(again.netns_path, "0.0.0.0", 8080):
            assert talk(b.netns_path, again.ip, 8080).startswith("hello")
        await node.network.detach(PodRef("d", "a", "uid-a"))
        await node.network.detach(PodRef("d", "a", "uid-a"))
        with inside(node.netns):
            assert first.ip not in sh("nft", "list", "ruleset")
            assert "pod-0-2" not in sh("ip", "link")
        assert not Path(first.netns_path).exists()


async def test_host_network_pods_use_the_nodes_own_namespace(state: Path) -> None:
    async with running(state) as node:
        given = await node.network.attach(PodRef("d", "h", "uid-h"), True)
        assert given.ip == node.config.node_ip
        assert Path(given.netns_path).stat().st_ino == node.netns.stat().st_ino


PLUGIN = """#!/bin/sh
cat > {log}.stdin; env | grep ^CNI_ >> {log}; echo -- >> {log}
[ "$CNI_COMMAND" = ADD ] && [ -e {log}.refuse ] && echo '{{"code": 11, "msg": "not today"}}' && exit 1
[ "$CNI_COMMAND" = ADD ] && nsenter --net="$CNI_NETNS" ip -br addr >> {log}
exit 0
"""


async def test_chained_plugins_see_the_pod_and_their_refusal_undoes_it(state: Path) -> None:
    log = state / "plugin.log"
    async with running(state) as node:
        program = node.config.cni_bin_dir / "third-party"
        program.write_text(PLUGIN.format(log=log))
        program.chmod(0o755)
        conflist = node.config.cni_config_dir / "10-tulle.conflist"
        document = json.loads(conflist.read_text())
        document["plugins"].append({"type": "third-party", "colour": "red"})
        conflist.write_text(json.dumps(document))
        given = await node.pod("a", "shop")
        said = log.read_text()
        assert "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=a" in said
        assert "K8S_POD_UID=uid-a" in said
        assert f"{given.ip}/32" in said, "the plugin runs after the pod is wired"
        config = json.loads(Path(f"{log}.stdin").read_text())
        assert (config["colour"], config["prevResult"]["ips"][0]["address"]) == ("red", f"{given.ip}/32")
        assert config["name"] == "tulle"
        Path(f"{log}.refuse").touch()
        with pytest.raises(NetworkError, match=r"third-party failed ADD for pod shop/b: not today"):
            await node.pod("b", "shop")
        with inside(node.netns):
            assert "pod-0-3" not in sh("ip", "link")
        Path(f"{log}.refuse").unlink()
        assert (await node.pod("b", "shop")).ip


async def ask(netns: str | Path, name: str, kind: str = "A") -> DNSRecord:
    packet = bytes(DNSRecord.question(name, kind).pack())
    return DNSRecord.parse(await asyncio.to_thread(udp, netns, "10.96.0.10", 53, packet))


async def test_dns_from_a_pod(state: Path) -> None:
    async with running(state) as node:
        a = await node.pod("a")
        node.api.put("namespaces", o.namespace("d"))
        node.api.put("services", o.service("d/web", "10.96.1.1", o.port(80)))
        node.api.put("services", o.service("kube-system/kube-dns", "10.96.0.10", o.port(53, "dns", "UDP")))
        await eventually(lambda: _needs(node.netns, "hairpin"))
        answer = await ask(a.netns_path, "web.d.svc.cluster.local")
        assert [str(rr.rdata) for rr in answer.rr] == ["10.96.1.1"]
        assert (await ask(a.netns_path, "web.d.svc.cluster.local", "AAAA")).header.rcode == RCODE.NOERROR
        assert (await ask(a.netns_path, "no.d.svc.cluster.local")).header.rcode == RCODE.NXDOMAIN
        with inside(a.netns_path):
            link = socket.create_connection(("10.96.0.10", 53), timeout=3)
        reader, writer = await asyncio.open_connection(sock=link)
        packet = bytes(DNSRecord.question("web.d.svc.cluster.local").pack())
        for _ in range(2):
            writer.write(len(packet).to_bytes(2, "big") + packet)
            size = int.from_bytes(await reader.readexactly(2), "big")
            assert DNSRecord.parse(await reader.readexactly(size)).rr[0].rtype == QTYPE.A
        writer.close()


async def test_resolv_conf(state: Path) -> None:
    async with running(state) as node:
        conf = node.network.resolv_conf("shop", "ClusterFirst")
        assert conf.splitlines() == [
            "nameserver 10.96.0.10",
            "search shop.svc.cluster.local svc.cluster.local cluster.local example.org",
            "options ndots:5",
        ]
        assert node.network.resolv_conf("shop", "Default") == "nameserver 203.0.113.9\nsearch example.org\n"
        assert node.network.resolv_conf("shop", "None") == ""


async def test_two_nodes_and_the_outside_world(state: Path) -> None:
    """Pods of two nodes reach each other; a NodePort of one node leads to a pod of the other; egress has the host's address."""
    sh("ip", "netns", "add", "world")
    sh("ip", "link", "add", "up0", "type", "veth", "peer", "name", "up1", "netns", "world")
    sh("ip", "addr", "add", "198.51.100.1/24", "dev", "up0")
    sh("ip", "link", "set", "up0", "up")
    sh("ip", "-n", "world", "addr", "add", "198.51.100.2/24", "dev", "up1")
    sh("ip", "-n", "world", "link", "set", "up1", "up")
    sh("ip", "-n", "world", "link", "set", "lo", "up")
    sh("ip", "-n", "world", "route", "add", "10.244.0.0/16", "via", "198.51.100.1")
    sh("ip", "route", "add", "default", "via", "198.51.100.2")
    hostnet.create(1, "n1", state)
    hostnet.destroy("n0", state)
    hostnet.create(0, "n0", state)
    api = FakeApi()
    async with running(state, 0, api) as first:
        a = await first.pod("a")
        api.put("services", o.service("d/web", "10.96.1.1", o.port(80, node_port=30080)))
        api.put("endpointslices", o.slice_of("d/web", ["10.244.1.2"], 8080))
        await eventually(lambda: _needs(first.netns, "10.244.1.2"))
        async with running(state, 1, api) as second:  # this process now works in the second node's namespace
            b = await second.pod("b")
            with serving(b.netns_path, "0.0.0.0", 8080), serving("/run/netns/world", "198.51.100.2", 80):
                assert talk(a.netns_path, b.ip, 8080) == f"hello {a.ip} {b.ip}:8080"
                assert (await eventually(lambda: talk(a.netns_path, "10.96.1.1", 80))).startswith(f"hello {a.ip} ")  # type: ignore[attr-defined]
                assert talk(a.netns_path, "198.51.100.2", 80).startswith("hello 198.51.100.1 ")
                assert await eventually(lambda: talk(a.netns_path, first.config.node_ip, 30080))
            with serving(a.netns_path, "0.0.0.0", 9000), pytest.raises(OSError, match="timed out"):
                talk("/run/netns/world", a.ip, 9000, timeout=0.3)
    hostnet.destroy("n1", state)
    subprocess.run(["ip", "netns", "delete", "world"], check=True)


async def test_udp_clients_move_on_when_their_endpoint_goes(state: Path) -> None:
    """One client socket all along: only forgotten connection tracking lets it reach the next endpoint."""
    async with running(state) as node:
        a, b, c = await node.pod("a"), await node.pod("b"), await node.pod("c")
        node.api.put("services", o.service("d/u", "10.96.1.9", o.port(99, "u", "UDP")))
        node.api.put("endpointslices", o.slice_of("d/u", [b.ip], 9, "u", "UDP"))
        await eventually(lambda: _needs(node.netns, b.ip + ":9"))
        servers = {}
        for pod in (b, c):
            with inside(pod.netns_path):
                servers[pod.ip] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            servers[pod.ip].bind(("0.0.0.0", 9))
            servers[pod.ip].settimeout(0.3)
        with inside(a.netns_path):
            client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        client.connect(("10.96.1.9", 99))
        client.send(b"1")
        assert servers[b.ip].recv(9) == b"1"
        node.api.put("endpointslices", o.slice_of("d/u", [c.ip], 9, "u", "UDP"))

        def moved() -> None:
            client.send(b"2")
            assert servers[c.ip].recv(9) == b"2"

        await eventually(moved)
        for link in (client, *servers.values()):
            link.close()


async def test_a_living_pods_namespace_is_found_again_when_its_pin_is_gone(state: Path) -> None:
    async with running(state) as node:
        given = await node.pod("a")
        path, proc = Path(given.netns_path), state / "proc"
        inode = path.stat().st_ino
        sleeper = subprocess.Popen(["nsenter", f"--net={path}", "sleep", "60"])
        process = proc / str(sleeper.pid)
        (process / "ns").mkdir(parents=True)
        (process / "ns/net").symlink_to(f"/proc/{sleeper.pid}/ns/net")
        (process / "cgroup").write_text("0::/kubepods/poduid-a/c1\n")
        await eventually(lambda: _same(Path(f"/proc/{sleeper.pid}/ns/net"), inode))
        await namespaces.unpin(path)
        assert not await namespaces.pin_again(path, "uid-b", proc)
        assert await namespaces.pin_again(path, "uid-a", proc)
        assert namespaces.is_pinned(path)
        assert path.stat().st_ino == inode
        sleeper.kill()
        sleeper.wait()


def _same(path: Path, inode: int) -> None:
    assert path.stat().st_ino == inode
