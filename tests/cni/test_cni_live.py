"""Capture of real pods: real namespaces, real nftables, real packets, the real plugin, and a ztunnel that only acknowledges."""

import asyncio
import json
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from network.conftest import inside, sh
from network.sockets import serving, talk

from cni.mesh_node import REDIRECTION, MeshNode, mesh_node
from tulle.cluster.node.seams import NetworkError, PodRef
from tulle.cni.enrolment import BYPASS_INBOUND

pytestmark = pytest.mark.usefixtures("machine")
ZTUNNEL_MARK = 0x539


@pytest.fixture
def state() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tk-cni-") as directory:  # a socket's path must be short
        yield Path(directory)


def refused(netns: str | Path, address: str, port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        talk(netns, address, port)


async def test_running_pods_are_captured_and_released_without_a_restart(state: Path) -> None:
    async with mesh_node(state) as node:
        node.namespace("shop")
        node.namespace("out")
        client, client_ip = await node.start("shop", "client")
        server, server_ip = await node.start("shop", "server")
        stranger, stranger_ip = await node.start("out", "stranger")
        async with node.agent(), node.ztunnel() as ztunnel:
            with serving(server, "0.0.0.0", 8080, "app"):
                assert talk(client, server_ip, 8080).startswith(f"app {client_ip} ")
                node.ambient("shop")
                await node.until_redirection("shop", "client", "enabled")
                await node.until_redirection("shop", "server", "enabled")
                assert ztunnel.netns == {
                    "u-shop-client": os.stat(client).st_ino,
                    "u-shop-server": os.stat(server).st_ino,
                }
                check_redirection(node, client, server, server_ip, stranger)
                node.namespace("shop")
                await node.until_redirection("shop", "client", None)
                await node.until_redirection("shop", "server", None)
                await ztunnel.until(lambda z: not z.netns)
                assert talk(client, server_ip, 8080).startswith(f"app {client_ip} ")
                assert talk(stranger, server_ip, 8080).startswith(f"app {stranger_ip} ")
                with inside(server):
                    assert "tulle" not in sh("nft", "list", "ruleset")
                    assert "0x111" not in sh("ip", "rule")
        assert {who for _, who, _ in node.api.patches} == {"client", "server"}


def check_redirection(node: MeshNode, client: str, server: str, server_ip: str, stranger: str) -> None:
    """Section A3, seen from the packets' side."""
    # Without a listener of ztunnel everything is refused, in both directions and even to a port where the app listens.
    refused(client, server_ip, 8080)
    refused(client, "203.0.113.1", 443)
    refused(stranger, server_ip, 8080)
    with serving(client, "0.0.0.0", 15001, "out"), serving(server, "0.0.0.0", 15006, "in"):
        assert talk(client, server_ip, 8080).split()[::2] == ["out", f"{server_ip}:8080"]
        assert talk(client, "203.0.113.1", 443).split()[::2] == ["out", "203.0.113.1:443"]
        assert talk(stranger, server_ip, 8080).split()[::2] == ["in", f"{server_ip}:8080"]
        assert talk(stranger, server_ip, 15006).startswith("in ")
    with serving(client, "0.0.0.0", 15001, "out"):
        refused(stranger, "10.244.0.2", 15001)
    with serving(server, "0.0.0.0", 15008, "hbone"):
        assert talk(stranger, server_ip, 15008).startswith("hbone ")
        assert talk(client, server_ip, 15008, mark=ZTUNNEL_MARK).startswith("hbone ")
    # The app's own loopback, and its own address, are not captured; ztunnel's marked connections pass to the app.
    assert talk(server, "127.0.0.1", 8080).startswith("app 127.0.0.1 ")
    assert talk(server, server_ip, 8080).startswith("app ")
    assert talk(server, server_ip, 8080, mark=ZTUNNEL_MARK).startswith("app ")
    # The kubelet's probes pass under an address of their own, which nobody else can use.
    assert talk(node.netns, server_ip, 8080).startswith("app 169.254.7.127 ")
    with pytest.raises(OSError, match="timed out"):
        talk(stranger, server_ip, 8080, source="169.254.7.127", timeout=0.3)


async def test_replies_to_ztunnels_spoofed_clients_come_back_to_it(state: Path) -> None:
    """ztunnel speaks to the app under the client's address; connmark and the route bring the app's replies back to ztunnel."""
    async with mesh_node(state) as node:
        node.ambient("shop")
        server, server_ip = await started_before_the_agent(node, "shop", "server")
        async with node.agent(), node.ztunnel():
            await node.until_redirection("shop", "server", "enabled")
            with serving(server, "0.0.0.0", 8080, "app"):
                said = talk(server, server_ip, 8080, mark=ZTUNNEL_MARK, source="10.244.0.99")
                assert said.startswith("app 10.244.0.99 ")


async def test_ztunnel_may_use_a_port_that_the_client_uses_too(state: Path) -> None:
    """The client's own connection is redirected to ztunnel; that of ztunnel to the app has the same four numbers."""
    async with mesh_node(state) as node:
        node.ambient("shop")
        node.namespace("out")
        server, server_ip = await started_before_the_agent(node, "shop", "server")
        client, client_ip = await node.start("out", "client")
        async with node.agent(), node.ztunnel():
            await node.until_redirection("shop", "server", "enabled")
            with inside(server):
                listener = socket.create_server(("0.0.0.0", 15006))
            with listener, serving(server, "0.0.0.0", 8080, "app"), inside(client):
                own = socket.create_connection((server_ip, 8080), source_address=(client_ip, 40001))
                with own, listener.accept()[0] as redirected:
                    for _ in range(2):
                        said = talk(server, server_ip, 8080, mark=ZTUNNEL_MARK, source=client_ip, source_port=40001)
                        assert said.startswith(f"app {client_ip} ")
                    redirected.sendall(b"still here")
                    assert own.recv(100) == b"still here"


async def started_before_the_agent(node: MeshNode, namespace: str, name: str, **annotations: str) -> tuple[str, str]:
    assert not list(node.config.cni_bin_dir.glob("tulle-cni"))
    return await node.start(namespace, name, **annotations)


async def test_pending_until_a_ztunnel_accepts(state: Path) -> None:
    async with mesh_node(state) as node:
        node.ambient("shop")
        server, server_ip = await started_before_the_agent(node, "shop", "server")
        async with node.agent():
            await node.until_redirection("shop", "server", "pending")
            with serving(server, "0.0.0.0", 8080):
                assert talk(node.netns, server_ip, 8080).startswith("hello 169.254.7.127"), "probes pass while pending"
            refused(server, "203.0.113.1", 80)
            async with node.ztunnel(refuse={"u-shop-server": "cannot bind"}) as ztunnel:
                await ztunnel.until(lambda z: ("snapshot_sent", "") in z.log)
                assert node.pod("shop", "server").metadata.annotations[REDIRECTION] == "pending"
                ztunnel.refuse.clear()
                await node.until_redirection("shop", "server", "enabled")


async def test_bypass_of_inbound_capture_applies_live(state: Path) -> None:
    async with mesh_node(state) as node:
        node.ambient("shop")
        server, server_ip = await started_before_the_agent(node, "shop", "server", **{BYPASS_INBOUND: "true"})
        other, _ = await node.start("out", "other") if node.namespace("out") is None else ("", "")
        async with node.agent(), node.ztunnel():
            await node.until_redirection("shop", "server", "enabled")
            with serving(server, "0.0.0.0", 8080):
                assert talk(other, server_ip, 8080).startswith("hello ")
            refused(server, "203.0.113.1", 80)


async def test_a_new_pod_is_captured_before_its_first_process(state: Path) -> None:
    async with mesh_node(state) as node:
        node.ambient("shop")
        node.namespace("istio-system")
        node.namespace("plain")
        async with node.agent():
            plugins = json.loads((node.config.cni_config_dir / "10-tulle.conflist").read_text())["plugins"]
            assert [p["type"] for p in plugins] == ["tulle-node", "tulle-cni"]
            await node.start("istio-system", "ztunnel")
            await node.start("plain", "p")
            uid = node.declare("shop", "a").metadata.uid
            node.started.append(PodRef("shop", "a", uid))
            with pytest.raises(
                NetworkError, match=r"pod shop/a is not captured by the mesh: .*no ztunnel is connected"
            ):
                await node.network.attach(PodRef("shop", "a", uid), False)
            async with node.ztunnel() as ztunnel:
                given = await node.network.attach(PodRef("shop", "a", uid), False)
                assert ztunnel.netns[uid] == os.stat(given.netns_path).st_ino
                refused(given.netns_path, "203.0.113.1", 80)
                assert REDIRECTION not in node.pod("shop", "a").metadata.annotations, "it has no address yet"
                netns, _ = await node.start("shop", "b")
                await node.until_redirection("shop", "b", "enabled")
                assert ztunnel.netns["u-shop-b"] == os.stat(netns).st_ino
                assert [a for _, name, a in node.api.patches if name == "b"] == [{REDIRECTION: "enabled"}]
        uid = node.declare("shop", "c").metadata.uid
        with pytest.raises(NetworkError, match=r"pod shop/c cannot start: the mesh's node agent .* does not answer"):
            await node.network.attach(PodRef("shop", "c", uid), False)
        await node.start("istio-system", "istiod")


async def test_a_restarted_agent_takes_over_without_touching_anything(state: Path) -> None:
    async with mesh_node(state) as node:
        node.ambient("shop")
        server, server_ip = await started_before_the_agent(node, "shop", "server")
        gone, _ = await node.start("shop", "gone")
        async with node.agent(), node.ztunnel():
            for name in ("server", "gone"):
                await node.until_redirection("shop", name, "enabled")
        node.namespace("shop")  # while no agent runs, the namespace leaves the mesh, but one pod has a label of its own
        labelled = node.pod("shop", "server")
        labelled.metadata.labels["istio.io/dataplane-mode"] = "ambient"
        before, patches = ruleset(server), len(node.api.patches)
        async with node.agent():
            assert ruleset(server) == before, "not even replaced: the handles are the same"
            with serving(server, "0.0.0.0", 8080):
                assert talk(node.netns, server_ip, 8080).startswith("hello 169.254.7.127")
            async with node.ztunnel() as ztunnel:
                await ztunnel.until(lambda z: ("snapshot_sent", "") in z.log)
                assert ztunnel.log[0] == ("add", "u-shop-server")
                await node.until_redirection("shop", "gone", None)
                assert "tulle" not in ruleset(gone)
                assert "u-shop-gone" not in ztunnel.netns
            assert node.pod("shop", "server").metadata.annotations[REDIRECTION] == "enabled"
        assert all(name == "gone" for _, name, _ in node.api.patches[patches:])


def ruleset(netns: str) -> str:
    with inside(netns):
        return sh("nft", "-a", "list", "ruleset")


async def test_the_newest_ztunnel_is_in_charge_and_the_older_one_takes_over_again(state: Path) -> None:
    async with mesh_node(state) as node:
        node.ambient("shop")
        await started_before_the_agent(node, "shop", "one")
        async with node.agent(), node.ztunnel() as old:
            await node.until_redirection("shop", "one", "enabled")
            async with node.ztunnel() as new:
                await new.until(lambda z: ("snapshot_sent", "") in z.log)
                await node.start("shop", "two")
                assert "u-shop-two" in new.netns
                assert "u-shop-two" not in old.netns
            await old.until(lambda z: "u-shop-two" in z.netns)
            node.api.remove("pods", "shop", "two")
            await old.until(lambda z: "u-shop-two" not in z.netns)
            assert set(old.netns) == {"u-shop-one"}


async def test_a_ztunnel_that_never_answers_does_not_block_the_next_one(state: Path) -> None:
    async with mesh_node(state) as node:
        node.ambient("shop")
        await started_before_the_agent(node, "shop", "one")
        async with node.agent(), node.ztunnel(silent=True) as silent:
            await silent.until(lambda z: z.log)
            assert silent.log == [("add", "u-shop-one")], "one request at a time"
            async with node.ztunnel():
                await node.until_redirection("shop", "one", "enabled")


async def test_deleted_pods_leave_and_their_successor_of_the_same_name_is_captured(state: Path) -> None:
    async with mesh_node(state) as node:
        node.ambient("shop")
        async with node.agent(), node.ztunnel() as ztunnel:
            await node.start("shop", "db-0")
            await node.until_redirection("shop", "db-0", "enabled")
            node.api.remove("pods", "shop", "db-0")
            await ztunnel.until(lambda z: not z.netns)
            with inside(node.netns):
                await asyncio.sleep(0.05)
                assert "10.244.0.2" not in sh("nft", "list", "table", "ip", "tulle-probes")
            netns, _ = await node.start("shop", "db-0", uid="second")
            await node.until_redirection("shop", "db-0", "enabled")
            assert ztunnel.netns == {"second": os.stat(netns).st_ino}
