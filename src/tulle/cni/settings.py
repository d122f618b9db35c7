"""The node agent's settings, from the environment of its container; the names are Istio's where Istio has one."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PLUGIN_NAME = "tulle-cni"
DEFAULT_EXCLUDED = "kube-system,istio-system"


class SettingsError(Exception):
    """A setting is missing or malformed; the message names it and what is accepted."""


@dataclass(frozen=True)
class Settings:
    """Paths are as the agent's container sees them, except ``socket_on_host``, which the CNI plugin uses on the node
    itself.
    """

    node_name: str
    proc: Path
    zds_socket: Path
    cni_config_dir: Path
    cni_bin_dir: Path
    run_dir: Path
    socket_on_host: str
    excluded_namespaces: frozenset[str]
    dns_capture: bool
    ready_address: str
    ready_port: int
    handover_seconds: float
    drain_seconds: float

    @property
    def plugin_socket(self) -> Path:
        """The agent's end of the plugin's socket."""
        return self.run_dir / "pluginevent.sock"


def from_environment(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings. Raises SettingsError."""
    node_name = environment.get("NODE_NAME", "")
    if not node_name:
        raise SettingsError("NODE_NAME is not set: give the container its node's name (fieldRef spec.nodeName)")
    excluded = environment.get("EXCLUDE_NAMESPACES", DEFAULT_EXCLUDED)
    run_dir = environment.get("CNI_AGENT_RUN_DIR", "/var/run/istio-cni")
    return Settings(
        node_name=node_name,
        proc=_proc(environment.get("HOST_PROC", "")),
        zds_socket=Path(environment.get("ZDS_SERVER_ADDRESS", "/var/run/ztunnel/ztunnel.sock")),
        cni_config_dir=Path(environment.get("MOUNTED_CNI_NET_DIR", "/host/etc/cni/net.d")),
        cni_bin_dir=Path(environment.get("MOUNTED_CNI_BIN_DIR", "/host/opt/cni/bin")),
        run_dir=Path(run_dir),
        socket_on_host=f"{environment.get('HOST_CNI_AGENT_RUN_DIR', run_dir).rstrip('/')}/pluginevent.sock",
        excluded_namespaces=frozenset(name for part in excluded.split(",") if (name := part.strip())),
        dns_capture=_flag(environment, "AMBIENT_DNS_CAPTURE", default="true"),
        ready_address=environment.get("READY_ADDRESS", "0.0.0.0"),  # noqa: S104 - the kubelet probes by the node's address
        ready_port=_number(environment, "READY_PORT", 8000),
        handover_seconds=float(_number(environment, "ZTUNNEL_HANDOVER_SECONDS", 10)),
        drain_seconds=float(_number(environment, "ZTUNNEL_DRAIN_SECONDS", 2)),
    )


def _proc(text: str) -> Path:
    """The directory that shows the processes of the whole node."""
    if text:
        return Path(text)
    mounted = Path("/host/proc")
    return mounted if (mounted / "self").is_symlink() else Path("/proc")


def _flag(environment: Mapping[str, str], name: str, *, default: str) -> bool:
    value = environment.get(name, default).lower()
    if value not in ("true", "false"):
        raise SettingsError(f"{name}={value!r}: accepted are true and false")
    return value == "true"


def _number(environment: Mapping[str, str], name: str, default: int) -> int:
    value = environment.get(name, str(default))
    if not value.isdigit():
        raise SettingsError(f"{name}={value!r}: a whole number is expected")
    return int(value)
