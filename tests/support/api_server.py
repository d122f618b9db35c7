"""A real API server, as a process of its own; empty, or with the mesh's custom resources."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tulle import manifests
from tulle.kube.client import Client
from tulle.kube.resources import CUSTOM_RESOURCE_DEFINITIONS


@contextmanager
def empty_api_server(state: Path) -> Iterator[str]:
    """Its kubeconfig."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tulle.cluster.apiserver", "--state-dir", str(state), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any(line.startswith("ready:") for line in process.stdout), "the API server did not start"
        try:
            yield str(state / "kubeconfig")
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()


@contextmanager
def api_server(state: Path, prepare: Callable[[Client], Awaitable[object]]) -> Iterator[str]:
    """The kubeconfig of one with the custom resources, once `prepare` has put there what the tests expect."""
    with empty_api_server(state) as kubeconfig:
        asyncio.run(_fill(kubeconfig, prepare))
        yield kubeconfig


async def _fill(kubeconfig: str, prepare: Callable[[Client], Awaitable[object]]) -> None:
    async with Client.from_kubeconfig(kubeconfig) as client:
        for crd in manifests.crds():
            await client.create(CUSTOM_RESOURCE_DEFINITIONS, crd)
        await prepare(client)
