"""Small formats that cells share."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

UNKNOWN = "<unknown>"
NONE = "<none>"
UNSET = "<unset>"


def parse_time(text: str) -> datetime.datetime | None:
    """An RFC 3339 time, or None; one without a zone is no such time, and has no age."""
    try:
        found = datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def human_duration(seconds: float) -> str:
    """A duration in at most two units, as people read ages (`59s`, `2m5s`, `3h`, `2d4h`, `3y12d`)."""
    total = int(seconds)
    if total < -1:
        return "<invalid>"
    if total < 0:
        return "0s"
    minutes, hours, days = total // 60, total // 3600, total // 86400
    for limit, text in (
        (total < 120, f"{total}s"),
        (minutes < 10, _two(minutes, "m", total % 60, "s")),
        (minutes < 180, f"{minutes}m"),
        (hours < 8, _two(hours, "h", minutes % 60, "m")),
        (hours < 48, f"{hours}h"),
        (hours < 24 * 8, _two(days, "d", hours % 24, "h")),
        (days < 365 * 2, f"{days}d"),
        (days < 365 * 8, _two(days // 365, "y", days % 365, "d")),
    ):
        if limit:
            return text
    return f"{days // 365}y"


def _two(big: int, big_unit: str, small: int, small_unit: str) -> str:
    return f"{big}{big_unit}{small}{small_unit}" if small else f"{big}{big_unit}"


def since(text: str | None, now: datetime.datetime) -> str:
    """Age of a time stamp."""
    when = parse_time(text) if text else None
    return UNKNOWN if when is None else human_duration((now - when).total_seconds())


def age(obj: Mapping[str, Any], now: datetime.datetime) -> str:
    """Age of an object."""
    return since(obj["metadata"].get("creationTimestamp"), now)


def pairs(labels: Mapping[str, Any] | None, empty: str = NONE) -> str:
    """`a=b,c=d` in key order."""
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items())) or empty


def selector(obj: Mapping[str, Any] | None) -> str:
    """A LabelSelector object as text."""
    if obj is None:
        return NONE
    parts = [f"{key}={value}" for key, value in (obj.get("matchLabels") or {}).items()]
    for expression in obj.get("matchExpressions") or ():
        key, values = expression["key"], ",".join(sorted(expression.get("values") or ()))
        match expression["operator"]:
            case "In":
                parts.append(f"{key} in ({values})")
            case "NotIn":
                parts.append(f"{key} notin ({values})")
            case "Exists":
                parts.append(key)
            case "DoesNotExist":
                parts.append(f"!{key}")
    return ",".join(sorted(parts)) or NONE


def containers(template: Mapping[str, Any]) -> tuple[str, str]:
    """(names, images) of a pod template's containers."""
    found = (template.get("spec") or {}).get("containers") or ()
    return ",".join(c.get("name", "") for c in found), ",".join(c.get("image", "") for c in found)


def joined(items: Sequence[str], limit: int = 0) -> str:
    """Comma-separated; above `limit` items the rest is counted (`a,b + 3 more...`)."""
    if not items:
        return NONE
    if limit and len(items) > limit:
        return f"{','.join(items[:limit])} + {len(items) - limit} more..."
    return ",".join(items)


def condition(obj: Mapping[str, Any], wanted: str) -> Mapping[str, Any] | None:
    """A condition of an object's status by its type."""
    found: Iterable[Mapping[str, Any]] = (obj.get("status") or {}).get("conditions") or ()
    return next((c for c in found if c.get("type") == wanted), None)
