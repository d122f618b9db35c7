"""What goes wrong with one object stays with that object.

Anybody may write an object that nobody thought of, in his own namespace, and istiod computes the mesh of all namespaces in one go: a fault
that one object brings to light must cost that object and nothing else. So whatever is computed for one object alone is computed here, and
its caller says what holds instead: never more than the object could have allowed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog

T = TypeVar("T")
log = structlog.get_logger("tulle.istiod.objects")

_REMEDY = "correct or delete the object, and report what the traceback shows: it should have been refused"


def contained(attempt: Callable[[], T], otherwise: Callable[[], T], name: str, consequence: str) -> T:
    """What `attempt` gives, or `otherwise` if it raises; then the log has the object's `name`, the error and the `consequence`."""
    try:
        return attempt()
    except Exception:
        log.exception("an object cannot be used", object=name, consequence=consequence, remedy=_REMEDY)
        return otherwise()
