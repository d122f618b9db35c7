"""A node for tests: the node proxy as a process of its own, with a fake istiod, a fake node agent and real pods."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from tulle.istiod.ca import x509 as shapes

from .agent import Agent
from .fake_istiod import FakeIstiod
from .lab import Lab, Pod

HERE = Path(__file__).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class Curl:
    code: int
    out: str


@dataclass
class Node:
    directory: Path
    lab: Lab
    istiod: FakeIstiod
    agent: Agent
    ports: dict[str, int] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    log: Path = Path()
    _marks: Iterator[int] = field(default_factory=itertools.count)

    @property
    def crl_path(self) -> Path:
        return self.directory / "ca-crl.pem"

    @classmethod
    async def start(cls, directory: Path, lab: Lab) -> Node:
        istiod = FakeIstiod(directory)
        await istiod.start()
        node = cls(directory, lab, istiod, Agent(directory / "zds.sock"))
        node.log = directory / "ztunnel.log"
        return node

    def start_proxy(self, **more: str) -> None:
        self.ports = {name: free_port() for name in ("sink", "admin", "stats", "ready")}
        environment = {
            **os.environ,
            "POD_NAME": "ztunnel-1",
            "POD_NAMESPACE": "istio-system",
            "NODE_NAME": "node1",
            "INSTANCE_IP": "127.0.0.1",
            "XDS_ADDRESS": f"https://localhost:{self.istiod.port}",
            "CA_ADDRESS": f"https://localhost:{self.istiod.port}",
            "XDS_ROOT_CA": str(self.istiod.root_path),
            "AUTH_TOKEN": str(self.istiod.token_path),
            "CRL_PATH": str(self.crl_path),
            "INPOD_UDS": str(self.agent.path),
            "RUN_DIR": str(self.directory / "run"),
            "REFUSAL_SINK_PORT": str(self.ports["sink"]),
            "ADMIN_PORT": str(self.ports["admin"]),
            "STATS_PORT": str(self.ports["stats"]),
            "READINESS_PORT": str(self.ports["ready"]),
            "CONNECTION_TERMINATION_DEADLINE": "100ms",
            **more,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tulle.ztunnel"], env=environment, stdout=log, stderr=subprocess.STDOUT
            )

    async def stop_proxy(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return await asyncio.to_thread(self.process.wait, 20)

    async def pods(self, *names: str) -> None:
        """Hand over pods as a first snapshot."""
        await self.agent.accept()
        for name in names:
            assert await self.hand_over(name) == ""
        assert await self.agent.snapshot_sent() == ""

    async def hand_over(self, name: str, namespace: str = "", service_account: str = "default") -> str:
        pod = self.lab.pods[name]
        namespace = namespace or name.partition("-")[0]
        error = await self.agent.add(f"uid-{name}", name, namespace, pod.path, service_account)
        if not pod.captured:
            pod.capture()
        return error

    async def admin(self, path: str) -> Any:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.ports['admin']}{path}") as response,
        ):
            return await response.json(content_type=None) if "json" in path or "dump" in path else await response.text()

    async def stats(self) -> list[str]:
        """The metrics, line by line."""
        url = f"http://127.0.0.1:{self.ports['stats']}/metrics"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return (await response.text()).splitlines()

    async def ready(self) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.ports['ready']}/healthz/ready"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status, await response.text()

    async def curl(self, pod: str, *argv: str, timeout: int = 10) -> Curl:
        command = self.lab.pods[pod].argv("curl", "-sS", "-m", str(timeout), *argv)
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        out, _ = await process.communicate()
        return Curl(process.returncode or 0, out.decode(errors="replace").strip())

    async def many(self, count: int, pod: str, *argv: str) -> Counter[int]:
        """Exit codes of `count` runs, four at a time."""
        gate = asyncio.Semaphore(4)

        async def once() -> int:
            async with gate:
                return (await self.curl(pod, *argv)).code

        return Counter(await asyncio.gather(*(once() for _ in range(count))))

    async def eventually(self, check: Any, seconds: float = 60.0) -> Any:
        """Repeat an async check until it holds; its last answer."""
        async with asyncio.timeout(seconds):
            while not (answer := await check()):
                await asyncio.sleep(0.02)
        return answer

    async def settled(self) -> None:
        """Wait until the proxy has taken over everything that the fake istiod says, and Envoy with it."""
        wanted = set(self.istiod.addresses)
        policies = set(self.istiod.policies)
        mark = f"mark-{next(self._marks)}"
        self.istiod.policy("mark", mark, "ALLOW")

        async def taken() -> bool:
            dump = await self.admin("/config_dump")
            known = {policy["name"] for policy in dump["policies"]}
            return mark in known

        await self.eventually(taken)
        self.istiod.no_policy("mark", mark)
        assert wanted == set(self.istiod.addresses)
        assert policies == set(self.istiod.policies)
        await asyncio.sleep(0.1)

    def identity_files(self, identity: str) -> dict[str, str]:
        """A certificate of the mesh's authority for any identity, as files."""
        name = identity.replace("/", "_")
        key = shapes.new_key()
        csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
        chain = self.istiod.authority.sign(csr.public_bytes(serialization.Encoding.PEM), identity)
        cert_path, key_path = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        cert_path.write_text("".join(chain[:-1]))
        key_path.write_bytes(shapes.key_pem(key))
        return {"cert": str(cert_path), "key": str(key_path), "ca": str(self.istiod.root_path)}

    async def tunnels(
        self, pod: str, host: str, identity: str | dict[str, str], *requests: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """What a peer of any identity, or with any certificate, is answered when it speaks HBONE itself, from the namespace of `pod`."""
        files = self.identity_files(identity) if isinstance(identity, str) else identity
        what = {"mode": "client", "host": host, "port": 15008, "requests": requests, **files}
        command = self.lab.pods[pod].argv(sys.executable, "-m", "tests.ztunnel.peer", json.dumps(what))
        process = await asyncio.create_subprocess_exec(
            *command, cwd=HERE.parent.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        out, errors = await process.communicate()
        assert out, errors.decode()
        answers: list[dict[str, Any]] = json.loads(out)
        return answers

    def access_lines(self) -> list[str]:
        return [line for line in self.log.read_text().splitlines() if '"scope":"access"' in line]

    async def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.agent.close()
        await self.istiod.stop()


def start_app(lab: Lab, name: str) -> None:
    pod: Pod = lab.pods[name]
    command = pod.argv(sys.executable, str(HERE / "app.py"), name)
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"listening\n"
    lab.servers.append(process)


@contextlib.contextmanager
def lab_of(name: str, subnet: str, *pods: str):
    lab = Lab(name, subnet)
    lab.up()
    try:
        for number, pod in enumerate(pods, 10):
            lab.add(pod, number)
            start_app(lab, pod)
        yield lab
    finally:
        lab.down()
