"""The engine and a real waypoint agree on random policies, for requests that arrive through HBONE."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .live import l7
from .live.drawing import answers

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
SLOTS, BATCHES, QUESTIONS = 20, 4, 8


async def test_engine_and_waypoint_agree(tmp_path: Path) -> None:
    async with l7.ground(tmp_path, SLOTS) as place:
        for number in range(BATCHES):
            found = await l7.compare(place, l7.draw(SLOTS, QUESTIONS, number))
            assert not found, answers(found)
        assert min(place.verdicts[verdict] for verdict in (True, False)) > 100, place.verdicts
