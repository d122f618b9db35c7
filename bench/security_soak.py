"""Random policies and requests, decided by the engine, by a real node proxy and by a real waypoint on live sockets:
`python -m bench.security_soak --cases 10000`, as root. Half of the cases are layer 4, half HTTP and opaque TCP.

A run is named by its seed and can be repeated. It exits with 1 and prints the first disagreements if there is one.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.security.live import l4, l7
from tests.security.live.drawing import Disagreement, answers

L4_SLOTS, L7_SLOTS, QUESTIONS = 12, 40, 16


async def soak(
    name: str, place: l4.Ground | l7.Ground, cases: int, batch: Callable[[int], Awaitable[list[Disagreement]]]
) -> int:
    """Batches until there are enough cases; the number of those that agreed."""
    start, number = time.monotonic(), 0
    while (done := place.verdicts.total()) < cases:
        if found := await batch(number):
            raise SystemExit(f"{name}: {len(found)} cases of batch {number} disagree\n{answers(found)}")
        number += 1
        if number % 10 == 0:
            print(f"{name}: {place.verdicts.total():,} cases agree, {time.monotonic() - start:.0f} s", flush=True)
    allowed = place.verdicts[True] / done
    print(f"{name}: {done:,} cases agree, {allowed:.0%} of them allowed, {time.monotonic() - start:.0f} s", flush=True)
    return done


async def layer4(directory: Path, cases: int, seed: int) -> int:
    """Against one node proxy with a pod per policy set."""
    async with l4.ground(directory, L4_SLOTS) as place:

        async def batch(number: int) -> list[Disagreement]:
            return await l4.compare(place, l4.draw(place.slots, QUESTIONS, seed + number))

        return await soak("ztunnel", place, cases, batch)


async def layer7(directory: Path, cases: int, seed: int) -> int:
    """Against one waypoint with a Service per policy set."""
    async with l7.ground(directory, L7_SLOTS) as place:

        async def batch(number: int) -> list[Disagreement]:
            return await l7.compare(place, l7.draw(L7_SLOTS, QUESTIONS, seed + number))

        return await soak("waypoint", place, cases, batch)


def main() -> None:
    """Run both, one after the other."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--cases", type=int, default=10_000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--only", choices=("ztunnel", "waypoint"))
    options = arguments.parse_args()
    layers: dict[str, Any] = {"ztunnel": layer4, "waypoint": layer7}
    chosen = [options.only] if options.only else list(layers)
    total = 0
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="tulle-soak-") as directory:
            total += asyncio.run(layers[name](Path(directory), options.cases // len(chosen), options.seed))
    print(f"{total:,} cases, no disagreement (seed {options.seed})")


if __name__ == "__main__":
    main()
