"""What a request's way brings to light besides its verdict: traps that no single object shows.

A finding is either a trap (something does not do what its author thinks) or a note (something that is right but surprises). A trap may
carry the change that would undo it; `changes.enforcing` tries that change before anybody is told. The traps themselves are in `traps`
(policies) and `surroundings` (capture, endpoints, certificates).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tulle.cli.explain.evaluate import Evaluation
from tulle.cli.explain.patches import Change
from tulle.cli.explain.world import World


@dataclass(frozen=True)
class Finding:
    """`id` is stable, for scripts. `fix` would undo a trap."""

    id: str
    text: str
    trap: bool = True
    fix: Change | None = None


Check = Callable[[World, Evaluation], Iterator[Finding]]


def note(name: str, text: str) -> Finding:
    return Finding(name, text, trap=False)
