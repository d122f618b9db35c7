"""An embedded API server of its own process, alone or with an istiod beside it, on ports that are free."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tulle
from bench.mesh import run, until

CRDS = Path(tulle.__file__).parent / "manifests" / "crds"
_STOP_SECONDS = 20.0


@dataclass(frozen=True)
class Api:
    """A running API server."""

    state: Path
    pid: int

    @property
    def kubeconfig(self) -> str:
        return str(self.state / "kubeconfig")


@dataclass(frozen=True)
class Istiod:
    """A running istiod."""

    pid: int
    xds_port: int


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def api_server(*, crds: bool = False) -> Iterator[Api]:
    """An API server without controllers, with the mesh's custom resources if wanted."""
    with tempfile.TemporaryDirectory(prefix="tulle-bench-") as folder:
        command = [sys.executable, "-m", "tulle.cluster.apiserver", "--state-dir", folder, "--port", str(free_port())]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert process.stdout is not None
        try:
            if not any(line.startswith("ready:") for line in process.stdout):
                raise RuntimeError("the API server did not start")
            api = Api(Path(folder), process.pid)
            if crds:
                environment = {**os.environ, "KUBECONFIG": api.kubeconfig}
                kubectl = str(Path(sys.executable).with_name("kubectl"))
                run((kubectl, "create", "-f", str(CRDS)), environment)
            yield api
        finally:
            process.terminate()
            process.communicate(timeout=_STOP_SECONDS)


@contextmanager
def istiod(api: Api) -> Iterator[Istiod]:
    """An istiod that follows that API; it is serving proxies when this returns."""
    ports = {
        name: free_port() for name in ("XDS_PORT", "PLAINTEXT_XDS_PORT", "WEBHOOK_PORT", "HTTP_PORT", "METRICS_PORT")
    }
    settings = {name: str(port) for name, port in ports.items()}
    environment = {**os.environ, **settings, "KUBECONFIG": api.kubeconfig, "LISTEN_ADDRESS": "127.0.0.1"}
    with (api.state / "istiod.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", "tulle.istiod"], env=environment, stdout=log, stderr=log)
    try:
        until(lambda: _ready(ports["HTTP_PORT"]), "istiod is ready")
        yield Istiod(process.pid, ports["XDS_PORT"])
    finally:
        process.terminate()
        process.wait(_STOP_SECONDS)


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
