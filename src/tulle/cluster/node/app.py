"""The node's process, put together: the runtime, the network, the pods, the kubelet's server, the registration.

Each part runs until the process is told to end; then the containers stay as they are, and the next process takes them
over.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from tulle.cluster.node.images.store import ImageStore
from tulle.cluster.node.paths import NodePaths
from tulle.cluster.node.pods.env import Service, ServicePort
from tulle.cluster.node.pods.manager import PodManager
from tulle.cluster.node.pods.node import Node
from tulle.cluster.node.pods.objects import ObjectCache
from tulle.cluster.node.pods.pulls import Pulls
from tulle.cluster.node.pods.volumes import Volumes
from tulle.cluster.node.registration import NodeIdentity, Registration, capacity
from tulle.cluster.node.runtime import security
from tulle.cluster.node.runtime.runtime import Runtime
from tulle.cluster.node.seams import Network
from tulle.cluster.node.server.app import KubeletServer
from tulle.kube.client import Client
from tulle.kube.errors import ApiError
from tulle.kube.events import EventRecorder
from tulle.kube.informer import Informer
from tulle.kube.objects import Service as ServiceObject
from tulle.kube.resources import SERVICES

log = structlog.get_logger("tulle.node")

KUBELET_PORT = 10250
SERVICES_PATIENCE = 5.0
"""Seconds that the first pods wait for the Services, whose addresses are in their environment."""


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    state_dir: Path
    name: str
    kubeconfig: str
    node_ip: str
    pod_cidr: str
    port: int = KUBELET_PORT
    labels: tuple[tuple[str, str], ...] = ()


NetworkFactory = Callable[[Settings, NodePaths, Client], Network]


def embedded_network(settings: Settings, paths: NodePaths, client: Client) -> Network:
    """The network of `tulle.cluster.node.network`; loaded only here, so that the kubelet can be used with another."""
    module = importlib.import_module("tulle.cluster.node.network.node_network")
    config = importlib.import_module("tulle.cluster.node.network.config")
    made: Network = module.NodeNetwork(
        config.NetworkConfig(
            node_name=settings.name, node_ip=settings.node_ip, pod_cidr=settings.pod_cidr, state_dir=paths.root
        ),
        client,
    )
    return made


def service_facts(informer: Informer[ServiceObject]) -> tuple[Service, ...]:
    """The Services with a cluster address, as a pod's environment tells of them."""
    found = []
    for (namespace, name), service in informer.store.items():
        ip = service.spec.cluster_ip
        if ip and ip != "None":
            ports = tuple(ServicePort(p.name, p.port, p.protocol) for p in service.spec.ports)
            found.append(Service(namespace, name, ip, ports))
    return tuple(found)


async def run(settings: Settings, network_factory: NetworkFactory = embedded_network) -> None:
    """Run the node until cancelled. The caller has put this process into its network and mount namespaces."""
    paths = NodePaths(settings.state_dir, settings.name)
    paths.create()
    async with Client.from_kubeconfig(settings.kubeconfig, component="kubelet") as client:
        manager = PodManager()
        runtime = Runtime(paths, manager.container_ended)
        objects = ObjectCache(client, manager.sources_changed)
        recorder = EventRecorder(client, "kubelet", settings.name)
        services = Informer(client, SERVICES)
        network = network_factory(settings, paths, client)
        has = capacity(settings.state_dir)
        node = Node(
            name=settings.name,
            ip=settings.node_ip,
            paths=paths,
            client=client,
            runtime=runtime,
            pulls=Pulls(ImageStore(paths.images)),
            volumes=Volumes(paths, objects),
            objects=objects,
            network=network,
            recorder=recorder,
            services=lambda: service_facts(services),
            allocatable=has,
            capabilities=security.own_capabilities(),
        )
        manager.attach(node)
        identity = NodeIdentity(
            settings.name, settings.node_ip, settings.pod_cidr, settings.port, dict(settings.labels)
        )
        registration = Registration(client, identity, has)
        server = KubeletServer(node, manager, settings.port)
        try:
            await runtime.start()
            await network.setup_node()
            async with asyncio.TaskGroup() as group:
                group.create_task(recorder.run(), name="events")
                group.create_task(services.run(), name="services")
                group.create_task(network.run(), name="network")
                group.create_task(server.run(), name="kubelet server")
                group.create_task(_register(registration), name="registration")
                group.create_task(_keep_runtime(runtime, manager), name="runtime")
                await _first_services(services)
                group.create_task(manager.run(), name="pods")
                registration.set_ready(True, "kubelet is posting ready status")
        finally:
            await objects.close()
            await runtime.close()


async def _first_services(services: Informer[ServiceObject]) -> None:
    try:
        async with asyncio.timeout(SERVICES_PATIENCE):
            await services.synced()
    except TimeoutError:
        log.warning("starting pods without knowing the Services yet")


async def _register(registration: Registration) -> None:
    while True:
        try:
            await registration.register()
            break
        except ApiError as error:
            log.warning("node not registered", error=str(error))
            await asyncio.sleep(0.5)
    await registration.run()


async def _keep_runtime(runtime: Runtime, manager: PodManager) -> None:
    """A shim that died is replaced; its containers could not be kept and are reported as ended."""
    while True:
        await runtime.lost.wait()
        runtime.lost.clear()
        log.error("the container shim died; starting another")
        await runtime.start()
        await manager.recover()
