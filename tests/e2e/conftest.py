"""One mesh for all tests of a profile: bringing it up is cheap, but not free."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.mesh import Mesh, tulle
from tulle.cli import lab


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.e2e)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="network namespaces need root"))


def _up(profile: str, folder: Path) -> Iterator[Mesh]:
    tulle("down")
    started = tulle("up", "--profile", profile, "--no-kubeconfig")
    assert started.code == 0, started.output
    lab.write_manifests(folder)
    try:
        yield Mesh(profile, folder)
    finally:
        ended = tulle("down")
        assert ended.code == 0, ended.output


@pytest.fixture(scope="module", params=["lesson", "istio"])
def profile_mesh(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A fresh mesh, once in each profile."""
    yield from _up(request.param, tmp_path_factory.mktemp("lesson"))


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A fresh mesh in the lesson's profile."""
    yield from _up("lesson", tmp_path_factory.mktemp("mesh"))
