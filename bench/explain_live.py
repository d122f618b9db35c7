"""What `tulle explain` says, held against what curl sees, for as long as you like: `python -m bench.explain_live --cases 5000`, as root.

A run is named by its seed. It exits with 1 and prints the cases of the first round that differs.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from bench import mesh
from tests.explain.live import ground, traffic

CASES = 24
"""Requests for each round of policies."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--cases", type=int, default=1000)
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    with mesh.running() as running:
        running.apply(ground.manifests())
        running.kubectl("wait", "-A", "pod", "--all", "--for=condition=Ready", "--timeout=60s")
        running.kubectl("wait", "-A", "gateway", "--all", "--for=condition=Programmed", "--timeout=60s")
        start, seen = time.monotonic(), 0
        for part, left in enumerate(range(options.cases, 0, -ground.ROUNDS * CASES)):
            rounds = min(ground.ROUNDS, -(-left // CASES))
            kubeconfig, number = str(running.state / "kubeconfig"), options.seed + 2 * part
            told, found = asyncio.run(traffic.soak(kubeconfig, rounds, CASES, number, print))
            if found:
                raise SystemExit(f"draw {number}: {len(found)} cases differ\n" + "\n\n".join(map(str, found)))
            seen += told.seen.total()
    print(f"{seen:,} cases, no disagreement (seed {options.seed}), {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
