"""A whole mesh for one module's tests, with the lesson's workloads in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.mesh import Mesh, tulle
from tulle.cli import lab
from tulle.cli.lesson import FROM_TEST, OK


@contextmanager
def running(folder: Path, profile: str = "lesson") -> Iterator[Mesh]:
    """Up, and down again."""
    tulle("down")
    started = tulle("up", "--profile", profile, "--no-kubeconfig")
    assert started.code == 0, started.output
    lab.write_manifests(folder)
    try:
        yield Mesh(profile, folder)
    finally:
        ended = tulle("down")
        assert ended.code == 0, ended.output


def populate(mesh: Mesh) -> None:
    """The lesson's client and server, both captured, and a request that went through."""
    mesh.ok("kubectl create namespace test && kubectl create namespace hello")
    mesh.ok("kubectl label namespace test hello istio.io/dataplane-mode=ambient")
    mesh.ok("kubectl run curl --image=curlimages/curl -n test --restart=Never --command -- sleep infinity")
    mesh.ok("kubectl apply -f helloworld.yaml -n hello")
    mesh.ok("kubectl wait -n hello deployment --all --for=condition=Available --timeout=120s")
    mesh.ok("kubectl wait -n test pod/curl --for=condition=Ready --timeout=120s")
    mesh.settles(FROM_TEST, OK)
