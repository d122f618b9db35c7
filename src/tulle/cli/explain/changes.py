"""The smallest change that lets a denied request pass: searched for, cheapest first, and tried before it is told.

A repair that does not suffice may still be the first half of one that does (a waypoint alone allows nothing), so repairs are strung
together. Every string is put to the world as an edit and the question is asked again; what is told has been seen to work.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from tulle.cli.explain.documents import InputError
from tulle.cli.explain.evaluate import Evaluation, Seen, evaluate
from tulle.cli.explain.patches import Change
from tulle.cli.explain.repairs import repairs
from tulle.cli.explain.route import Ask
from tulle.cli.explain.world import World

TRIES = 80
_LONGEST = 4


@dataclass(frozen=True)
class Verified:
    """A change, and what the client saw when it was tried. `purpose`: what it achieves."""

    change: Change
    seen: Seen
    purpose: str


def _undoes(before: Change, option: Change) -> bool:
    """Whether `option` takes away an object that `before` changed: without that first change it would be the smaller one."""
    return any(manifest is None and key in before.edits for key, manifest in option.edits.items())


def smallest(world: World, ask: Ask, evaluation: Evaluation) -> Verified | None:
    """The cheapest change after which every endpoint lets the request pass; None if there is none within reach."""
    counter = itertools.count()
    heap: list[tuple[int, int, int, Change]] = []
    tried: set[frozenset[str]] = set()

    def push(options: Iterable[Change], length: int, before: Change | None) -> None:
        for option in options:
            if before is not None and _undoes(before, option):
                continue
            change = option if before is None else before.then(option)
            if frozenset(change.commands) not in tried:
                tried.add(frozenset(change.commands))
                heapq.heappush(heap, (change.cost, next(counter), length, change))

    push(repairs(world, evaluation), 1, None)
    for _ in range(TRIES):
        if not heap:
            return None
        _, _, length, change = heapq.heappop(heap)
        result = _try(world, ask, change)
        if result is None:
            continue
        after, further = result
        if after.allowed:
            return Verified(change, after.seen, "allow it")
        if length < _LONGEST:
            push(further, length + 1, change)
    return None


def _try(world: World, ask: Ask, change: Change) -> tuple[Evaluation, tuple[Change, ...]] | None:
    """The answer in the changed world, and what could be tried next there; None for a change that would not be admitted."""
    try:
        with world.suppose(change.edits) as other:
            after = evaluate(other, ask)
            return after, tuple(repairs(other, after))
    except InputError:
        return None


def enforcing(world: World, ask: Ask, change: Change) -> Verified | None:
    """The change if, with it, a policy that was passed by is asked: the request is denied, or passes a waypoint."""
    result = _try(world, ask, change)
    if result is None:
        return None
    after, _ = result
    works = not after.allowed or after.way.waypoint is not None
    return Verified(change, after.seen, "have the policy enforced") if works else None
