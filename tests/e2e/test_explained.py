"""What `tulle explain` says of a request is what curl then sees: random policies, random requests, one real mesh."""

from __future__ import annotations

import asyncio
import os
import random

from tests.e2e.mesh import STATE, Mesh
from tests.explain.live import ground, traffic

ROUNDS, CASES = 13, 17
FEWEST = 200


def test_explain_foretells_live_traffic(mesh: Mesh) -> None:
    number = 1 if os.environ.get("CI") else random.randrange(10**6)
    made = mesh.apply(ground.manifests())
    assert made.code == 0, made.output
    mesh.ok("kubectl wait -A pod --all --for=condition=Ready --timeout=120s")
    mesh.ok("kubectl wait -A gateway --all --for=condition=Programmed --timeout=120s")
    told, different = asyncio.run(traffic.soak(str(STATE / "kubeconfig"), ROUNDS, CASES, number))
    assert different == [], f"draw {number}:\n" + "\n\n".join(map(str, different))
    assert told.seen.total() >= FEWEST
    assert {"200", "403", "503", "reset", "closed"} <= told.seen.keys()
