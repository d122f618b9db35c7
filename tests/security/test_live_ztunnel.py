"""The engine and a real node proxy agree on random policies, over HBONE and in plaintext."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .live import l4
from .live.drawing import answers

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
SLOTS, BATCHES, QUESTIONS = 8, 6, 12


async def test_engine_and_node_proxy_agree(tmp_path: Path) -> None:
    async with l4.ground(tmp_path, SLOTS) as place:
        for number in range(BATCHES):
            found = await l4.compare(place, l4.draw(place.slots, QUESTIONS, number))
            assert not found, answers(found)
        assert min(place.verdicts[verdict] for verdict in (True, False)) > 100, place.verdicts
