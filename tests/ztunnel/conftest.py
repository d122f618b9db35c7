"""One node for all tests of the data path, as it takes seconds to start: pods of hello, test, web (captured) and out (not)."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from .mesh import SERVICE, describe
from .node import Node, lab_of

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def node(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Node]:
    directory: Path = tmp_path_factory.mktemp("node")
    with lab_of("tk-zt", "10.244.77", "hello-1", "hello-2", "test-1", "web-1", "out-1", "test-2") as lab:
        node = await Node.start(directory, lab)
        try:
            describe(node)
            node.start_proxy()
            await node.pods("hello-1", "hello-2", "test-1", "web-1")
            assert await node.hand_over("test-2", service_account="other") == ""
            yield node
            assert await node.stop_proxy() == 0
            assert "Envoy rejected configuration" not in node.log.read_text()
        finally:
            await node.stop()


@pytest_asyncio.fixture(loop_scope="package")
async def fresh(node: Node) -> Node:
    """The node with the mesh as `describe` makes it."""
    for name in list(node.istiod.policies):
        node.istiod.policies.remove(name)
    for name in list(node.istiod.addresses):
        node.istiod.remove(name)
    describe(node)
    await node.settled()
    return node


__all__ = ["SERVICE"]
