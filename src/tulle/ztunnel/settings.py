"""What the node proxy is told by its environment: the variables of a stock ztunnel (spec E6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tulle.envoy.environment import Environment
from tulle.ztunnel.loglevels import Levels


@dataclass(frozen=True)
class Settings:
    """Addresses are `host:port`; times are seconds.  `concurrency` 0 is one Envoy worker for two CPUs."""

    pod: str
    namespace: str
    address: str
    node: str
    network: str
    cluster_id: str
    trust_domain: str
    cluster_domain: str
    preferred_service_namespace: str
    xds: str
    xds_server_name: str
    ca: str
    ca_server_name: str
    root_cert_path: Path
    token_path: Path
    crl_path: Path
    zds_path: str
    run_dir: Path
    secret_ttl: int
    drain_seconds: float
    concurrency: int
    keep_source: bool
    sink_port: int
    admin_port: int
    stats_port: int
    ready_port: int
    envoy_log_level: str

    @property
    def levels(self) -> Levels:
        """What is logged at the start: connections that open only when Envoy tells everything too."""
        level = {"warning": "warn", "critical": "error"}.get(self.envoy_log_level, self.envoy_log_level)
        verbose = {"access": "debug"} if level in ("debug", "trace") else {}
        return Levels(scopes={"envoy": level, **verbose})

    @property
    def node_id(self) -> str:
        """The xDS node id: `ztunnel~IP~POD.NS~NS.svc.cluster.local`."""
        return f"ztunnel~{self.address}~{self.pod}.{self.namespace}~{self.namespace}.svc.cluster.local"


def load(variables: Mapping[str, str] | None = None) -> Settings:
    """Read the process's environment, or `variables`.  Raises InvalidEnvironmentError."""
    read = Environment(variables, set_by="the DaemonSet of ztunnel")
    return Settings(
        pod=read.required("POD_NAME"),
        namespace=read.required("POD_NAMESPACE"),
        address=read.text("INSTANCE_IP", ""),
        node=read.required("NODE_NAME"),
        network=read.text("NETWORK", ""),
        cluster_id=read.text("ISTIO_META_CLUSTER_ID", "Kubernetes"),
        trust_domain=read.text("TRUST_DOMAIN", "cluster.local"),
        cluster_domain=read.text("CLUSTER_DOMAIN", "cluster.local").strip(".").lower(),
        preferred_service_namespace=read.text("PREFERED_SERVICE_NAMESPACE", ""),
        xds=read.server("XDS_ADDRESS"),
        xds_server_name=read.text("ALT_XDS_HOSTNAME", ""),
        ca=read.server("CA_ADDRESS"),
        ca_server_name=read.text("ALT_CA_HOSTNAME", ""),
        root_cert_path=read.path("XDS_ROOT_CA", "/var/run/secrets/istio/root-cert.pem"),
        token_path=read.path("AUTH_TOKEN", "/var/run/secrets/tokens/istio-token"),
        crl_path=read.path("CRL_PATH", "/var/run/secrets/istio/crl/ca-crl.pem"),
        zds_path=read.text("INPOD_UDS", "/var/run/ztunnel/ztunnel.sock"),
        run_dir=read.path("RUN_DIR", "/run/tulle-ztunnel"),
        secret_ttl=int(read.duration("SECRET_TTL", "24h")),
        drain_seconds=read.duration("CONNECTION_TERMINATION_DEADLINE", _within_grace(read)),
        concurrency=read.number("ZTUNNEL_WORKER_THREADS", 0),
        keep_source=read.flag("ENABLE_ORIG_SRC", default=True),
        sink_port=read.number("REFUSAL_SINK_PORT", 15004),
        admin_port=read.number("ADMIN_PORT", 15000),
        stats_port=read.number("STATS_PORT", 15020),
        ready_port=read.number("READINESS_PORT", 15021),
        envoy_log_level=read.text("ENVOY_LOG_LEVEL", "error"),
    )


def _within_grace(read: Environment) -> str:
    """What upstream drains for where nothing else is said: the pod's grace period but for its last seconds."""
    grace = read.number("TERMINATION_GRACE_PERIOD_SECONDS", 0)
    if grace == 0:
        return "5s"
    return f"{max(1, grace - 5 if grace > 10 else grace // 2)}s"
