"""What the node proxy is told by its environment: the variables of a stock ztunnel (spec E6)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


class InvalidEnvironmentError(ValueError):
    """A variable is missing or has a value that cannot be used; the message names it and what is accepted."""


@dataclass(frozen=True)
class Settings:
    """Addresses are `host:port`; times are seconds.  `concurrency` 0 is one Envoy worker per CPU."""

    pod: str
    namespace: str
    address: str
    node: str
    network: str
    cluster_id: str
    trust_domain: str
    xds: str
    xds_server_name: str
    ca: str
    ca_server_name: str
    root_cert_path: Path
    token_path: Path
    zds_path: str
    run_dir: Path
    secret_ttl: int
    drain_seconds: float
    concurrency: int
    sink_port: int
    admin_port: int
    stats_port: int
    ready_port: int
    envoy_log_level: str

    @property
    def node_id(self) -> str:
        """The xDS node id: `ztunnel~IP~POD.NS~NS.svc.cluster.local`."""
        return f"ztunnel~{self.address}~{self.pod}.{self.namespace}~{self.namespace}.svc.cluster.local"


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the environment.  Raises InvalidEnvironmentError."""
    read = _Reader(environment)
    return Settings(
        pod=read.required("POD_NAME"),
        namespace=read.required("POD_NAMESPACE"),
        address=environment.get("INSTANCE_IP", ""),
        node=read.required("NODE_NAME"),
        network=environment.get("NETWORK", ""),
        cluster_id=environment.get("ISTIO_META_CLUSTER_ID", "Kubernetes"),
        trust_domain=environment.get("TRUST_DOMAIN", "cluster.local"),
        xds=read.server("XDS_ADDRESS"),
        xds_server_name=environment.get("ALT_XDS_HOSTNAME", ""),
        ca=read.server("CA_ADDRESS"),
        ca_server_name=environment.get("ALT_CA_HOSTNAME", ""),
        root_cert_path=Path(environment.get("XDS_ROOT_CA", "/var/run/secrets/istio/root-cert.pem")),
        token_path=Path(environment.get("AUTH_TOKEN", "/var/run/secrets/tokens/istio-token")),
        zds_path=environment.get("INPOD_UDS", "/var/run/ztunnel/ztunnel.sock"),
        run_dir=Path(environment.get("RUN_DIR", "/run/tulle-ztunnel")),
        secret_ttl=int(read.duration("SECRET_TTL", "24h")),
        drain_seconds=read.duration("CONNECTION_TERMINATION_DEADLINE", "5s"),
        concurrency=read.number("ZTUNNEL_WORKER_THREADS", 0),
        sink_port=read.number("REFUSAL_SINK_PORT", 15004),
        admin_port=read.number("ADMIN_PORT", 15000),
        stats_port=read.number("STATS_PORT", 15020),
        ready_port=read.number("READINESS_PORT", 15021),
        envoy_log_level=environment.get("ENVOY_LOG_LEVEL", "error"),
    )


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


class _Reader:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def required(self, name: str) -> str:
        value = self._environment.get(name, "")
        if not value:
            raise InvalidEnvironmentError(f"environment variable {name} is not set: the DaemonSet of ztunnel sets it")
        return value

    def server(self, name: str) -> str:
        value = self._environment.get(name, "https://istiod.istio-system.svc:15012")
        parts = urlsplit(value if "//" in value else f"//{value}")
        try:
            port = parts.port
        except ValueError:
            port = None
        if parts.scheme not in ("", "https") or not parts.hostname or port is None:
            raise InvalidEnvironmentError(f"{name}={value!r}: accepted is https://HOST:PORT")
        return f"{parts.hostname}:{port}"

    def number(self, name: str, default: int) -> int:
        value = self._environment.get(name, str(default))
        if not value.isdecimal():
            raise InvalidEnvironmentError(f"{name}={value!r}: accepted is a number of at least 0")
        return int(value)

    def duration(self, name: str, default: str) -> float:
        value = self._environment.get(name, default)
        for unit in ("ms", "s", "m", "h"):
            number = value.removesuffix(unit)
            if number != value and number.isdecimal():
                return float(number) * _UNITS[unit]
        raise InvalidEnvironmentError(f"{name}={value!r}: accepted is a number with ms, s, m or h, such as {default}")
