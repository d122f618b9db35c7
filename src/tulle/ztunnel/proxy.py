"""Envoy and the local ADS server that feeds it, as one thing that is started and stopped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import grpc
import structlog

from tulle.envoy.binary import find_envoy
from tulle.envoy.bootstrap import NodeInfo, UnixSocket, bootstrap
from tulle.envoy.process import EnvoyOptions, EnvoyProcess, EnvoyState
from tulle.xds.delta import Rejection
from tulle.xds.resources import ResourceMap
from tulle.xds.server import AdsServer, ClientNode
from tulle.ztunnel.ondemand import OnDemandServer

_log = structlog.get_logger("tulle.ztunnel")

#: Statistics worth their memory: a cluster of every destination with all of Envoy's counters would cost many times more.
_STATISTICS: Final = ("server.", "listener_manager.", "cluster_manager.", "control_plane.", "tcp.", "http.", "runtime.")
#: How long Envoy may keep a line: what has just been opened is to be known soon.
_FLUSH_SECONDS: Final = 0.1
#: For how long the listeners of a pod that left keep its connections (it is gone, as a rule), and for how long all of them
#: take new connections after `drain`.
DRAIN_SECONDS: Final = 5
#: Guards that refusals rely on: a reset at the far end of a tunnel is a reset here.
_RUNTIME: Final = {
    "envoy.reloadable_features.map_http_stream_reset_to_tcp_rst": True,
    "envoy.reloadable_features.propagate_upstream_rst_through_tunneled_tcp_proxy": True,
    "envoy.reloadable_features.enable_send_rst_on_user_space_socket": True,
}


class NodeEnvoy:
    """One Envoy for all pods of the node.  `maps` are the resources by type, `on_demand` clusters that it asks for.

    `on_lines` gets the lines of its access logs, `on_gone` hears when it has ended.
    """

    def __init__(
        self,
        maps: Mapping[str, ResourceMap],
        on_demand: ResourceMap,
        run_dir: Path,
        *,
        node_id: str,
        concurrency: int,
        log_level: str,
        on_lines: Callable[[list[bytes]], None],
        on_gone: Callable[[], None],
    ) -> None:
        self._maps = maps
        self._on_gone = on_gone
        self._on_demand = on_demand
        self._socket = run_dir / "xds.sock"
        self._run_dir = run_dir
        self._server: grpc.aio.Server | None = None
        self.rejections: dict[str, str] = {}
        admin = UnixSocket(str(run_dir / "admin.sock"))
        self.process = EnvoyProcess(
            find_envoy(),
            bootstrap(
                NodeInfo(node_id, "ztunnel"),
                xds=UnixSocket(str(self._socket)),
                admin=admin,
                runtime=_RUNTIME,
                keep_statistics=_STATISTICS,
            ),
            run_dir=run_dir,
            admin=admin,
            options=EnvoyOptions(
                concurrency=concurrency or None,
                log_level=log_level,
                flush_seconds=_FLUSH_SECONDS,
                drain_seconds=DRAIN_SECONDS,
            ),
            on_log=lambda line: _log.info("envoy", line=line),
            on_state=self._state_changed,
            on_stdout=on_lines,
        )

    async def start(self) -> None:
        """Serve configuration and start Envoy; returns before Envoy is live."""
        self._run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._server = grpc.aio.server()
        AdsServer(lambda _, type_url: self._maps.get(type_url), on_rejection=self._rejected).add_to(self._server)
        OnDemandServer(lambda *_: self._on_demand, on_rejection=self._rejected).add_to(self._server)
        self._socket.unlink(missing_ok=True)
        self._server.add_insecure_port(f"unix:{self._socket}")
        await self._server.start()
        await self.process.start()

    @property
    def live(self) -> bool:
        return self.process.state is EnvoyState.LIVE

    async def drain(self) -> None:
        """Tell clients to connect anew, and take no connections after `DRAIN_SECONDS`; open ones go on."""
        if self.live:
            await self.process.admin.post("/drain_listeners?graceful")

    async def stop(self) -> None:
        await self.process.stop()
        if self._server is not None:
            await self._server.stop(None)
        self._socket.unlink(missing_ok=True)

    def _state_changed(self, state: EnvoyState) -> None:
        _log.info("envoy state", state=state.value)
        if state is EnvoyState.STARTING:
            self._on_gone()

    def _rejected(self, _: ClientNode, rejection: Rejection) -> None:
        for name in rejection.names:
            self.rejections[name] = rejection.message
        _log.error("Envoy rejected configuration", resources=list(rejection.names), reason=rejection.message)
