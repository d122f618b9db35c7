"""A real API server with the controllers and two nodes without machines, as processes; tests talk to it with kubectl."""

import itertools
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

HERE = Path(__file__).parent
_numbers = itertools.count(1)
CRDS = Path(__file__).parents[2] / "src" / "tulle" / "manifests" / "crds"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Cluster:
    """``kubectl`` runs a command line and returns its output; ``start`` and ``stop`` a part of the cluster by name."""

    state: Path
    port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    namespace: str = "default"

    @property
    def kubeconfig(self) -> str:
        return str(self.state / "kubeconfig")

    def start(self, name: str, *command: str) -> None:
        log = (self.state / f"{name}.log").open("ab")
        self.processes[name] = subprocess.Popen([sys.executable, *command], stdout=log, stderr=log)
        log.close()

    def stop(self, name: str, *, kill: bool = False) -> None:
        process = self.processes.pop(name)
        if kill:
            process.kill()
        else:
            process.terminate()
        process.wait(60)

    def start_api(self) -> None:
        self.start("api", "-m", "tulle.cluster.apiserver", "--state-dir", str(self.state), "--port", str(self.port))
        self.until(lambda: self.run("get", "--raw", "/readyz").returncode == 0)

    def start_controllers(self) -> None:
        self.start(
            "controllers",
            "-m",
            "tulle.cluster.controllers",
            "--kubeconfig",
            str(self.state / "kubeconfig.controllers"),
            "--root-ca",
            str(self.state / "pki" / "ca.crt"),
            "--node-grace-seconds",
            "3",
        )

    def start_node(self, name: str, number: int) -> None:
        self.start(name, str(HERE / "fakenode.py"), self.kubeconfig, name, str(number))

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        kubectl = shutil.which("kubectl", path=str(Path(sys.executable).parent))
        assert kubectl is not None
        command = [kubectl, "--kubeconfig", self.kubeconfig, "--cache-dir", str(self.state / "cache")]
        command += [*([] if "-n" in arguments else ["-n", self.namespace]), *arguments]
        return subprocess.run(command, capture_output=True, text=True, input=stdin, timeout=150, check=False)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        done = self.run(*arguments, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}{done.stdout}"
        return done.stdout.strip()

    def until(self, condition: Callable[[], bool]) -> None:
        """Waits for ``condition``; fails after 120 s."""
        deadline = time.monotonic() + 120
        while not condition():
            assert time.monotonic() < deadline, "the condition did not come true"
            time.sleep(0.1)

    def log(self, name: str) -> str:
        return (self.state / f"{name}.log").read_text()


@pytest.fixture(scope="session")
def whole_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("tk-controllers"), _free_port())
    try:
        cluster.start_api()
        cluster.start_controllers()
        cluster.start_node("n1", 1)
        cluster.start_node("n2", 2)
        for crd in sorted(CRDS.glob("*.yaml")):
            cluster.kubectl("apply", "-f", str(crd))
        cluster.until(lambda: cluster.kubectl("get", "nodes", "--no-headers").count(" Ready ") == 2)
        yield cluster
    finally:
        for name in list(cluster.processes):
            cluster.stop(name)


@pytest.fixture
def cluster(whole_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with a namespace of the test's own as the default, removed afterwards without waiting for it."""
    name = f"test-{next(_numbers)}"
    whole_cluster.kubectl("create", "namespace", name)
    whole_cluster.namespace = name
    yield whole_cluster
    whole_cluster.namespace = "default"
    whole_cluster.run("delete", "namespace", name, "--wait=false")
