"""The agent as a process: its parts wired together, started in the order that keeps pods safe, stopped without
undoing anything.

A stopped agent leaves redirection, probe addresses and plugin in place. Captured pods keep working through ztunnel,
new pods wait.
"""

import asyncio
import signal

import structlog

from tulle.cni.agent import Agent
from tulle.cni.health import Health
from tulle.cni.install import keep_installed
from tulle.cni.members import Members
from tulle.cni.plugin_api import PluginServer
from tulle.cni.probes import ProbeAddresses
from tulle.cni.settings import Settings
from tulle.cni.zds.server import ZdsServer
from tulle.kube import Client

log = structlog.get_logger("tulle.cni")


async def run(settings: Settings, client: Client) -> None:
    """Serve until cancelled. Raises OSError when a socket or port cannot be had."""
    probes = ProbeAddresses()
    zds = ZdsServer(settings.zds_socket)
    members = Members(zds, probes, settings.drain_seconds)
    agent = Agent(settings, client, zds, members)
    installed = asyncio.Event()
    health = Health(
        {
            "plugin": installed.is_set,
            "pods": agent.settled.is_set,
        },
        {
            "tulle_cni_captured_pods": ("Pods of this node whose traffic is redirected.", lambda: float(len(members))),
            "tulle_cni_ztunnels": ("ztunnels connected over ZDS.", lambda: float(zds.connected)),
        },
    )
    plugin = PluginServer(settings.plugin_socket, agent)
    async with (
        zds.serve(),
        plugin.serve(),
        health.serve(settings.ready_address, settings.ready_port),
        asyncio.TaskGroup() as group,
    ):
        group.create_task(keep_installed(settings, installed))
        group.create_task(agent.run())
        await agent.settled.wait()
        await probes.start()
        log.info("every pod of the node has been looked at", captured=len(members))


async def main(settings: Settings) -> None:
    """Run until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Client.in_cluster(component="istio-cni-node") as client:
        serving = asyncio.create_task(run(settings, client))
        stopping = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        for task in (serving, stopping):
            task.cancel()
        await asyncio.gather(serving, stopping, return_exceptions=True)
        if serving in done:
            serving.result()
        log.info("stopped; captured pods stay captured")
