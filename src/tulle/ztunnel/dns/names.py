"""Which names of the mesh a question may mean: short names as Kubernetes expands them, and wildcards.  Pure.

Names are in small letters, without the final dot.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_SERVICES: Final = "svc"


@dataclass(frozen=True)
class Alias:
    """One reading of a question.  `stripped`: the question without the search domain that a resolver had appended."""

    name: str
    stripped: str = ""


def aliases(asked: str, namespace: str, domain: str) -> tuple[Alias, ...]:
    """Every reading of a question from a client in `namespace`, the most literal first."""
    found = {asked: Alias(asked)}
    for name in _expanded(asked, namespace, domain):
        found.setdefault(name, Alias(name))
    for search in (f"{namespace}.{_SERVICES}.{domain}", f"{_SERVICES}.{domain}", domain):
        stripped = asked.removesuffix(f".{search}")
        if stripped == asked:
            continue
        for name in (stripped, *_expanded(stripped, namespace, domain)):
            found.setdefault(name, Alias(name, stripped))
    return tuple(found.values())


def candidates(name: str) -> Iterator[str]:
    """The name itself, then the wildcards that cover it, the narrowest first."""
    yield name
    _, dot, rest = name.partition(".")
    while dot:
        yield f"*.{rest}"
        _, dot, rest = rest.partition(".")


def _expanded(name: str, namespace: str, domain: str) -> tuple[str, ...]:
    """The full names that a name of few labels may be short for: of a service, or of a host behind one."""
    labels = name.split(".")
    ends_in_services = labels[-1] == _SERVICES
    match len(labels):
        case 1:
            return (f"{name}.{namespace}.{_SERVICES}.{domain}",)
        case 2:
            return (f"{name}.{_SERVICES}.{domain}", f"{name}.{namespace}.{_SERVICES}.{domain}")
        case 3:
            full = (f"{name}.{domain}",) if ends_in_services else ()
            return (*full, f"{name}.{_SERVICES}.{domain}")
        case 4 if ends_in_services:
            return (f"{name}.{domain}",)
    return ()
