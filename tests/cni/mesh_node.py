"""A node of the embedded cluster with the capture agent on it, all in this process, on a private machine."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from network import objects as o
from network.conftest import inside
from network.fake_api import FakeApi

from cni.zds_client import FakeZtunnel
from tulle.cluster import hostnet
from tulle.cluster.node.network.config import NetworkConfig
from tulle.cluster.node.network.node_network import NodeNetwork
from tulle.cluster.node.seams import PodRef
from tulle.cni.app import run
from tulle.cni.settings import Settings, from_environment
from tulle.kube.objects import Namespace, Pod, PodIp, PodSpec, PodStatus

REDIRECTION = "ambient.istio.io/redirection"


@dataclass
class MeshNode:
    state: Path
    api: FakeApi
    network: NodeNetwork
    config: NetworkConfig
    netns: Path
    settings: Settings
    processes: dict[str, int] = field(default_factory=dict)
    started: list[PodRef] = field(default_factory=list)

    def namespace(self, name: str, **labels: str) -> None:
        labels = {key.replace("__", "/").replace("_", "-"): value for key, value in labels.items()}
        self.api.put("namespaces", Namespace(metadata=o.meta("", name, **labels)))

    def ambient(self, name: str) -> None:
        self.api.put("namespaces", Namespace(metadata=o.meta("", name, **{"istio.io/dataplane-mode": "ambient"})))

    def declare(self, namespace: str, name: str, uid: str = "", **annotations: str) -> Pod:
        """The Pod object, as it is before the node has started it."""
        metadata = msgspec.structs.replace(o.meta(namespace, name), annotations=annotations)
        metadata = msgspec.structs.replace(metadata, uid=uid or metadata.uid)
        pod = Pod(metadata=metadata, spec=PodSpec(node_name=self.settings.node_name), status=PodStatus(phase="Pending"))
        self.api.put("pods", pod)
        return pod

    async def start(self, namespace: str, name: str, uid: str = "", **annotations: str) -> tuple[str, str]:
        """Declare and start a pod: its netns path and address. Its one process shows up under the node's /proc."""
        uid = self.declare(namespace, name, uid, **annotations).metadata.uid
        self.started.append(PodRef(namespace, name, uid))
        given = await self.network.attach(PodRef(namespace, name, uid), False)
        self.processes[uid] = 1000 + len(self.processes)
        process = self.settings.proc / str(self.processes[uid])
        (process / "ns").mkdir(parents=True)
        (process / "cgroup").write_text(f"0::/../../kubepods/pod{uid}/0123456789abcdef\n")
        (process / "ns/net").symlink_to(given.netns_path)
        pod = self.pod(namespace, name)
        status = PodStatus(phase="Running", pod_ip=given.ip, pod_ips=(PodIp(ip=given.ip),))
        metadata = msgspec.structs.replace(pod.metadata, resource_version=str(self.api.version + 1))
        self.api.put("pods", msgspec.structs.replace(pod, status=status, metadata=metadata))
        return given.netns_path, given.ip

    def pod(self, namespace: str, name: str) -> Pod:
        found = self.api.objects["pods"][namespace, name]
        assert isinstance(found, Pod)
        return found

    async def until_redirection(self, namespace: str, name: str, value: str | None) -> None:
        async with asyncio.timeout(60):
            while self.pod(namespace, name).metadata.annotations.get(REDIRECTION) != value:
                self.api.changed.clear()
                await self.api.changed.wait()

    @contextlib.asynccontextmanager
    async def agent(self) -> AsyncIterator[None]:
        """The agent's process, ready, for as long as the context lasts."""
        task = asyncio.create_task(run(self.settings, self.api))  # type: ignore[arg-type]
        try:
            async with asyncio.timeout(60):
                while not await self._ready():
                    if task.done():
                        task.result()
                    await asyncio.sleep(0.01)
            yield
        finally:
            if task.done():
                task.result()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _ready(self) -> bool:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.settings.ready_port)
        except OSError:
            return False
        writer.write(b"GET /readyz HTTP/1.0\r\n\r\n")
        status = await reader.readline()
        writer.close()
        return b" 200 " in status

    @contextlib.asynccontextmanager
    async def ztunnel(self, **how: object) -> AsyncIterator[FakeZtunnel]:
        """A ztunnel that is connected for as long as the context lasts."""
        ztunnel = FakeZtunnel(self.settings.zds_socket, **how)  # type: ignore[arg-type]
        task = asyncio.create_task(ztunnel.run())
        try:
            yield ztunnel
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def mesh_node(state: Path) -> AsyncIterator[MeshNode]:
    hostnet.create(0, "n0", state)
    netns = Path("/run/netns/tulle-n0")
    config = NetworkConfig.for_node(0, "n0", state / "nodes/n0")
    fs = config.filesystem
    (state / "proc").mkdir()
    settings = from_environment(
        {
            "NODE_NAME": "n0",
            "HOST_PROC": str(state / "proc"),
            "ZDS_SERVER_ADDRESS": str(state / "zds.sock"),
            "MOUNTED_CNI_NET_DIR": str(fs / "etc/cni/net.d"),
            "MOUNTED_CNI_BIN_DIR": str(fs / "opt/cni/bin"),
            "CNI_AGENT_RUN_DIR": str(fs / "var/run/istio-cni"),
            "HOST_CNI_AGENT_RUN_DIR": "/var/run/istio-cni",
            "READY_ADDRESS": "127.0.0.1",
            "ZTUNNEL_HANDOVER_SECONDS": "1",
            "ZTUNNEL_DRAIN_SECONDS": "0",
        }
    )
    with inside(netns):
        api = FakeApi()
        network = NodeNetwork(config, api, resolv_conf=Path(os.devnull))  # type: ignore[arg-type]
        await network.setup_node()
        try:
            node = MeshNode(state, api, network, config, netns, settings)
            yield node
        finally:
            for ref in node.started:
                await network.detach(ref)
    hostnet.destroy("n0", state)
