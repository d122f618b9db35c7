"""One waypoint for each test module: it takes seconds to start, and milliseconds to be told other policies."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.waypoint import lab


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[lab.Mesh]:
    async with lab.running(tmp_path_factory.mktemp("tk-waypoint")) as made:
        yield made
