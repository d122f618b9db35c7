"""What a waypoint pod is told by its environment, as the gateway controller writes it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


class InvalidEnvironmentError(ValueError):
    """A variable is missing or has a value that cannot be used; the message names it and what is accepted."""


def _required(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "")
    if not value:
        raise InvalidEnvironmentError(
            f"environment variable {name} is not set: a waypoint pod gets it from its Deployment"
        )
    return value


def _host_port(environment: Mapping[str, str], name: str) -> str:
    value = environment.get(name, "https://istiod.istio-system.svc:15012")
    parts = urlsplit(value if "//" in value else f"//{value}")
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in ("", "https") or not parts.hostname or port is None:
        raise InvalidEnvironmentError(f"{name}={value!r}: accepted is https://HOST:PORT")
    return f"{parts.hostname}:{port}"


@dataclass(frozen=True)
class Settings:
    """The waypoint's place in the mesh. `identity` is the SPIFFE URI of its service account."""

    pod: str
    namespace: str
    service_account: str
    gateway: str
    address: str
    node: str
    trust_domain: str
    cluster_id: str
    xds: str
    ca: str
    token_path: Path
    root_cert_path: Path
    crl_path: Path
    run_dir: Path
    drain_seconds: float

    @property
    def identity(self) -> str:
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{self.service_account}"

    @property
    def node_id(self) -> str:
        """The xDS node id, in the form that istiod and istioctl read."""
        return f"waypoint~{self.address}~{self.pod}.{self.namespace}~{self.namespace}.svc.cluster.local"


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the environment. Raises InvalidEnvironmentError."""
    return Settings(
        pod=_required(environment, "POD_NAME"),
        namespace=_required(environment, "POD_NAMESPACE"),
        service_account=_required(environment, "SERVICE_ACCOUNT"),
        gateway=_required(environment, "GATEWAY_NAME"),
        address=_required(environment, "INSTANCE_IP"),
        node=_required(environment, "NODE_NAME"),
        trust_domain=environment.get("TRUST_DOMAIN", "cluster.local"),
        cluster_id=environment.get("ISTIO_META_CLUSTER_ID", "Kubernetes"),
        xds=_host_port(environment, "XDS_ADDRESS"),
        ca=_host_port(environment, "CA_ADDRESS"),
        token_path=Path(environment.get("AUTH_TOKEN_PATH", "/var/run/secrets/tokens/istio-token")),
        root_cert_path=Path(environment.get("ROOT_CERT_PATH", "/var/run/secrets/istio/root-cert.pem")),
        crl_path=Path(environment.get("CRL_PATH", "/var/run/secrets/istio/crl/ca-crl.pem")),
        run_dir=Path(environment.get("RUN_DIR", "/etc/istio/proxy")),
        drain_seconds=float(environment.get("TERMINATION_DRAIN_DURATION_SECONDS", "5")),
    )
