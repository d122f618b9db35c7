"""A real API server per test session (its own process, real HTTPS), the real kubectl, and an in-process server for the rest."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from tulle.cluster.apiserver.server import ApiServer
from tulle.cluster.pki import Pki, create

KUBECTL = Path(sys.executable).with_name("kubectl")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ServerProcess:
    """`python -m tulle.cluster.apiserver` over a state directory, restartable."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.port = free_port()
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-W", "error", "-m", "tulle.cluster.apiserver"]
        command += ["--state-dir", str(self.state), "--port", str(self.port)]
        log = (self.state.parent / f"{self.state.name}.log").open("ab")
        with log:
            self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("ready:"):
                return
        raise RuntimeError(f"the server did not start: see {log.name}")

    def end(self, number: int = signal.SIGTERM) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        code = self._process.wait(timeout=60)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code


@dataclass
class Kubectl:
    kubeconfig: Path
    cache: Path

    def run(self, *arguments: str, stdin: str = "", timeout: float = 30) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig), "KUBECACHEDIR": str(self.cache)}
        command = [str(KUBECTL), *arguments]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, env=environment, timeout=timeout, check=False
        )

    def __call__(self, *arguments: str, stdin: str = "") -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, *arguments: str, stdin: str = "") -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode != 0, done.stdout
        return done.stderr

    def get(self, *arguments: str) -> Any:
        return json.loads(self("get", *arguments, "-o", "json"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    process = ServerProcess(tmp_path_factory.mktemp("tk-apiserver"))
    process.start()
    yield process
    assert process.end() == 0


@pytest.fixture(scope="session")
def kubectl(server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    return Kubectl(server.state / "kubeconfig", tmp_path_factory.mktemp("tk-kubectl-cache"))


@pytest.fixture
def namespace(kubectl: Kubectl, request: pytest.FixtureRequest) -> str:
    name = "n-" + "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[:50].strip("-")
    kubectl("create", "namespace", name)
    kubectl("create", "serviceaccount", "default", "-n", name)
    return name


class Api:
    """An in-process server and a client with the administrator's certificate."""

    def __init__(self, server: ApiServer, port: int, session: aiohttp.ClientSession, pki: Pki) -> None:
        self.server = server
        self.port = port
        self.session = session
        self.pki = pki

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **more.pop("headers", {})}
        async with self.session.request(method, self.url + path, data=data, headers=headers, **more) as answer:
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith(("{", "[")) else text

    async def ok(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        status, answer = await self.call(method, path, body, **more)
        assert status < 300, answer
        return answer

    async def namespace(self, name: str) -> str:
        await self.ok("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        await self.ok("POST", f"/api/v1/namespaces/{name}/serviceaccounts", {"metadata": {"name": "default"}})
        return f"/api/v1/namespaces/{name}"


def client_tls(pki: Pki, stem: str) -> Any:
    import ssl

    context = ssl.create_default_context(cafile=str(pki.ca))
    if stem:
        context.load_cert_chain(pki.certificate(stem), pki.key(stem))
    return context


@pytest_asyncio.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    pki = create(tmp_path)
    server, port = ApiServer(tmp_path, pki), free_port()
    await server.start([("127.0.0.1", port)])
    connector = aiohttp.TCPConnector(ssl=client_tls(pki, "admin"))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Api(server, port, session, pki)
    await server.stop()
    await asyncio.sleep(0)
