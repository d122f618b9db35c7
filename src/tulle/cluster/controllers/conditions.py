"""Status conditions: set one without moving the others, and keep its transition time while its status stays."""

from collections.abc import Sequence

from tulle.kube.objects import Condition, now


def find(conditions: Sequence[Condition], type_: str) -> Condition | None:
    """The condition of a type."""
    return next((c for c in conditions if c.type == type_), None)


def put(
    conditions: Sequence[Condition],
    type_: str,
    status: str,
    reason: str,
    message: str,
    *,
    with_update_time: bool = False,
) -> tuple[Condition, ...]:
    """``conditions`` with one set. Unchanged in status, reason and message it is left as it is."""
    before = find(conditions, type_)
    if before is not None and (before.status, before.reason, before.message) == (status, reason, message):
        return tuple(conditions)
    moment = now()
    kept = before is not None and before.status == status
    condition = Condition(
        type=type_,
        status=status,
        reason=reason,
        message=message,
        last_transition_time=before.last_transition_time if before is not None and kept else moment,
        last_update_time=moment if with_update_time else "",
    )
    return (*(c for c in conditions if c.type != type_), condition)


def drop(conditions: Sequence[Condition], type_: str) -> tuple[Condition, ...]:
    """``conditions`` without one type."""
    return tuple(c for c in conditions if c.type != type_)
