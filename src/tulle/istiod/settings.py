"""What istiod is told by its environment. What it is told by the mesh configuration is in `tulle.security.mesh`."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import tulle

_LEVELS: Final[Mapping[str, int]] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class SettingError(ValueError):
    """An environment variable that cannot be used; the message names it, what was found and what is accepted."""


@dataclass(frozen=True)
class Settings:
    """Ports are TCP ports to listen on. `mesh_config` is the name of the ConfigMap whose key `mesh` is the mesh configuration."""

    pod_name: str
    namespace: str = "istio-system"
    domain: str = "cluster.local"
    service: str = "istiod"
    mesh_config: str = "istio"
    waypoint_image: str = ""
    xds_port: int = 15012
    plaintext_port: int = 15010
    """For istioctl's `--plaintext` through `kubectl port-forward`: on the loopback address, and for looking only."""
    webhook_port: int = 15017
    http_port: int = 8080
    metrics_port: int = 15014
    listen: str = "0.0.0.0"  # noqa: S104 - a pod serves on all of its own addresses
    log_level: int = logging.INFO

    @property
    def hostname(self) -> str:
        """The name under which proxies and the API server reach istiod, and for which its certificate is issued."""
        return f"{self.service}.{self.namespace}.svc"

    @classmethod
    def from_environment(cls, env: Mapping[str, str] = os.environ) -> Settings:
        """Read the environment. Raises SettingError."""
        return cls(
            pod_name=env.get("POD_NAME") or socket.gethostname(),
            namespace=env.get("POD_NAMESPACE") or "istio-system",
            domain=env.get("CLUSTER_DOMAIN") or "cluster.local",
            service=env.get("ISTIOD_SERVICE") or "istiod",
            mesh_config=env.get("MESH_CONFIG_MAP") or "istio",
            waypoint_image=env.get("WAYPOINT_IMAGE") or f"tulle/tulle:{tulle.__version__}",
            xds_port=_port(env, "XDS_PORT", 15012),
            plaintext_port=_port(env, "PLAINTEXT_XDS_PORT", 15010),
            webhook_port=_port(env, "WEBHOOK_PORT", 15017),
            http_port=_port(env, "HTTP_PORT", 8080),
            metrics_port=_port(env, "METRICS_PORT", 15014),
            listen=env.get("LISTEN_ADDRESS") or "0.0.0.0",  # noqa: S104
            log_level=_level(env, "LOG_LEVEL"),
        )


def _level(env: Mapping[str, str], name: str) -> int:
    """What is worth a line of the log."""
    value = env.get(name) or "info"
    level = _LEVELS.get(value)
    if level is None:
        raise SettingError(f"environment variable {name}: found {value!r}; accepted are {', '.join(_LEVELS)}")
    return level


def _port(env: Mapping[str, str], name: str, default: int) -> int:
    value = env.get(name)
    if not value:
        return default
    if not value.isdecimal() or not 0 <= int(value) <= 65535:
        raise SettingError(f"environment variable {name}: found {value!r}; accepted is a port from 0 to 65535")
    return int(value)
