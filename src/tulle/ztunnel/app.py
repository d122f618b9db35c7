"""The node proxy put together: istiod's state in, pods in, Envoy's configuration out.

Order at start: Envoy and its configuration server, then istiod, and the node agent only when istiod's first answers are
there, so that no pod is taken over into an empty mesh.  Everything later is independent: istiod or the node agent may go
away and come back, and Envoy may crash and be started again, while the last state keeps serving.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import structlog
from envoy.config.core.v3 import base_pb2
from google.protobuf import struct_pb2

import tulle
from tulle.envoy.ca_client import CaClient
from tulle.envoy.certificates import CertificateManager
from tulle.envoy.lifetime import until
from tulle.envoy.revocations import RevocationFile, Revocations
from tulle.xds import channels, types
from tulle.xds.client import AdsClient
from tulle.ztunnel.admin import Admin
from tulle.ztunnel.config.destination import Here
from tulle.ztunnel.configurator import Configurator
from tulle.ztunnel.dns.lookup import Place
from tulle.ztunnel.dns.server import DnsProxy
from tulle.ztunnel.dump import config_dump
from tulle.ztunnel.hosts import Hosts
from tulle.ztunnel.loglevels import NUMBERS, Levels, LogLevels
from tulle.ztunnel.netns import NetnsDirectory
from tulle.ztunnel.pods import LocalPods, listener_reader
from tulle.ztunnel.proxy import DRAIN_SECONDS, NodeEnvoy
from tulle.ztunnel.secrets import NodeSecrets
from tulle.ztunnel.settings import Settings
from tulle.ztunnel.traffic.monitor import TrafficMonitor
from tulle.ztunnel.zds import ZdsClient

_log = structlog.get_logger("tulle.ztunnel")

#: Seconds between two looks at whether the last connection has ended.
_POLL: Final = 0.1

_Apply: TypeAlias = Callable[[Mapping[str, bytes], Sequence[str]], None]


class NodeProxy:
    """One node proxy, from its settings to a serving Envoy."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._stop: asyncio.Event | None = None
        levels = settings.levels
        here = Here(settings.network, settings.cluster_id, settings.node, (settings.namespace, settings.pod))
        self.configurator = Configurator(here, settings.sink_port)
        self._hosts = Hosts(self.configurator.hosts_in_use, self.configurator.resolved)
        self.configurator.want_host = self._look_up
        ca = CaClient(
            settings.ca,
            settings.root_cert_path,
            settings.token_path,
            cluster_id=settings.cluster_id,
            server_name=settings.ca_server_name,
            lifetime=settings.secret_ttl,
        )
        self._certificates = CertificateManager(ca, impersonate=True)
        self._revocations = RevocationFile(settings.crl_path, self._revoke)
        maps = {
            types.LISTENER: self.configurator.listeners,
            types.ROUTES: self.configurator.routes,
            types.CLUSTER: self.configurator.shared_clusters,
            types.SECRET: NodeSecrets(self._certificates).secrets,
        }
        self.traffic = TrafficMonitor(
            self.configurator,
            settings.network,
            lambda uid: self.pods.netns(uid) if self.pods is not None else None,
            _write,
            level=NUMBERS[levels.of("access")],
            certified=self._certified,
        )
        place = Place(settings.network, settings.cluster_domain, settings.preferred_service_namespace)
        self._dns = DnsProxy(self.configurator.mesh, place, self.traffic.metrics.dns)
        self.envoy = NodeEnvoy(
            maps,
            self.configurator.clusters,
            settings.run_dir,
            node_id=settings.node_id,
            concurrency=settings.concurrency,
            log_level=settings.envoy_log_level,
            on_lines=self.traffic.lines,
            on_gone=self.traffic.envoy_gone,
        )
        self._istiod = AdsClient(
            channels.tls(settings.xds, settings.root_cert_path, server_name=settings.xds_server_name),
            _node(settings),
            {
                types.AUTHORIZATION: self._counted(types.AUTHORIZATION, self.configurator.apply_policies),
                types.ADDRESS: self._counted(types.ADDRESS, self.configurator.apply_addresses),
            },
            metadata=self._credentials,
            on_begin=self._certificates.authority_answers,
            on_end=lambda how: self.traffic.metrics.xds_ended(how.value),
        )
        self._admin = Admin(
            dump=self._dump,
            metrics=self.traffic.metrics.render,
            envoy_get=self.envoy.process.admin.get,
            pending=self.pending,
            levels=LogLevels(levels, self._log_at),
            stop=lambda: self._stop.set() if self._stop is not None else None,
            admin_port=settings.admin_port,
            stats_port=settings.stats_port,
            ready_port=settings.ready_port,
        )
        self._synced = False
        self._draining = False
        self.pods: LocalPods | None = None
        self._zds: ZdsClient | None = None

    def pending(self) -> tuple[str, ...]:
        """What readiness waits for."""
        waiting = {
            "the end of draining": self._draining,
            "state of the mesh from istiod": not self._synced,
            "Envoy": not self.envoy.live,
            "pods from the node agent": self._zds is None or not self._zds.snapshot_received,
        }
        return tuple(what for what, missing in waiting.items() if missing)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then let open connections end for the drain time."""
        self._stop = stop
        await self.envoy.start()
        await self._admin.start()
        directory = NetnsDirectory(self._settings.run_dir / "netns")
        self.pods = LocalPods(
            self.configurator,
            self._certificates,
            directory,
            self._dns,
            trust_domain=self._settings.trust_domain,
            keep_source=self._settings.keep_source,
            active_listeners=listener_reader(self.envoy.process.admin.get),
        )
        self._zds = ZdsClient(self._settings.zds_path, self.pods, lambda up: _log.info("node agent", connected=up))
        tasks = [
            asyncio.create_task(self._certificates.run(), name="certificates"),
            asyncio.create_task(self._revocations.run(), name="revocations"),
            asyncio.create_task(self._istiod.run(), name="istiod"),
            asyncio.create_task(self._take_pods(self._zds), name="pods"),
            asyncio.create_task(self._hosts.run(), name="host names"),
            asyncio.create_task(self.envoy.process.failed(), name="envoy"),
        ]
        try:
            await until(stop, tasks)
            await self._drain()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._admin.stop()
            await self.envoy.stop()
            self.traffic.stop()
            self.pods.close()

    async def _log_at(self, levels: Levels) -> None:
        self.traffic.level = NUMBERS[levels.of("access")]
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(NUMBERS[levels.of("ztunnel")]))
        if self.envoy.live:
            level = {"warn": "warning"}.get(levels.of("envoy"), levels.of("envoy"))
            await self.envoy.process.admin.post(f"/logging?level={level}")

    def _certified(self, identity: str) -> bool:
        state = self._certificates.state(identity)
        return state is not None and state.status == "Available"

    def _look_up(self, host: str) -> None:
        self.traffic.metrics.on_demand_dns()
        self._hosts.want(host)

    def _revoke(self, revocations: Revocations) -> None:
        self._certificates.revoke(revocations)
        self.traffic.revoked.revoke(revocations.serials)

    async def _take_pods(self, zds: ZdsClient) -> None:
        await self._istiod.synced()
        self._synced = True
        _log.info("mesh state received", istiod=self._settings.xds, workloads=len(self.configurator.mesh.workloads))
        await self.envoy.process.wait_live()
        await zds.run()

    async def _drain(self) -> None:
        """Take connections until another ztunnel does, and let those that are open end."""
        self._draining = True
        _log.info("draining", seconds=self._settings.drain_seconds, connections=len(self.traffic.connections))
        self._dns.close_all()
        await self.envoy.drain()
        left = self._settings.drain_seconds
        pause = min(DRAIN_SECONDS, left)
        while pause > 0:
            await asyncio.sleep(pause)
            left -= pause
            pause = min(_POLL, left) if self.traffic.connections else 0
        if self.traffic.connections:
            _log.warning("connections are cut", connections=len(self.traffic.connections))

    def _counted(self, type_url: str, apply: _Apply) -> _Apply:
        def handler(updated: Mapping[str, bytes], removed: Sequence[str]) -> None:
            self.traffic.metrics.xds_message(type_url, sum(map(len, updated.values())))
            apply(updated, removed)

        return handler

    def _credentials(self) -> Sequence[tuple[str, str]]:
        token = self._settings.token_path.read_text().strip()
        return (("authorization", f"Bearer {token}"), ("clusterid", self._settings.cluster_id))

    def _dump(self) -> Any:
        static = {key: str(value) for key, value in dataclasses.asdict(self._settings).items()}
        return config_dump(self.configurator, self.traffic.connections, self._certificates.states(), static)


def _write(lines: bytes) -> None:
    """The access log is the container's log."""
    sys.stdout.buffer.write(lines)
    sys.stdout.buffer.flush()


def _node(settings: Settings) -> base_pb2.Node:
    metadata = struct_pb2.Struct()
    metadata.update(
        {
            "NAME": settings.pod,
            "NAMESPACE": settings.namespace,
            "INSTANCE_IPS": settings.address,
            "NODE_NAME": settings.node,
            "CLUSTER_ID": settings.cluster_id,
            "ISTIO_VERSION": tulle.__version__,
        }
    )
    return base_pb2.Node(id=settings.node_id, metadata=metadata)
