"""An istiod as a process of its own, against a real API server; and, for what needs a data plane, a whole mesh."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.api_server import api_server
from tests.wire.cluster import Cluster
from tulle.kube.client import Client


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real API server with the mesh's custom resources."""

    async def prepare(client: Client) -> None:
        await Cluster(client).found()

    with api_server(tmp_path_factory.mktemp("tk-wire"), prepare) as made:
        yield made


class IstiodProcess:
    """`python -m tulle.istiod`, which may be killed and started again; `port` is where it serves ADS and certificates now."""

    def __init__(self, kubeconfig: str) -> None:
        self._env = {
            **os.environ,
            "KUBECONFIG": kubeconfig,
            "POD_NAME": "istiod-0",
            "LISTEN_ADDRESS": "127.0.0.1",
            **dict.fromkeys(("XDS_PORT", "WEBHOOK_PORT", "HTTP_PORT", "METRICS_PORT"), "0"),
        }
        self._process: subprocess.Popen[str] | None = None
        self.port = 0

    def start(self) -> None:
        """Returns when it serves."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tulle.istiod"],
            env=self._env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._process = process
        serving: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=_follow, args=(process, serving), daemon=True).start()
        self.port = serving.get(timeout=60)["ports"]["xds"]

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            assert self._process.stdout is not None
            self._process = None


def _follow(process: subprocess.Popen[str], serving: queue.Queue[dict[str, Any]]) -> None:
    """Read the log to its end, so that it never blocks, and pass on the line that names the ports."""
    assert process.stdout is not None
    with process.stdout:
        for line in process.stdout:
            if '"event": "serving"' in line:
                serving.put(json.loads(line))


@contextmanager
def _running(kubeconfig: str) -> Iterator[IstiodProcess]:
    made = IstiodProcess(kubeconfig)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def istiod(kubeconfig: str) -> Iterator[IstiodProcess]:
    with _running(kubeconfig) as made:
        yield made


@pytest.fixture
async def cluster(kubeconfig: str) -> AsyncIterator[Cluster]:
    async with Client.from_kubeconfig(kubeconfig) as client:
        made = Cluster(client)
        yield made
        await made.clean()
    await asyncio.sleep(0.05)
