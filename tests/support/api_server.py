"""A real API server, as a process of its own, with the mesh's custom resources."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

import tulle
from tulle.kube.client import Client
from tulle.kube.resources import CUSTOM_RESOURCE_DEFINITIONS

CRDS = Path(tulle.__file__).parent / "manifests" / "crds"


@contextmanager
def api_server(state: Path, prepare: Callable[[Client], Awaitable[object]]) -> Iterator[str]:
    """Its kubeconfig, once `prepare` has put there what the tests expect."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tulle.cluster.apiserver", "--state-dir", str(state), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line.startswith("ready:") for line in process.stdout), "the API server did not start"
        try:
            asyncio.run(_install(str(state / "kubeconfig"), prepare))
            yield str(state / "kubeconfig")
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()


async def _install(kubeconfig: str, prepare: Callable[[Client], Awaitable[object]]) -> None:
    async with Client.from_kubeconfig(kubeconfig) as client:
        for path in sorted(CRDS.glob("*.yaml")):
            for manifest in yaml.safe_load_all(path.read_text()):
                await client.create(CUSTOM_RESOURCE_DEFINITIONS, manifest)
        await prepare(client)
