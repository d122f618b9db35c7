"""Cases: a policy set and the requests asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tulle.security.decision import Request
from tulle.security.policies import PolicySet

T = TypeVar("T")


@dataclass(frozen=True)
class Disagreement:
    """A request that the engine and the data plane decide differently."""

    policies: PolicySet
    request: Request
    engine: bool
    live: str

    def __str__(self) -> str:
        targeted = self.policies._targeted.values()
        local = [*self.policies._local, *(policy for found in targeted for policy in found)]
        lines = [f"engine {'allows' if self.engine else 'denies'}, data plane: {self.live}", f"  {self.request}"]
        return "\n".join([*lines, *(f"  {policy}" for policy in local), f"  {self.policies.settings}"])


def drawn(strategy: st.SearchStrategy[T], count: int, number: int) -> list[T]:
    """`count` values, the same for the same `number`."""
    found: list[T] = []
    everything = list(HealthCheck)

    @seed(number)
    @settings(
        max_examples=count, phases=(Phase.generate,), database=None, deadline=None, suppress_health_check=everything
    )
    @given(strategy)
    def collect(value: T) -> None:
        found.append(value)

    collect()
    return found


def answers(found: Sequence[Disagreement]) -> str:
    """What to show when there are some."""
    return "\n".join(str(one) for one in found[:5])
