"""The arithmetic of a Deployment's rollout, free of I/O: how many pods each ReplicaSet may have next.

The invariant through every step of a rolling update: never more than ``replicas + max_surge`` pods, never fewer than
``replicas - max_unavailable`` available ones, if there were as many at the start.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor

from tulle.kube.objects.apps import DeploymentSpec
from tulle.kube.objects.meta import IntOrString


@dataclass(frozen=True)
class SetState:
    """One ReplicaSet: ``replicas`` asked for, ``available`` reported, ``max_replicas`` as its annotation recorded."""

    name: str
    replicas: int
    available: int
    max_replicas: int | None = None


@dataclass(frozen=True)
class Limits:
    """Numbers of pods."""

    replicas: int
    max_surge: int
    max_unavailable: int

    @property
    def most(self) -> int:
        """The most pods that may exist."""
        return self.replicas + self.max_surge

    @property
    def fewest_available(self) -> int:
        """The fewest available pods."""
        return self.replicas - self.max_unavailable


def limits(spec: DeploymentSpec) -> Limits:
    """Percentages count against ``replicas``: surge rounded up, unavailable rounded down; not both may be zero."""
    replicas = 1 if spec.replicas is None else spec.replicas
    if spec.strategy.type != "RollingUpdate":
        return Limits(replicas, 0, 0)
    rolling = spec.strategy.rolling_update
    surge = scaled(rolling.max_surge if rolling else None, replicas, up=True)
    unavailable = scaled(rolling.max_unavailable if rolling else None, replicas, up=False)
    if surge == 0 and unavailable == 0:
        unavailable = 1
    return Limits(replicas, surge, min(unavailable, replicas))


def scaled(value: IntOrString | None, total: int, *, up: bool) -> int:
    """A number, or a percentage of ``total``; absent means 25%. Raises ValueError for other text."""
    if value is None:
        value = "25%"
    if isinstance(value, int):
        return value
    if not value.endswith("%") or not value[:-1].isdigit():
        raise ValueError(f"{value!r} is neither a number nor a percentage")
    exact = int(value[:-1]) * total / 100
    return ceil(exact) if up else floor(exact)


def new_replicas(limit: Limits, new: SetState, old: Sequence[SetState]) -> int:
    """How many replicas the new set may have now."""
    if new.replicas >= limit.replicas:
        return limit.replicas
    room = limit.most - new.replicas - sum(s.replicas for s in old)
    return new.replicas + max(0, min(room, limit.replicas - new.replicas))


def shrink_old(limit: Limits, new: SetState, old: Sequence[SetState]) -> dict[str, int]:
    """New sizes of the old sets that can shrink now; ``old`` comes oldest first.

    Pods that are not available go first, since removing them costs nothing; then available ones down to the limit.
    """
    total = new.replicas + sum(s.replicas for s in old)
    spare = total - limit.fewest_available - max(0, new.replicas - new.available)
    if spare <= 0:
        return {}
    sizes = {s.name: s.replicas for s in old}
    removed_unhealthy = 0
    for state in old:
        cut = min(spare - removed_unhealthy, state.replicas - min(state.available, state.replicas))
        if cut > 0:
            sizes[state.name] -= cut
            removed_unhealthy += cut
    available = min(new.available, new.replicas) + sum(min(s.available, s.replicas) for s in old)
    budget = min(available - limit.fewest_available, spare - removed_unhealthy)
    for state in old:
        cut = min(max(budget, 0), sizes[state.name])
        sizes[state.name] -= cut
        budget -= cut
    return {s.name: sizes[s.name] for s in old if sizes[s.name] != s.replicas}


def proportional(limit: Limits, sets: Sequence[SetState]) -> dict[str, int]:
    """Sizes after the Deployment was scaled in the middle of a rollout: each set grows or shrinks by its share.

    ``sets``: those with replicas, newest first; leftovers go to the largest; of equals, the newest grows and
    the oldest shrinks.
    """
    allowed = limit.most if limit.replicas > 0 else 0
    total = sum(s.replicas for s in sets)
    change = allowed - total
    order = sorted(sets if change > 0 else reversed(sets), key=lambda s: -s.replicas)
    sizes = {s.name: s.replicas for s in sets}
    added = 0
    for state in order:
        if change == 0:
            break
        share = _share(state, limit, state.max_replicas or total, change, change - added)
        sizes[state.name] = state.replicas + share
        added += share
    if order and added != change:
        sizes[order[0].name] = max(0, sizes[order[0].name] + change - added)
    return {s.name: sizes[s.name] for s in sets if sizes[s.name] != s.replicas}


def _share(state: SetState, limit: Limits, before: int, change: int, left: int) -> int:
    """The part of ``left`` that one set takes; ``before``: the most pods that the Deployment could have until now."""
    if limit.replicas == 0:
        return -state.replicas
    fraction = floor(state.replicas * limit.most / before + 0.5) - state.replicas
    return min(fraction, left) if change > 0 else max(fraction, left)
